"""From predictions to numbers: accuracies, per-class results, confusion matrices and bootstrap intervals.

Every protocol ends in a `Result`: its values of each test item. All numbers follow from that. All scores are fractions in
[0, 1]. A test class that is absent from training is allowed; its items count as wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

# Random numbers held at once while resampling: 2^22 int64 counts are 32 MiB.
_CHUNK_VALUES = 2**22


class Number(NamedTuple):
    """A score and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """The values of one protocol for each test item, of one split or of several.

    Attributes:
      items: (R,) integers or text, the item of a row; an item of several splits or draws has several rows.
      folds: (R,) int32, split and draw of a row. A number is the mean over the folds of the mean over their rows.
      labels: (R,) int32.
      values: {name of the number: (R,) float64}, 1 or 0 for hits, an average precision for the mean average precision.
      predictions: (R,) int32 classes; None where a protocol makes none or several.
      chosen: what was chosen on the training set, once per fit.
    """

    items: np.ndarray
    folds: np.ndarray
    labels: np.ndarray
    values: Mapping[str, np.ndarray]
    predictions: np.ndarray | None = None
    chosen: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    def pooled(self) -> "Result":
        """The same rows as one fold: parts of one test set, as where groups are left out in turn."""
        return replace(self, folds=np.zeros_like(self.folds))

    def numbers(self) -> dict[str, Number]:
        """The headline numbers with their intervals."""
        names = list(self.values)
        table = np.stack([np.asarray(self.values[name], np.float64) for name in names], axis=1)
        lows, highs = bootstrap_intervals(table, self.items, self.folds)
        means = fold_means(table, self.folds)
        return {
            name: Number(float(mean), float(low), float(high))
            for name, mean, low, high in zip(names, means, lows, highs, strict=True)
        }


def hits(ranked: np.ndarray, labels: np.ndarray, suffix: str = "") -> dict[str, np.ndarray]:
    """Per-item values "top1" and, where five classes are ranked, "top5" of (R, K) ranked classes, K at least 1."""
    right = np.asarray(ranked) == np.asarray(labels)[:, None]
    values = {f"top1{suffix}": right[:, 0].astype(np.float64)}
    if right.shape[1] >= 5:
        values[f"top5{suffix}"] = right[:, :5].any(axis=1).astype(np.float64)
    return values


def join(results: Sequence[Result]) -> Result:
    """The rows of several results, each with folds of its own.

    A number that not every result has is left out: top-5 of a fold with too few classes, for one.
    """
    shift, folds = 0, []
    for result in results:
        folds.append(result.folds + np.int32(shift))
        shift += int(result.folds.max()) + 1
    names = [name for name in results[0].values if all(name in result.values for result in results)]
    predictions = [result.predictions for result in results if result.predictions is not None]
    return Result(
        items=np.concatenate([result.items for result in results]),
        folds=np.concatenate(folds),
        labels=np.concatenate([result.labels for result in results]),
        values={name: np.concatenate([result.values[name] for result in results]) for name in names},
        predictions=np.concatenate(predictions) if len(predictions) == len(results) else None,
        chosen=[choice for result in results for choice in result.chosen],
    )


