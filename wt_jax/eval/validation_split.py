"""The validation split of every search on the training set: the split, the score, the predicted classes."""

import numpy as np


def stratified_split(labels: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Marks a random part of each class: `fraction` of its items, at least 1, but none of a class with one item.

    Args:
      labels: (N,) integer classes.
      fraction: between 0 and 1.
      seed: of the draw.

    Returns:
      (N,) bool, True for the marked items.
    """
    rng = np.random.default_rng(seed)
    marked = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) > 1:
            marked[members[: max(1, round(fraction * len(members)))]] = True
    return marked


def accuracy_and_likelihood(logits: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """(accuracy, minus cross-entropy) of (N, C) logits for (N,) targets; below every finite score if the fit diverged."""
    if not np.isfinite(logits).all():
        return -np.inf, -np.inf
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    accuracy = (logits.argmax(axis=1) == targets).mean()
    return float(accuracy), float(log_p[np.arange(len(targets)), targets].mean())


def top_classes(logits: np.ndarray, classes: np.ndarray, count: int = 5) -> np.ndarray:
    """The classes of the largest logits (M, C), the likeliest first and the lower class among equals: (M, min(count, C))."""
    return classes[np.argsort(-logits, axis=1, kind="stable")[:, :count]].astype(np.int32)
