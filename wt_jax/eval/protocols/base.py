"""The contract of a protocol, and what the protocols on features are built from.

A protocol is a frozen dataclass whose fields are its settings. Of the test set it gets the labels only to compare them with
finished predictions: `over_splits` hands the labels of the training rows to the fit and has no argument for the others.
"""

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from wt_jax.eval.similarity import check_features, check_labels
from wt_jax.eval.statistics import Result, hits, join


@dataclass(frozen=True)
class Split:
    """A training and a test set, as rows of the items.

    Attributes:
      name: of the split, in results and files.
      train: (n,) integers.
      test: (m,) integers, none of them in `train`.
    """

    name: str
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Encoded:
    """Items as a frozen encoder represents them, without their labels.

    Attributes:
      values: (N, D) float features.
      tokens: (R, M, C) feature maps, possibly mapped from disk, or None where none are stored.
      rows: (N,) integers, the row of `tokens` of each item; None where there are none.
      sounds: (N, D) float embeddings of the items' sound; None where there are none.
    """

    values: np.ndarray
    tokens: np.ndarray | None = None
    rows: np.ndarray | None = None
    sounds: np.ndarray | None = None

    def select(self, items: np.ndarray) -> "Encoded":
        """Some of the items; tokens stay where they are."""
        rows, sounds = (None if array is None else array[items] for array in (self.rows, self.sounds))
        return Encoded(self.values[items], self.tokens, rows, sounds)


class Protocol(typing.Protocol):
    """One way to evaluate a representation.

    `reads` names what `run` gets as `features`: "features" an `Encoded`, "tokens" one with tokens, "sounds" one of embeddings
    with those of sound, "clips" a `wt_jax.eval.protocols.clips.Classifier`, which trains on the videos themselves, "boxes" a
    `wt_jax.eval.protocols.detection.DetectorTrainer`.
    """

    reads: ClassVar[str]

    def headings(self) -> Mapping[str, str]:
        """{name of a number: its heading in the short table}, of the numbers that are reported first."""
        ...

    def check(self, shapes: Mapping[str, tuple[int, ...]], labels: np.ndarray, splits: Sequence[Split]) -> None:
        """Raise ValueError if `run` cannot succeed; called before any video is read.

        Args:
          shapes: of one item, by name: "values" (D,) and, where they are read, "tokens" (M, C) or "sounds" (D,).
          labels: (N,) integers.
          splits: rows of `labels`.
        """
        ...

    def run(
        self, features: Any, labels: np.ndarray, classes: Sequence[str], splits: Sequence[Split], *, seed: int = 0
    ) -> Result:
        """Evaluate every split.

        Args:
          features: N items, see the class.
          labels: (N,) integers in [0, len(classes)); a test label that is absent from training counts as wrong.
          classes: their names.
          splits: rows of the items; one fold of the result each, or one per draw.
          seed: of validation splits, draws and the order of batches.

        Returns:
          The values of every test item; `Result.items` are rows.

        Raises:
          ValueError: features or labels that are empty, not finite or do not fit, or too few classes or items.
        """
        ...


@dataclass(frozen=True)
class Predicted:
    """Classes (m, K) of the test items, the likeliest first, by suffix of the number's name; and what was chosen."""

    ranked: Mapping[str, np.ndarray]
    chosen: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


Fit = Callable[[Encoded, np.ndarray, Encoded], Sequence[Predicted]]


def over_splits(fit: Fit, features: Encoded, labels: np.ndarray, splits: Sequence[Split]) -> Result:
    """Fit and score every split.

    Args:
      fit: (training items, their labels, test items) -> predictions of the test items, once per draw.
      features, labels, splits: as in `Protocol.run`.
    """
    results = []
    for split in splits:
        train, train_labels, test, test_labels = parts(features, labels, split)
        results += [score(found, test_labels, split.test, split.name) for found in fit(train, train_labels, test)]
    return join(results)


def parts(features: Encoded, labels: np.ndarray, split: Split) -> tuple[Encoded, np.ndarray, Encoded, np.ndarray]:
    """Training items, their labels, test items, their labels; checked.

    Raises:
      ValueError: a set is empty, has features that are not finite, or labels that do not fit.
    """
    labels = check_labels("labels", labels, len(features.values))
    train, test = features.select(split.train), features.select(split.test)
    check_features("train_features", train.values)
    check_features("test_features", test.values)
    return train, labels[split.train], test, labels[split.test]


def score(predicted: Predicted, labels: np.ndarray, items: np.ndarray, split: str) -> Result:
    """Compare finished predictions of some items with their labels (m,)."""
    values: dict[str, np.ndarray] = {}
    for suffix, ranked in predicted.ranked.items():
        values |= hits(ranked, labels, suffix)
    main = predicted.ranked[""][:, 0] if "" in predicted.ranked else None
    chosen = [{"split": split, **choice} for choice in predicted.chosen]
    return Result(np.asarray(items), np.zeros(len(items), np.int32), np.asarray(labels), values, main, chosen)


def check_two_classes(labels: np.ndarray, splits: Sequence[Split]) -> None:
    """Raise ValueError where a training set has fewer than two classes."""
    for split in splits:
        found = np.unique(labels[split.train])
        if len(found) < 2:
            raise ValueError(f"the training set of {split.name} has only class {found[0]}; a probe needs at least two")


def check_centering(splits: Sequence[Split]) -> None:
    """Raise ValueError where a set has a single item, which centering by the set's own mean turns into zero."""
    for split in splits:
        for part, rows in (("training", split.train), ("test", split.test)):
            if len(rows) == 1:
                raise ValueError(
                    f"the {part} set of {split.name} has one item, which centering turns into zero; set center=False"
                )