def fold_means(values: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(R, ...) values of rows -> the mean over the folds of the mean over each fold's rows."""
    return np.mean([values[folds == fold].mean(axis=0) for fold in np.unique(folds)], axis=0)


def top1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of the items whose predicted class is right; both (N,) integers.

    Raises:
      ValueError: empty arrays or different shapes.
    """
    predictions, labels = _checked(predictions, labels)
    return float((predictions == labels).mean())


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, num_classes: int | None = None) -> np.ndarray:
    """Counts of (true class, predicted class).

    Args:
      predictions: (N,) integer classes.
      labels: (N,) integer classes.
      num_classes: C; None means the largest class in either array plus 1.

    Returns:
      (C, C) int64; row t, column p counts the items of class t predicted as p.

    Raises:
      ValueError: empty arrays, different shapes, or a class of C or above.
    """
    predictions, labels = _checked(predictions, labels)
    largest = int(max(predictions.max(), labels.max()))
    num_classes = largest + 1 if num_classes is None else num_classes
    if largest >= num_classes:
        raise ValueError(f"class {largest} occurs with num_classes={num_classes}; raise num_classes")
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def per_class_accuracy(predictions: np.ndarray, labels: np.ndarray, num_classes: int | None = None) -> np.ndarray:
    """Fraction of right predictions among the items of each class.

    Args and errors are those of `confusion_matrix`.

    Returns:
      (C,) float64 in [0, 1]; NaN for a class without items.
    """
    counts = confusion_matrix(predictions, labels, num_classes)
    items = counts.sum(axis=1)
    return np.where(items > 0, counts.diagonal() / np.maximum(items, 1), np.nan)


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """`bootstrap_intervals` of one number of one test set: `values` (N,) bool or float, one per item; (low, high)."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"values has shape {values.shape}; pass one number per test item")
    items, folds = np.arange(len(values)), np.zeros(len(values), np.int32)
    lows, highs = bootstrap_intervals(values[:, None], items, folds, level=level, resamples=resamples, seed=seed)
    return float(lows[0]), float(highs[0])


def bootstrap_intervals(
    values: np.ndarray,
    items: np.ndarray,
    folds: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap intervals of means over folds (Efron and Tibshirani 1993, chapter 13).

    Items are drawn with replacement, each with all its rows: a video that several splits or draws test is one item, not
    several. The interval covers the choice of test videos, not that of training videos or of the seed. If all rows are right
    (or wrong) it is a point, which is the method's known weakness with few items.

    Args:
      values: (R, V) one column per number.
      items: (R,) the item of each row.
      folds: (R,) the fold of each row.
      level: coverage, between 0 and 1.
      resamples: draws.
      seed: of the draws.

    Returns:
      Lower and upper bounds, each (V,).

    Raises:
      ValueError: no rows, rows that do not fit, values that are not finite, or a level outside (0, 1).
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not len(values) or not len(values) == len(items) == len(folds):
        raise ValueError(f"values {values.shape}, items {np.shape(items)} and folds {np.shape(folds)} do not fit together")
    if not np.isfinite(values).all():
        raise ValueError("values has NaN or infinity; every test item needs a value")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; pass a number between 0 and 1, such as 0.95")
    names, item = np.unique(items, return_inverse=True)
    sums, sizes = [], []  # per fold: (items, V) sums and (items,) counts of an item's rows
    for fold in np.unique(folds):
        rows = folds == fold
        total = np.zeros((len(names), values.shape[1]))
        np.add.at(total, item[rows], values[rows])
        sums.append(total)
        sizes.append(np.bincount(item[rows], minlength=len(names)).astype(np.float64))
    rng = np.random.default_rng(seed)
    drawn = []
    chunk = max(1, _CHUNK_VALUES // len(names))
    for start in range(0, resamples, chunk):
        draws = min(chunk, resamples - start)
        rows = rng.integers(len(names), size=(draws, len(names))) + len(names) * np.arange(draws)[:, None]
        counts = np.bincount(rows.ravel(), minlength=draws * len(names)).reshape(draws, -1).astype(np.float64)
        folded = [(counts @ total, (counts @ size)[:, None]) for total, size in zip(sums, sizes, strict=True)]
        # A tiny fold may get no row at all in a draw; the mean is then over the others.
        means = np.stack([np.where(size > 0, total / np.maximum(size, 1), np.nan) for total, size in folded])
        drawn.append(np.nanmean(means, axis=0))
    low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _checked(predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"labels has shape {labels.shape}; pass one class per test item, at least one")
    if predictions.shape != labels.shape:
        raise ValueError(f"predictions has shape {predictions.shape} and labels {labels.shape}; they must be equal")
    return predictions, labels
