"""Exact search in memory: every live moment is compared with the query, by cosine after centering.

Features are centered by the mean of the archive and scaled to length 1, as the retrieval protocol does
(`wt_jax.eval.protocols.retrieval`), then held as float16 in a flat index of FAISS; the best 50 are ranked again in float32 from
the file of features. A graph would be faster on many millions, but loses queries that are unlike anything indexed, and most
queries under a filter.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import faiss  # pyright: ignore[reportMissingImports]  # of an extra
import numpy as np

from wt_jax.search.store import Snapshot

_RERANKED = 50
_CHUNK = 1 << 16  # rows
_MEAN_ROWS = 200_000
_PAIRS = 50_000
_PROBES, _PROBE_ROWS = 96, 100_000
_UNLIKE = 0.02  # of the archive's own moments have a worst nearest neighbor than what counts as alike


@dataclass(frozen=True)
class Hits:
    """Moments, best first.

    Attributes:
      places: (k,) int64, into the arrays of the snapshot.
      scores: (k,) float32, cosines in [-1, 1].
    """

    places: np.ndarray
    scores: np.ndarray


class Scan:
    """A snapshot that can be searched; nothing of it changes, so any number of threads may ask."""

    def __init__(self, snapshot: Snapshot):
        self.snapshot = snapshot
        self.center = center_of(snapshot)
        dim = snapshot.features.shape[1]
        self._index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        for chunk in _chunks(len(snapshot.rows)):
            self._index.add(self.unit(chunk))

    def __len__(self) -> int:
        return len(self.snapshot.rows)

    def unit(self, places: np.ndarray | slice) -> np.ndarray:
        """Centered features of length 1 of the moments at these places: (n, D) float32."""
        return self.normalized(self.snapshot.features[self.snapshot.rows[places]])

    def normalized(self, features: np.ndarray) -> np.ndarray:
        """Features (n, D) of an encoder as they are compared: centered by the archive's mean, of length 1, float32."""
        return unit_rows(np.asarray(features, np.float32) - self.center)

    def search(self, query: np.ndarray, count: int, allowed: np.ndarray | None = None, *, one_per_video: bool = False) -> Hits:
        """The moments most like a query.

        Args:
          query: (D,) float32 of length 1, see `normalized`.
          count: how many, at least 1; there may be fewer.
          allowed: (N,) bool, which moments may be found; None: all.
          one_per_video: keep the best moment of each video alone.

        Returns:
          Hits in descending order of their float32 scores, the lower place first among equals.
        """
        total = len(self) if allowed is None else int(np.count_nonzero(allowed))
        wanted = max(_RERANKED, 2 * count)
        while True:
            hits = self._ranked(query, min(wanted, total), allowed)
            if one_per_video:
                _, first = np.unique(self.snapshot.video_ids[hits.places], return_index=True)
                first.sort()
                hits = Hits(hits.places[first], hits.scores[first])
            if len(hits.places) >= count or wanted >= total:
                return Hits(hits.places[:count], hits.scores[:count])
            wanted *= 8

    def scores(self, queries: np.ndarray, places: np.ndarray | slice) -> np.ndarray:
        """Cosines (Q, n) float32 of queries (Q, D), each of length 1, to the moments at these places."""
        return queries @ self.unit(places).T

    def search_many(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and places (Q, count) of the float16 index for queries (Q, D) of length 1; place -1 where there is none."""
        return self._index.search(np.ascontiguousarray(queries, np.float32), count)

    def percentile(self, scores: np.ndarray) -> np.ndarray:
        """Which percentage of random pairs of moments of two videos is less alike than each score."""
        pairs = self._random_pairs
        return 100.0 * np.searchsorted(pairs, scores) / max(len(pairs), 1)

    @functools.cached_property
    def least_alike(self) -> float:
        """The score below which nothing counts as alike: what but 2 % of the archive's moments find in other videos."""
        rng = np.random.default_rng(0)
        if len(self.snapshot.videos) < 3:
            return -1.0
        probes = rng.choice(len(self), min(_PROBES, len(self)), replace=False)
        others = np.sort(rng.choice(len(self), min(_PROBE_ROWS, len(self)), replace=False))
        best = np.full(len(probes), -1.0, np.float32)
        queries, own = self.unit(probes), self.snapshot.video_ids[probes]
        for chunk in _chunks(len(others)):
            scores = self.scores(queries, others[chunk])
            scores[own[:, None] == self.snapshot.video_ids[others[chunk]][None]] = -1.0
            best = np.maximum(best, scores.max(axis=1))
        return float(np.quantile(best, _UNLIKE))

    @functools.cached_property
    def _random_pairs(self) -> np.ndarray:
        """Cosines of random pairs of moments of two videos, ascending."""
        rng, count = np.random.default_rng(0), len(self)
        if len(self.snapshot.videos) < 2:
            return np.zeros(0, np.float32)
        first, second = rng.integers(count, size=(2, _PAIRS))
        apart = self.snapshot.video_ids[first] != self.snapshot.video_ids[second]
        first, second = first[apart], second[apart]
        return np.sort(np.einsum("nd,nd->n", self.unit(first), self.unit(second)))

    def _ranked(self, query: np.ndarray, count: int, allowed: np.ndarray | None) -> Hits:
        if not count:
            return Hits(np.zeros(0, np.int64), np.zeros(0, np.float32))
        parameters = None
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))
            parameters = faiss.SearchParameters(sel=selector)  # pyright: ignore[reportCallIssue]: made by SWIG
        _, found = self._index.search(np.ascontiguousarray(query[None], np.float32), count, params=parameters)
        places = np.sort(found[0][found[0] >= 0])
        scores = self.scores(query[None], places)[0]
        order = np.argsort(-scores, kind="stable")
        return Hits(places[order], scores[order])


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows (n, D) float32 scaled to length 1; zeros stay zeros."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def combined(examples: np.ndarray, against: np.ndarray) -> np.ndarray:
    """One query (D,) of length 1 from examples (n, D) and counterexamples (m, D), n + m at least 1 (Rocchio 1971).

    Counterexamples weigh half as much.
    """
    query = np.zeros(examples.shape[1], np.float32)
    if len(examples):
        query += examples.mean(axis=0)
    if len(against):
        query -= 0.5 * against.mean(axis=0)
    return unit_rows(query[None])[0]


def center_of(snapshot: Snapshot) -> np.ndarray:
    """The mean of the moments, of a fixed sample where they are many, or what the index keeps as such: (D,) float32."""
    if kept := snapshot.settings.get("center"):
        return np.array(kept, np.float32)
    count = len(snapshot.rows)
    if not count:
        return np.zeros(snapshot.features.shape[1], np.float32)
    step = max(count // _MEAN_ROWS, 1)
    rows, total = snapshot.rows[::step], np.zeros(snapshot.features.shape[1])
    for chunk in _chunks(len(rows)):
        total += snapshot.features[rows[chunk]].sum(axis=0, dtype=np.float64)
    return (total / len(rows)).astype(np.float32)


def _chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, _CHUNK):
        yield slice(start, min(start + _CHUNK, count))
