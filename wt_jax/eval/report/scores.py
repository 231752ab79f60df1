"""The scores of `results.json` as a table, and what kNN takes each class for.

Two forms are read: a number for each score of each encoder, and numbers with intervals, `{"value": v, "low": l, "high": h}`,
however deep they are nested below an encoder; the names on the way there become the name of the column.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wt_jax.eval.report.media import data_uri
from wt_jax.eval.scores import bootstrap_interval, confusion_matrix, top1

_CONFUSIONS = 10  # of the most frequent ones in words
_INK = (37, 99, 160)


@dataclass(frozen=True)
class Score:
    """A share in [0, 1] with its interval, where one is known."""

    value: float
    low: float | None = None
    high: float | None = None
    best: bool = False


def score_table(results: Mapping[str, Any]) -> dict[str, Any]:
    """Columns, and rows of (encoder, one `Score` or None for each column); the best of each column is marked."""
    rows = {encoder: dict(_scores(entry)) for encoder, entry in results.items() if isinstance(entry, Mapping)}
    columns = list(dict.fromkeys(column for scores in rows.values() for column in scores))
    found = {column: [scores[column].value for scores in rows.values() if column in scores] for column in columns}
    best = {column: max(values) for column, values in found.items() if max(values) > min(values)}
    table = []
    for encoder, scores in rows.items():
        cells = [scores.get(column) for column in columns]
        marked = [
            cell and Score(cell.value, cell.low, cell.high, cell.value == best.get(column))
            for cell, column in zip(cells, columns, strict=True)
        ]
        table.append((encoder, marked))
    intervals = any(score.low is not None for scores in rows.values() for score in scores.values())
    return {"columns": columns, "rows": table, "intervals": intervals}


def _scores(found: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, Score]]:
    """Every score below an encoder's entry, with the name of its column; one that is not finite is none."""
    if isinstance(found, int | float) and not isinstance(found, bool):
        found = {"value": found}
    if isinstance(found, Mapping) and isinstance(found.get("value"), int | float):
        if np.isfinite(found["value"]):
            yield " ".join(place), Score(float(found["value"]), found.get("low"), found.get("high"))
    elif isinstance(found, Mapping):
        for name, part in found.items():
            yield from _scores(part, (*place, name))


def classes(predictions: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Accuracy in all and by class, with intervals, and the confusion matrix as a picture, as counts and in words.

    Args:
      predictions: (N,) integer classes.
      labels: (N,) integer classes.
      names: of all classes.
    """
    correct = predictions == labels
    counts = confusion_matrix(predictions, labels, len(names))
    bars = []
    for label, name in enumerate(names):
        members = correct[labels == label]
        if members.size:
            low, high = bootstrap_interval(members)
            bars.append({"name": name, "count": int(members.size), "score": Score(float(members.mean()), low, high)})
    wrong = counts * ~np.eye(len(names), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = [np.unravel_index(place, wrong.shape) for place in order if wrong.flat[place]]
    return {
        "accuracy": Score(top1(predictions, labels), *bootstrap_interval(correct)),
        "count": len(labels),
        "bars": bars,
        "names": list(names),
        "picture": data_uri(_shaded(counts), exact=True),
        "cells": [[int(t), int(p), int(counts[t, p])] for t, p in np.argwhere(counts)],
        "confusions": [{"true": names[t], "taken": names[p], "count": int(wrong[t, p])} for t, p in pairs],
    }


def _shaded(counts: np.ndarray) -> np.ndarray:
    """(C, C, 4) uint8: the more of a class's items a cell has, the less transparent it is."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    alpha = np.where(counts > 0, 40 + 215 * share, 0).round()
    return np.concatenate([np.full((*counts.shape, 3), _INK), alpha[..., None]], axis=-1).astype(np.uint8)
