"""Weighted k-nearest-neighbor classifier on frozen features: the cheapest measure of a representation.

Protocol of Wu et al. 2018 (arXiv 1805.01978, section 3.4): each of the k most similar training items votes for its
class with weight exp(cosine / temperature). They use k = 200 on ImageNet; 20 is the usual value since DINO (Caron et
al. 2021, arXiv 2104.14294), and 0.07 is the temperature of both. Neither centers the features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wt_jax.eval.protocols.base import Encoded, Predicted, Split, check_centering, over_splits
from wt_jax.eval.similarity import centered, check_features, check_labels, check_pair, similarity_chunks, top_k
from wt_jax.eval.statistics import Result
from wt_jax.eval.validation_split import stratified_split


@dataclass(frozen=True)
class Knn:
    """Weighted kNN.

    Attributes:
      k, temperature: of the vote that is reported as "top1".
      ks, temperatures: candidates of the sweep, chosen on a validation split and reported as "top1_sweep";
        empty: no sweep. Their values are ours.
      center: whether each set is centered by its own mean. Off, as in Wu et al. and DINO; CoCLR does so for retrieval. It uses
        the test features (never their labels) as a whole.
    """

    k: int = 20
    temperature: float = 0.07
    ks: tuple[int, ...] = (1, 5, 10, 20, 50, 100, 200)
    temperatures: tuple[float, ...] = (0.03, 0.07, 0.15, 0.3, 1.0)
    center: bool = False

    reads: ClassVar = "features"

    def __post_init__(self):
        if self.k < 1 or not self.temperature > 0:
            raise ValueError(f"k {self.k} must be 1 or more and temperature {self.temperature} above 0")

    def headings(self) -> dict[str, str]:
        """kNN at the usual settings, and swept; both name the centering."""
        note = " (centered)" if self.center else ""
        return {"top1": f"kNN{note}", "top1_sweep": f"kNN{note}, swept"}

    def check(self, shapes: Mapping[str, tuple[int, ...]], labels: np.ndarray, splits: Sequence[Split]) -> None:
        """Raise ValueError where a set has one item, which centering turns into zero."""
        if self.center:
            check_centering(splits)

    def run(
        self, features: Encoded, labels: np.ndarray, classes: Sequence[str], splits: Sequence[Split], *, seed: int = 0
    ) -> Result:
        """The weighted vote; see `wt_jax.eval.protocols.base.Protocol`."""

        def fit(train: Encoded, train_labels: np.ndarray, test: Encoded) -> list[Predicted]:
            values = (train.values, test.values)
            if self.center:
                values = (centered("train_features", train.values), centered("test_features", test.values))
            voted = weighted_knn(values[0], train_labels, values[1], k=self.k, temperature=self.temperature)
            if not (self.ks and self.temperatures):
                return [Predicted({"": voted[:, None]})]
            choice = choose_knn(values[0], train_labels, ks=self.ks, temperatures=self.temperatures, seed=seed)
            swept = weighted_knn(values[0], train_labels, values[1], k=choice.k, temperature=choice.temperature)
            return [Predicted({"": voted[:, None], "_sweep": swept[:, None]}, [vars(choice)])]

        return over_splits(fit, features, labels, splits)


@dataclass(frozen=True)
class KnnChoice:
    """The neighbors and the temperature that did best on a validation split, and how well in [0, 1]."""

    k: int
    temperature: float
    validation_accuracy: float


def weighted_knn(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int | None = None,
) -> np.ndarray:
    """Predicts the class of each test item by a weighted vote of its nearest training items.

    Features are L2-normalized here. Equal similarities go to the lower training index, equal votes to the lower class.

    Args:
      train_features: (N, D) float features.
      train_labels: (N,) integer classes, none negative.
      test_features: (M, D) float features.
      k: how many neighbors vote, at least 1; more than N means N.
      temperature: above 0; the smaller, the more the nearest neighbor decides.
      num_classes: upper bound of the labels; None means the largest training label plus 1.

    Returns:
      (M,) int32 predictions, each a class that occurs among the training labels.

    Raises:
      ValueError: empty or non-finite features, dimensions or labels that do not fit, k or temperature out of range.
    """
    train, test = check_features("train_features", train_features), check_features("test_features", test_features)
    check_pair("train_features", train, "test_features", test)
    labels = check_labels("train_labels", train_labels, len(train))
    if k < 1:
        raise ValueError(f"k is {k}; let at least 1 neighbor vote")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; pass a number above 0")
    num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
    if labels.max() >= num_classes:
        raise ValueError(f"train_labels holds {labels.max()} with num_classes={num_classes}; raise num_classes")

    k = min(k, len(train))
    predictions = np.empty(len(test), np.int32)
    for rows, similarity in similarity_chunks(test, train):
        neighbors = top_k(similarity, k)
        closeness = np.take_along_axis(similarity, neighbors, axis=1)
        predictions[rows] = _vote(closeness, labels[neighbors], temperature, num_classes)
    return predictions


def choose_knn(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    *,
    ks: Sequence[int],
    temperatures: Sequence[float],
    seed: int = 0,
) -> KnnChoice:
    """Chooses k and temperature by the accuracy on a stratified fifth of the training set; the first among equals.

    No test item is an argument, so that no choice can depend on one.

    Args:
      train_features: (N, D) float features.
      train_labels: (N,) integer classes, none negative.
      ks: candidates, each at least 1; more than the remaining items means all of them.
      temperatures: candidates, each above 0.
      seed: of the validation split.

    Raises:
      ValueError: as `weighted_knn`, an empty list of candidates, or no class with two items.
    """
    train = check_features("train_features", train_features)
    labels = check_labels("train_labels", train_labels, len(train))
    if not ks or min(ks) < 1 or not temperatures or not min(temperatures) > 0:
        raise ValueError(f"ks {tuple(ks)} and temperatures {tuple(temperatures)} must be some, from 1 and above 0")
    validation = stratified_split(labels, fraction=0.2, seed=seed)
    if not validation.any():
        raise ValueError("train_labels has no class with two items to hold one out; fix one k and one temperature")
    gallery, classes, num_classes = train[~validation], labels[~validation], int(labels.max()) + 1
    targets = labels[validation]
    hits = {(k, temperature): 0 for k in ks for temperature in temperatures}
    for rows, similarity in similarity_chunks(train[validation], gallery):
        neighbors = top_k(similarity, min(max(ks), len(gallery)))
        closeness = np.take_along_axis(similarity, neighbors, axis=1)
        for k, temperature in hits:
            voted = _vote(closeness[:, :k], classes[neighbors[:, :k]], temperature, num_classes)
            hits[k, temperature] += int((voted == targets[rows]).sum())
    best = max(hits, key=hits.__getitem__)
    return KnnChoice(*best, hits[best] / len(targets))


def _vote(closeness: np.ndarray, labels: np.ndarray, temperature: float, num_classes: int) -> np.ndarray:
    """Classes (Q,) that win the votes of neighbors (Q, k), the nearest first, by their similarities and labels."""
    # Relative to the nearest, which leaves the winner as it is and keeps exp in range at any temperature.
    weight = np.exp((closeness - closeness[:, :1]) / temperature)
    votes = np.zeros((len(closeness), num_classes))
    np.add.at(votes, (np.arange(len(closeness))[:, None], labels), weight)
    return votes.argmax(axis=1)
