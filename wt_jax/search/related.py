"""More questions to an index: where does a short clip lie, which videos are near copies, what does the whole look like?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wt_jax.search.scan import Hits, Scan

_SPEEDS = (0.8, 0.9, 1.0, 1.1, 1.25)
_MOST_PRODUCTS = 60_000_000  # similarities at once while a clip is located
_CANDIDATES = 200
_MOST_COMPARISONS = 2_000_000_000  # of near duplicates, in one answer
_COPY_NEIGHBORS = 8
_MAP_POINTS = 3000


@dataclass(frozen=True)
class Copy:
    """Two videos that are alike in many moments.

    Attributes:
      moments: a place of each, the pair that is most alike.
      score: of that pair.
      fraction: of the first video's compared moments that have a near copy in the second.
    """

    moments: tuple[int, int]
    score: float
    fraction: float


@dataclass(frozen=True)
class Copies:
    """Near duplicates, the likeliest first; `checked` moments out of `total` were compared with all others."""

    pairs: tuple[Copy, ...]
    checked: int
    total: int


def locate(scan: Scan, rows: Sequence[np.ndarray], count: int, allowed: np.ndarray | None = None) -> Hits:
    """Where a clip lies within the videos: its windows in a row against moments in a row, at several speeds.

    Args:
      scan: the index.
      rows: each (n, D) float32 of length 1: a clip's windows, as far apart as the index's moments, begun at one or more phases.
      count: how many places at most; those of a video that overlap count once.
      allowed: (N,) bool, moments of the videos to look into; None: all.

    Returns:
      Hits at the first moment of each stretch, scored by the mean cosine over the clip's windows at the best phase and speed.
    """
    places = _candidates(scan, rows[0], allowed)
    ids = scan.snapshot.video_ids[places]
    best = np.full(len(places), -np.inf, np.float32)
    for clip in rows:
        products = scan.scores(clip, places)
        for speed in _SPEEDS:
            best = np.maximum(best, _in_a_row(products, np.round(np.arange(len(clip)) / speed).astype(int), ids))
    chosen, least = [], max(len(rows[0]), 2)
    for place in np.argsort(-best, kind="stable").tolist():
        if len(chosen) == count or best[place] == -np.inf:
            break
        if all(ids[place] != ids[other] or abs(place - other) >= least for other in chosen):
            chosen.append(place)
    return Hits(places[chosen], best[chosen])


def _in_a_row(products: np.ndarray, offsets: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The mean of products (n, N) of a clip's windows with moments, window i so many places on; -inf beyond the video's end."""
    total, inside = np.zeros(len(ids), np.float32), np.ones(len(ids), bool)
    for row, offset in zip(products, offsets.tolist(), strict=True):
        last = max(len(ids) - offset, 0)
        total[:last] += row[offset:]
        inside[last:] = False
        inside[:last] &= ids[offset:] == ids[:last]
    return np.where(inside, total / len(products), -np.inf)


def _candidates(scan: Scan, clip: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
    """Places of all moments of the videos worth comparing with, in order: all, or those that plain searches name."""
    keep = np.ones(len(scan), bool) if allowed is None else allowed
    if len(clip) * np.count_nonzero(keep) > _MOST_PRODUCTS:
        step = max(len(clip) // 8, 1)
        found = [scan.search(window, _CANDIDATES, allowed).places for window in clip[::step]]
        keep = keep & np.isin(scan.snapshot.video_ids, scan.snapshot.video_ids[np.concatenate(found)])
    return np.flatnonzero(keep)


def near_duplicates(scan: Scan, least: float, count: int, videos: Sequence[int] = ()) -> Copies:
    """Pairs of videos with moments that are almost the same.

    Args:
      scan: the index.
      least: cosine from which two moments count as copies.
      count: pairs at most.
      videos: ids of the videos to compare with all others; empty: all, evenly thinned where that would take too long.
    """
    snapshot = scan.snapshot
    asked = np.flatnonzero(np.isin(snapshot.video_ids, videos)) if videos else np.arange(len(scan))
    step = max(-(-len(asked) * len(scan) // _MOST_COMPARISONS), 1)
    checked = asked[::step]
    if not len(checked):
        return Copies((), 0, len(asked))
    matched: dict[tuple[int, int], list[tuple[float, int, int]]] = {}
    per_video: dict[int, int] = {}
    for start in range(0, len(checked), 4096):
        rows = checked[start : start + 4096]
        scores, found = scan.search_many(scan.unit(rows), min(_COPY_NEIGHBORS, len(scan)))
        for place, near, values in zip(rows.tolist(), found.tolist(), scores.tolist(), strict=True):
            own = int(snapshot.video_ids[place])
            per_video[own] = per_video.get(own, 0) + 1
            seen = set()
            for other, score in zip(near, values, strict=True):
                theirs = int(snapshot.video_ids[other]) if other >= 0 else own
                if theirs != own and theirs not in seen and score >= least:
                    seen.add(theirs)
                    matched.setdefault((own, theirs), []).append((score, place, other))
    pairs: dict[tuple[int, int], Copy] = {}
    for (own, theirs), found in matched.items():
        score, place, other = max(found)
        copy = Copy((place, other), min(score, 1.0), len(found) / per_video[own])
        key = (min(own, theirs), max(own, theirs))
        if key not in pairs or copy.fraction > pairs[key].fraction:
            pairs[key] = copy
    ranked = sorted(pairs.values(), key=lambda copy: (-copy.fraction, -copy.score, copy.moments))
    return Copies(tuple(ranked[:count]), len(checked), len(asked))


def layout(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """A map of the index: places (n,) of evenly chosen moments and points (n, 2) in [0, 1], the main axes of their features.

    Each axis shows ranks, so that a few far moments do not press all others together.
    """
    count = len(scan)
    places = np.unique(np.linspace(0, count - 1, min(count, _MAP_POINTS)).astype(np.int64)) if count else np.zeros(0, np.int64)
    if len(places) < 3:
        return places, np.full((len(places), 2), 0.5)
    features = scan.unit(places).astype(np.float64)
    features -= features.mean(axis=0)
    _, axes = np.linalg.eigh(features.T @ features)
    points = features @ axes[:, -1:-3:-1]
    ranks = points.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    spread = (points - points.min(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-9)
    return places, 0.5 * spread + 0.5 * ranks / (len(places) - 1)
