"""The scores of `results.json` as tables, and the predictions of each class. All scores are fractions in [0, 1]."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wt_jax.eval.report.media import data_uri
from wt_jax.eval.results import AFTER, BEFORE, Results

_CONFUSIONS = 10  # of the most frequent ones in words
_INK = (37, 99, 160)
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Score:
    """A fraction in [0, 1] with its interval."""

    value: float
    low: float
    high: float
    best: bool = False


def score_tables(results: Results) -> list[dict[str, Any]]:
    """The numbers that are reported first and, if there are any, the others; each a table of columns and rows.

    Returns:
      Tables {"columns": (heading,) or (protocol, number), "rows": (encoder, one `Score` or None for each column)}; the best of
      each column is marked where there is a best.
    """
    main = {
        encoder: {(heading,): Score(*number) for heading, number in results.headline(encoder).items()}
        for encoder in results.encoders
    }
    others = {
        encoder: {
            (protocol, name): Score(*number)
            for protocol, summary in protocols.items()
            for name, number in summary.numbers.items()
            if name not in summary.headings
        }
        for encoder, protocols in results.encoders.items()
    }
    return [_table(rows) for rows in (main, others) if any(rows.values())]


def _table(rows: Mapping[str, Mapping[tuple[str, ...], Score]]) -> dict[str, Any]:
    keys = list(dict.fromkeys(key for scores in rows.values() for key in scores))
    found = {key: [scores[key].value for scores in rows.values() if key in scores] for key in keys}
    best = {key: max(values) for key, values in found.items() if max(values) > min(values)}
    cells = {
        encoder: [replace(scores[key], best=scores[key].value == best.get(key)) if key in scores else None for key in keys]
        for encoder, scores in rows.items()
    }
    return {"columns": keys, "rows": list(cells.items())}


def evaluated_classes(results: Results) -> list[dict[str, Any]]:
    """`classes` of each encoder and protocol that makes one prediction per video; of a run, after the training."""
    found = []
    for encoder, protocols in results.encoders.items():
        if encoder == BEFORE and AFTER in results.encoders:
            continue
        for protocol, summary in protocols.items():
            if summary.confusion is not None:
                score = Score(*summary.numbers["top1"]) if "top1" in summary.numbers else None
                counts = np.array(summary.confusion, np.int64)
                found.append(classes(f"{encoder}, {protocol}", counts, results.classes, score))
    return found


def classes(title: str, counts: np.ndarray, names: Sequence[str], score: Score | None = None) -> dict[str, Any]:
    """Accuracy overall and by class, with intervals, and the confusion matrix as a picture, as counts and in words.

    Args:
      title: of these predictions.
      counts: (C, C) items of class t (row) predicted as class p (column).
      names: of the classes.
      score: the accuracy overall, where it is not simply that of these counts.
    """
    items = counts.sum(axis=1)
    wrong = counts * ~np.eye(len(names), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = [np.unravel_index(cell, wrong.shape) for cell in order if wrong.flat[cell]]
    scores = _accuracies(counts.diagonal(), items)
    return {
        "title": title,
        "accuracy": score or _accuracies(np.array([counts.trace()]), np.array([counts.sum()]))[0],
        "count": int(counts.sum()),
        "bars": [{"name": names[t], "count": int(items[t]), "score": scores[t]} for t in np.flatnonzero(items).tolist()],
        "names": list(names),
        "picture": data_uri(_shaded(counts), exact=True),
        "cells": [[int(t), int(p), int(counts[t, p])] for t, p in np.argwhere(counts)],
        "confusions": [{"true": names[t], "predicted": names[p], "count": int(wrong[t, p])} for t, p in pairs],
    }


def _accuracies(hits: np.ndarray, items: np.ndarray) -> list[Score]:
    """Fractions with 95 % percentile bootstrap intervals: the hits among items drawn with replacement are binomial."""
    accuracies = hits / np.maximum(items, 1)
    drawn = np.random.default_rng(0).binomial(items, accuracies, (_RESAMPLES, len(items))) / np.maximum(items, 1)
    lows, highs = np.quantile(drawn, [0.025, 0.975], axis=0)
    return [Score(float(v), float(low), float(high)) for v, low, high in zip(accuracies, lows, highs, strict=True)]


def _shaded(counts: np.ndarray) -> np.ndarray:
    """(C, C, 4) uint8: the more of a class's items a cell has, the less transparent it is."""
    fraction = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    alpha = np.where(counts > 0, 40 + 215 * fraction, 0).round()
    return np.concatenate([np.full((*counts.shape, 3), _INK), alpha[..., None]], axis=-1).astype(np.uint8)
