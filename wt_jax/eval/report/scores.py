"""The scores of `results.json` as tables, and what each class is taken for.

Two forms of the file are read: a training's, `{encoder: {score: number}}`, and an evaluation's, `{"classes", "splits",
"encoders": {encoder: {protocol: {"numbers": {name: {"value", "low", "high"}}, "confusion", ...}}}}`. All numbers are shares in
[0, 1].
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wt_jax.eval.report.media import data_uri

_CONFUSIONS = 10  # of the most frequent ones in words
_INK = (37, 99, 160)
# Of the many numbers of an evaluation, those that everyone reports.
_MAIN = ("top1", "recall@1", "recall@5", "mean_average_precision")
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Score:
    """A share in [0, 1] with its interval, where one is known."""

    value: float
    low: float | None = None
    high: float | None = None
    best: bool = False


def score_tables(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The main scores and, if there are any, the others; each a table of columns and rows.

    Returns:
      Tables {"columns", "rows": (encoder, one `Score` or None for each column), "intervals": whether any is known}; the best
      of each column is marked where there is a best.
    """
    encoders = results.get("encoders", results)
    rows = {name: dict(_scores(entry)) for name, entry in encoders.items() if isinstance(entry, Mapping)}
    keys = list(dict.fromkeys(key for scores in rows.values() for key in scores))
    main = [key for key in keys if len(key) == 1 or key[0] == "low_shot" or key[1] in _MAIN]
    return [_table(rows, part) for part in (main, [key for key in keys if key not in main]) if part]


def _table(rows: Mapping[str, Mapping[tuple[str, ...], Score]], keys: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    found = {key: [scores[key].value for scores in rows.values() if key in scores] for key in keys}
    best = {key: max(values) for key, values in found.items() if max(values) > min(values)}
    cells = {
        encoder: [
            Score(scores[key].value, scores[key].low, scores[key].high, scores[key].value == best.get(key))
            if key in scores
            else None
            for key in keys
        ]
        for encoder, scores in rows.items()
    }
    intervals = any(score is not None and score.low is not None for row in cells.values() for score in row)
    return {"columns": keys, "rows": list(cells.items()), "intervals": intervals}


def _scores(entry: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Score]]:
    """The scores of one encoder by (name) or (protocol, name); one that is not finite is left out."""
    for name, part in entry.items():
        numbers = part.get("numbers", {}) if isinstance(part, Mapping) else {}
        for key, number in numbers.items():
            if np.isfinite(number["value"]):
                yield (name, key), Score(number["value"], number["low"], number["high"])
        if isinstance(part, int | float) and np.isfinite(part):
            yield (name,), Score(float(part))


def evaluated_classes(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`classes` of each encoder and protocol of an evaluation that makes one prediction per video."""
    found = []
    for encoder, protocols in results.get("encoders", {}).items():
        for protocol, summary in protocols.items():
            if "confusion" in summary:
                score = Score(**summary["numbers"]["top1"]) if "top1" in summary["numbers"] else None
                counts = np.array(summary["confusion"], np.int64)
                found.append(classes(f"{encoder}, {protocol}", counts, results["classes"], score))
    return found


def classes(title: str, counts: np.ndarray, names: Sequence[str], score: Score | None = None) -> dict[str, Any]:
    """Accuracy in all and by class, with intervals, and the confusion matrix as a picture, as counts and in words.

    Args:
      title: whose predictions these are.
      counts: (C, C) items of class t (row) taken for class p (column).
      names: of the classes.
      score: the accuracy in all, where it is not simply that of these counts.
    """
    items = counts.sum(axis=1)
    wrong = counts * ~np.eye(len(names), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = [np.unravel_index(place, wrong.shape) for place in order if wrong.flat[place]]
    scores = _shares(counts.diagonal(), items)
    return {
        "title": title,
        "accuracy": score or _shares(np.array([counts.trace()]), np.array([counts.sum()]))[0],
        "count": int(counts.sum()),
        "bars": [{"name": names[t], "count": int(items[t]), "score": scores[t]} for t in np.flatnonzero(items)],
        "names": list(names),
        "picture": data_uri(_shaded(counts), exact=True),
        "cells": [[int(t), int(p), int(counts[t, p])] for t, p in np.argwhere(counts)],
        "confusions": [{"true": names[t], "taken": names[p], "count": int(wrong[t, p])} for t, p in pairs],
    }


def _shares(hits: np.ndarray, items: np.ndarray) -> list[Score]:
    """Shares with 95 % percentile bootstrap intervals: the hits among items drawn with replacement are binomial."""
    shares = hits / np.maximum(items, 1)
    drawn = np.random.default_rng(0).binomial(items, shares, (_RESAMPLES, len(items))) / np.maximum(items, 1)
    lows, highs = np.quantile(drawn, [0.025, 0.975], axis=0)
    return [Score(float(v), float(low), float(high)) for v, low, high in zip(shares, lows, highs, strict=True)]


def _shaded(counts: np.ndarray) -> np.ndarray:
    """(C, C, 4) uint8: the more of a class's items a cell has, the less transparent it is."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    alpha = np.where(counts > 0, 40 + 215 * share, 0).round()
    return np.concatenate([np.full((*counts.shape, 3), _INK), alpha[..., None]], axis=-1).astype(np.uint8)
