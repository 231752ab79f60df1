"""Answers queries: a moment of the index or seconds of another clip, examples and counterexamples, filters.

The command line and the page ask the same engine.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wt_jax.errors import SearchError
from wt_jax.eval.protocols.retrieval import retrieval_hits
from wt_jax.search.build import windows_of
from wt_jax.search.exported import load_exported
from wt_jax.search.scan import Hits, Scan, combined
from wt_jax.search.store import ENCODER, Snapshot, VideoEntry, open_store

log = logging.getLogger(__name__)

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class Filters:
    """Which moments may be found; what is empty or None restricts nothing.

    Attributes:
      folders: videos that lie in or below one of them.
      labels: names of classes.
      columns: column -> the values that are welcome.
      videos: ids of videos.
      not_videos: ids of videos that are left out.
      duration: least and most seconds of the video.
      changed: earliest and latest time of change of the file, seconds since 1970.
    """

    folders: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    videos: tuple[int, ...] = ()
    not_videos: tuple[int, ...] = ()
    duration: tuple[float | None, float | None] = (None, None)
    changed: tuple[float | None, float | None] = (None, None)

    @property
    def is_empty(self) -> bool:
        """Whether every moment may be found."""
        return self == Filters()

    def passes(self, video: VideoEntry) -> bool:
        """Whether moments of a video may be found."""
        return (
            (not self.folders or any(video.path.startswith(folder.rstrip("/") + "/") for folder in self.folders))
            and (not self.labels or video.label in self.labels)
            and all(video.columns.get(name) in values for name, values in self.columns.items())
            and (not self.videos or video.id in self.videos)
            and video.id not in self.not_videos
            and _within(video.duration, self.duration)
            and (self.changed == (None, None) or _within(changed_at(video), self.changed))
        )


@dataclass(frozen=True)
class Result:
    """One moment that was found.

    Attributes:
      moment: its row, which names it until the index is compacted.
      video: whose it is.
      start, end: seconds.
      score: cosine in [-1, 1].
      percentile: of random pairs of moments that are less alike, in [0, 100].
    """

    moment: int
    video: VideoEntry
    start: float
    end: float
    score: float
    percentile: float


@dataclass(frozen=True)
class Answer:
    """Results, best first, and whether any of them counts as alike: see `Scan.least_alike`."""

    results: tuple[Result, ...]
    alike: bool
    least_alike: float


class Engine:
    """An index in memory, kept up to date with what other processes commit. Any number of threads may ask."""

    def __init__(self, folder: Path):
        """Open an index.

        Raises:
          SearchError: there is none, or it is damaged.
        """
        self.folder = folder
        self.encoder = load_exported(folder / ENCODER)
        with open_store(folder) as store:
            self.windows = windows_of(store.settings(), self.encoder)
            snapshot = store.snapshot()
        if snapshot.settings["fingerprint"] != self.encoder.facts.fingerprint:
            raise SearchError(f"{folder}: {ENCODER} is not the encoder that made the index; put its own there, or index anew")
        self._scan = Scan(snapshot)
        self._refreshing = threading.Lock()

    @property
    def scan(self) -> Scan:
        """The newest snapshot in memory; use one for the whole of a request."""
        return self._scan

    def refresh(self) -> bool:
        """Load what has been committed since; searches go on meanwhile with what is there. Returns whether there was any."""
        if not self._refreshing.acquire(blocking=False):
            return False
        try:
            with open_store(self.folder) as store:
                if store.version() == self._scan.snapshot.version:
                    return False
                self._scan = Scan(store.snapshot())
            return True
        finally:
            self._refreshing.release()

    def encode(self, clips: np.ndarray) -> np.ndarray:
        """Features (n, D) of moments' clips uint8 (n, clips, T, S, S, 3), not yet centered."""
        features = self.encoder(clips.reshape(-1, *clips.shape[2:]))
        return features.reshape(len(clips), clips.shape[1], -1).mean(axis=1)

    def search(
        self,
        scan: Scan,
        examples: np.ndarray,
        against: np.ndarray | None = None,
        *,
        count: int = 24,
        filters: Filters | None = None,
        threshold: float = -1.0,
        one_per_video: bool = False,
    ) -> Answer:
        """The moments most like examples and least like counterexamples.

        Args:
          scan: what to search.
          examples: (n, D) float32 of length 1, see `Scan.normalized` and `Scan.unit`.
          against: (m, D), counterexamples; n + m is at least 1.
          count: how many results at most.
          filters: which moments may be found.
          threshold: least score of a result.
          one_per_video: show the best moment of each video alone.
        """
        against = np.zeros((0, examples.shape[1]), np.float32) if against is None else against
        allowed = allowed_moments(scan.snapshot, filters or Filters())
        hits = scan.search(combined(examples, against), count, allowed, one_per_video=one_per_video)
        alike = bool(len(hits.scores)) and float(hits.scores[0]) >= scan.least_alike
        return Answer(results_of(scan, hits, threshold), alike, scan.least_alike)


