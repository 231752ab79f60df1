"""Videos that could not be decoded: counted over all processes, named in `bad_videos.jsonl`, an error if too many."""

import json
import logging
from pathlib import Path

import numpy as np

from wt_jax.cluster.processes import is_primary_process
from wt_jax.data.pipeline import describe_failure
from wt_jax.data.sources.open import VideoList
from wt_jax.errors import TrainingError

log = logging.getLogger(__name__)


class BadVideos:
    """Every process counts the failures of all; the primary process finds the causes and writes them."""

    def __init__(self, videos: VideoList, workdir: Path, max_fraction: float):
        self._videos, self._path, self._max = videos, workdir / "bad_videos.jsonl", max_fraction * len(videos)
        self._known: dict[str, str] = {}
        if self._path.exists():
            lines = map(json.loads, self._path.read_text().splitlines())
            self._known = {line["path"]: line["cause"] for line in lines}

    def add(self, failed: np.ndarray) -> None:
        """Count the indices (B,) of a batch, -1 where a video was decoded; raises TrainingError past the threshold."""
        for index in np.unique(failed[failed >= 0]):
            record = self._videos[int(index)]
            if record.path in self._known:
                continue
            self._known[record.path] = record.path
            if is_primary_process():
                cause = self._known[record.path] = describe_failure(record)
                with self._path.open("a") as file:
                    file.write(json.dumps({"path": record.path, "cause": cause}) + "\n")
                log.warning("cannot be decoded, another video takes its place: %s", cause)
        if len(self._known) > self._max:
            names = "; ".join(list(self._known.values())[:3])
            raise TrainingError(
                f"{len(self._known)} of {len(self._videos)} videos cannot be decoded, more than "
                f"config.data.max_bad_fraction allows; all are listed in {self._path}; the first: {names}"
            )

    def log_count(self) -> None:
        """Log how many there are, if any."""
        if self._known:
            log.warning("%d videos could not be decoded; they are listed in %s", len(self._known), self._path)
