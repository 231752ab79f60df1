"""Frame-mAP: the average precision of labelled boxes at key frames, as AVA's official evaluator has it.

Source: activitynet/ActivityNet, Evaluation/get_ava_performance.py and Evaluation/ava (PASCAL's measure). Per class, detections
go by falling score to the one box of their frame and class that they overlap most; they are right where the overlap is at least
a half and that box has none yet. There is no second choice. The area is that under the precision envelope, at all points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OVERLAP = 0.5
MOST = 50  # detections of a frame that the official reader keeps, those of the highest scores


@dataclass(frozen=True)
class Frame:
    """One key frame.

    Attributes:
      truth: (G, 4) float boxes: left, top, right, bottom.
      labels: (G, C) bool, the classes of each.
      boxes: (D, 4) float boxes that were classified.
      scores: (D, C) float, the higher the likelier; -inf is no detection.
    """

    truth: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union (D, G) float64 of boxes (D, 4) and (G, 4)."""
    boxes, others = np.asarray(boxes, np.float64)[:, None], np.asarray(others, np.float64)[None]
    sides = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    shared = np.prod(np.maximum(sides, 0), axis=-1)
    areas = [np.prod(each[..., 2:] - each[..., :2], axis=-1) for each in (boxes, others)]
    return shared / (areas[0] + areas[1] - shared)


def frame_precisions(frames: Sequence[Frame], classes: Sequence[int], most: int = MOST) -> np.ndarray:
    """Average precision of each of some classes.

    Args:
      frames: key frames with a ground truth, even if none of its boxes has one of the classes; others do not count.
      classes: columns of labels and scores that are evaluated.
      most: detections of a frame that are kept, over all these classes; 0: all (PySlowFast keeps all).

    Returns:
      (len(classes),) float64 in [0, 1], NaN for a class without ground truth. Equal scores are in the order of the frames.
    """
    chosen = np.asarray(classes, np.int64)
    scores: list[list[np.ndarray]] = [[] for _ in chosen]
    right: list[list[np.ndarray]] = [[] for _ in chosen]
    counts = np.zeros(len(chosen), np.int64)
    for frame in frames:
        counts += frame.labels[:, chosen].sum(axis=0)
        table = _kept(np.asarray(frame.scores, np.float64)[:, chosen], most)
        table[~((frame.boxes[:, 0] < frame.boxes[:, 2]) & (frame.boxes[:, 1] < frame.boxes[:, 3]))] = -np.inf
        near = overlaps(frame.boxes, frame.truth)
        for column in np.flatnonzero((table > -np.inf).any(axis=0)):
            order = np.argsort(-table[:, column], kind="stable")
            order = order[table[order, column] > -np.inf]
            scores[column].append(table[order, column])
            right[column].append(_matched(near[order][:, frame.labels[:, chosen[column]]]))
    return np.array(
        [
            _area(_joined(s, float), _joined(r, bool), count) if count else np.nan
            for s, r, count in zip(scores, right, counts.tolist(), strict=True)
        ]
    )


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def _kept(table: np.ndarray, most: int) -> np.ndarray:
    """A copy of the scores (D, C), all but the `most` highest replaced by -inf."""
    table = table.copy()
    if most and table.size > most:
        table.reshape(-1)[np.argsort(-table, axis=None, kind="stable")[most:]] = -np.inf
    return table


def _matched(near: np.ndarray) -> np.ndarray:
    """Which detections (D,), by falling score, are right; `near` are their overlaps (D, G) with the boxes of the class."""
    found = np.zeros(len(near), bool)
    if near.shape[1]:
        best = near.argmax(axis=1)
        close = np.flatnonzero(near[np.arange(len(near)), best] >= OVERLAP)
        found[close[np.unique(best[close], return_index=True)[1]]] = True  # the first of each box
    return found


def _area(scores: np.ndarray, right: np.ndarray, count: int) -> float:
    """Area under the precision envelope of detections of a class that has `count` boxes."""
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(np.sum(np.diff(hits / count, prepend=0.0) * precision))
