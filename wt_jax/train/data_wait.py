"""Logs once when steps wait for data for most of their time, with what ends it."""

import collections
import logging
import os

from wt_jax.config import Config
from wt_jax.data.pack_locally import short_side_for
from wt_jax.data.records import VideoList
from wt_jax.experiment import build_method

log = logging.getLogger(__name__)

STEPS = 100  # in a row, of whose time more than half must be waiting


class DataWait:
    """Times and waits of the last steps of one process."""

    def __init__(self, config: Config, videos: VideoList):
        self._config, self._videos = config, videos
        self._steps: collections.deque[tuple[float, float]] = collections.deque(maxlen=STEPS)
        self._logged = False

    def add(self, seconds: float, waited: float) -> None:
        """Count a step: how long it took in all, and how long its batch was waited for."""
        if self._logged:
            return
        self._steps.append((seconds, min(waited, seconds)))
        total, waiting = map(sum, zip(*self._steps, strict=True))
        if len(self._steps) == STEPS and waiting > total / 2:
            self._logged = True
            percent = 100 * waiting / total
            log.warning("the last %d steps waited %.0f %% of their time for data: %s", STEPS, percent, self._advice())

    def _advice(self) -> str:
        data, cores = self._config.data, len(os.sched_getaffinity(0))
        advice = []
        if data.workers < cores:
            advice.append(f"stop it and start it again with --config.data.workers={cores} (now {data.workers}), it goes on")
        if not any(".array_record#" in path for path in self._videos.paths[:1]):
            try:
                short_side = short_side_for(build_method(self._config).views.values())
            except ValueError:
                pass  # reads what a pack does not keep
            else:
                same = f"wt-jax pack {data.train} DIR --short_side={short_side}"
                advice.append(
                    f"re-encode the videos once, in a new --workdir with --config.data.pack=DIR (`{same}` is its work)"
                )
        if not data.cache_gib:
            advice.append("keep decoded frames with --config.data.cache_gib=G, if they fit in memory once per worker")
        advice.append("see where the time goes with `wt-jax bench-loader` and this --config")
        return "; or ".join(advice)
