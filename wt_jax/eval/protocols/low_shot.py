"""Low-shot classification: the linear probe with a small fraction of the training labels.

Each draw takes a fraction of every class, at least one item. The search for learning rate and weight decay holds out a part of
the few that were drawn; where no class has two of them the middle candidates are taken (our choice: there is nothing to
choose by). Fractions of 1, 5 and 10 % are the usual ones; three draws are our choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wt_jax.eval.protocols.base import Encoded, Predicted, Split, check_two_classes, over_splits
from wt_jax.eval.protocols.linear import Linear, LinearProbe, linear_probe
from wt_jax.eval.statistics import Result


@dataclass(frozen=True)
class LowShot:
    """The linear probe with few labels.

    Attributes:
      fractions: of the labels of each class.
      draws: of each fraction.
      linear: the probe.
    """

    fractions: tuple[float, ...] = (0.01, 0.05, 0.1)
    draws: int = 3
    linear: Linear = Linear()

    reads: ClassVar = "features"

    def __post_init__(self):
        if not self.fractions or not all(0 < fraction <= 1 for fraction in self.fractions) or self.draws < 1:
            raise ValueError(f"fractions {self.fractions} must be some, each in (0, 1], and draws {self.draws} 1 or more")

    def headings(self) -> dict[str, str]:
        """The top-1 of each fraction."""
        return {f"top1{_suffix(fraction)}": f"{100 * fraction:g}% of labels" for fraction in self.fractions}

    def check(self, shapes: Mapping[str, tuple[int, ...]], labels: np.ndarray, splits: Sequence[Split]) -> None:
        """Raise ValueError where a training set has fewer than two classes."""
        check_two_classes(labels, splits)

    def run(
        self, features: Encoded, labels: np.ndarray, classes: Sequence[str], splits: Sequence[Split], *, seed: int = 0
    ) -> Result:
        """One fold per split and draw; see `wt_jax.eval.protocols.base.Protocol`."""

        def fit(train: Encoded, train_labels: np.ndarray, test: Encoded) -> list[Predicted]:
            draws = []
            for draw in range(self.draws):
                probes = {
                    fraction: low_shot_probe(
                        train.values, train_labels, test.values, fraction=fraction, seed=seed + draw, **vars(self.linear)
                    )
                    for fraction in self.fractions
                }
                # Only top-1: ranks below it mean little where a class was seen once.
                ranked = {_suffix(fraction): probe.ranked[:, :1] for fraction, probe in probes.items()}
                chosen = [{"fraction": fraction, "draw": draw, **probe.choice} for fraction, probe in probes.items()]
                draws.append(Predicted(ranked, chosen))
            return draws

        return over_splits(fit, features, labels, splits)


def _suffix(fraction: float) -> str:
    return f"_{100 * fraction:g}%"


def few_of_each(labels: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Mark a random fraction of each class, at least one item.

    Args:
      labels: (N,) integer classes.
      fraction: above 0, at most 1.
      seed: of the draw.

    Returns:
      (N,) bool.

    Raises:
      ValueError: the fraction is out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; pass a number above 0 and at most 1, such as 0.1")
    rng = np.random.default_rng(seed)
    marked = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        marked[members[: max(1, round(fraction * len(members)))]] = True
    return marked


def low_shot_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    fraction: float,
    seed: int,
    learning_rates: Sequence[float],
    weight_decays: Sequence[float],
    epochs: int,
    batch_size: int,
) -> LinearProbe:
    """The `linear_probe` of one draw; all arguments and errors but `fraction` and `seed`, of the draw too, are its own."""
    train_labels = np.asarray(train_labels)
    drawn = few_of_each(train_labels, fraction=fraction, seed=seed)
    if np.unique(train_labels[drawn], return_counts=True)[1].max() < 2:
        learning_rates, weight_decays = ([some[len(some) // 2]] for some in (learning_rates, weight_decays))
    return linear_probe(
        np.asarray(train_features)[drawn],
        train_labels[drawn],
        test_features,
        learning_rates=learning_rates,
        weight_decays=weight_decays,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
    )