def results_of(scan: Scan, hits: Hits, threshold: float = -1.0) -> tuple[Result, ...]:
    """Hits with all that a person wants to know of them; scores below the threshold are left out."""
    snapshot, percentiles = scan.snapshot, scan.percentile(hits.scores)
    return tuple(
        Result(
            int(snapshot.rows[place]),
            snapshot.videos[int(snapshot.video_ids[place])],
            float(snapshot.times[place][0]),
            float(snapshot.times[place][1]),
            float(score),
            float(percentile),
        )
        for place, score, percentile in zip(hits.places.tolist(), hits.scores, percentiles, strict=True)
        if score >= threshold
    )


def places_of(snapshot: Snapshot, moments: Sequence[int]) -> np.ndarray:
    """Places of moments by their names.

    Raises:
      SearchError: one of them is not in the index (any more).
    """
    wanted = np.asarray(moments, np.int64)
    places = np.searchsorted(snapshot.rows, wanted)
    found = places < len(snapshot.rows)
    found[found] = snapshot.rows[places[found]] == wanted[found]
    if not found.all():
        raise SearchError(f"moment {int(wanted[~found][0])} is not in the index any more; search again")
    return places


def allowed_moments(snapshot: Snapshot, filters: Filters) -> np.ndarray | None:
    """(N,) bool, the moments of videos that pass; None where all do."""
    if filters.is_empty:
        return None
    passing = np.zeros(max(snapshot.videos, default=0) + 1, bool)
    for video in snapshot.videos.values():
        passing[video.id] = filters.passes(video)
    return passing[snapshot.video_ids]


def recall(scan: Scan, leave_out: str = "") -> dict[int, float]:
    """Recall at 1, 5 and 10 of videos by the mean of their moments: the retrieval protocol, each video against all others.

    Args:
      scan: the index; its labeled videos count.
      leave_out: a column; the videos of each value (a person, say) are then compared with those of other values alone, and
        centered by their own mean, as in an evaluation with that column left out. Without it all have one center.

    Raises:
      SearchError: fewer than two labeled videos, or no such column.
    """
    snapshot = scan.snapshot
    videos = [video for video in snapshot.videos.values() if video.label]
    if len(videos) < 2:
        raise SearchError("recall needs labels: two labeled videos or more")
    if leave_out and not all(leave_out in video.columns for video in videos):
        raise SearchError(f"the list has no column {leave_out!r} for every video")
    place = {video.id: number for number, video in enumerate(videos)}
    features = np.zeros((len(videos), snapshot.features.shape[1]))
    counts = np.zeros(len(videos))
    for moment, video in enumerate(snapshot.video_ids.tolist()):
        if video in place:
            features[place[video]] += snapshot.features[snapshot.rows[moment]]
            counts[place[video]] += 1
    features = features / counts[:, None]
    features -= features.mean(axis=0)
    names = sorted({video.label for video in videos})
    labels = np.array([names.index(video.label) for video in videos])
    groups = np.array([video.columns[leave_out] if leave_out else str(video.id) for video in videos])
    hits: dict[int, list[np.ndarray]] = {k: [] for k in RECALL_AT}
    for group in sorted(set(groups.tolist())):
        mine = groups == group
        if mine.all():
            raise SearchError(f"every video has the same value of {leave_out!r}: nothing is left to compare with")
        if leave_out and 1 in (mine.sum(), (~mine).sum()):
            raise SearchError(f"{leave_out!r} sets a single video apart, {group}; its features have no mean of their own")
        found = retrieval_hits(features[mine], labels[mine], features[~mine], labels[~mine], RECALL_AT, center=bool(leave_out))
        for k in RECALL_AT:
            hits[k].append(found[k])
    return {k: float(np.concatenate(parts).mean()) for k, parts in hits.items()}


def changed_at(video: VideoEntry) -> float:
    """When its file was changed, seconds since 1970; 0 where that is not known."""
    nanoseconds = video.state.partition(":")[2]
    return int(nanoseconds) / 1e9 if nanoseconds else 0.0


def _within(value: float, bounds: tuple[float | None, float | None]) -> bool:
    low, high = bounds
    return (low is None or value >= low) and (high is None or value <= high)
