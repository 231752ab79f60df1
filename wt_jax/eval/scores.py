"""From predictions to numbers: accuracies, intervals, and the full set of scores of one encoder's features.

kNN as in Wu et al. 2018 (arXiv 1805.01978), linear probe and retrieval as in CoCLR (Han et al. 2020, arXiv 2010.09709).
All scores are shares in [0, 1]. A test class that is absent from training is allowed; its items count as wrong.
"""

from dataclasses import dataclass

import numpy as np

from wt_jax.eval.knn import weighted_knn
from wt_jax.eval.linear import linear_probe
from wt_jax.eval.retrieval import centred, check_features, check_labels, mean_average_precision, retrieval_recall


@dataclass(frozen=True)
class EvalSettings:
    """How features are compared.

    Attributes:
      k: neighbours that vote in kNN.
      temperature: of the kNN vote.
      centre: whether each set is centred by its own mean before kNN and retrieval. CoCLR does so for retrieval; for kNN
        it is our choice. It uses the test features (never their labels) as a whole, so a test set must have two items
        or more. The linear probe always standardises by training statistics instead.
    """

    k: int = 20
    temperature: float = 0.07
    centre: bool = True


def top1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of items whose predicted class is right; both (N,) integers.

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
    """Share of right predictions among the items of each class.

    Args and errors are those of `confusion_matrix`.

    Returns:
      (C,) float64 in [0, 1]; NaN for a class without items.
    """
    counts = confusion_matrix(predictions, labels, num_classes)
    items = counts.sum(axis=1)
    return np.where(items > 0, counts.diagonal() / np.maximum(items, 1), np.nan)


def bootstrap_interval(
    correct: np.ndarray, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of an accuracy (Efron and Tibshirani 1993, chapter 13).

    The number of hits among N items drawn with replacement is binomial, so it is drawn as such. Items are taken as
    independent: several clips of one video must be averaged first. If all are right (or wrong) the interval is a point,
    which is the method's known weakness with few items.

    Args:
      correct: (N,) bool, whether each item was right; hits of retrieval serve as well.
      level: coverage, between 0 and 1.
      resamples: draws.
      seed: of the draws.

    Returns:
      (low, high), both in [0, 1].

    Raises:
      ValueError: an empty array or one of another rank, or a level outside (0, 1).
    """
    correct = np.asarray(correct, bool)
    if correct.ndim != 1 or correct.size == 0:
        raise ValueError(f"correct has shape {correct.shape}; pass one bool per test item")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; pass a number between 0 and 1, such as 0.95")
    shares = np.random.default_rng(seed).binomial(correct.size, correct.mean(), resamples) / correct.size
    low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def evaluate_split(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    settings: EvalSettings,
) -> dict[str, float]:
    """All scores of features with one training and one test set.

    The test labels are only compared with finished predictions and rankings.

    Args:
      train_features: (N, D) float features; the gallery of the retrieval.
      train_labels: (N,) integer classes, at least two different ones.
      test_features: (M, D) float features; the queries.
      test_labels: (M,) integer classes; one that is absent from training counts as wrong.
      settings: how features are compared.

    Returns:
      {"knn_top1", "linear_top1", "recall@1", "recall@5", "recall@10", "recall@20", "recall@50",
      "mean_average_precision"}, each in [0, 1].

    Raises:
      ValueError: features or labels that are empty, non-finite or do not fit, fewer than two training classes, a set of
        one row to be centred.
    """
    train = check_features("train_features", train_features)
    test = check_features("test_features", test_features)
    train_labels = check_labels("train_labels", train_labels, len(train))
    test_labels = check_labels("test_labels", test_labels, len(test))
    probe = linear_probe(train, train_labels, test)
    if settings.centre:
        train, test = centred("train_features", train), centred("test_features", test)
    voted = weighted_knn(train, train_labels, test, k=settings.k, temperature=settings.temperature)
    recall = retrieval_recall(test, test_labels, train, train_labels, centre=False)
    return {
        "knn_top1": top1(voted, test_labels),
        "linear_top1": top1(probe.predictions, test_labels),
        **{f"recall@{k}": value for k, value in recall.items()},
        "mean_average_precision": mean_average_precision(test, test_labels, train, train_labels, centre=False),
    }


def evaluate_leave_one_group_out(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, settings: EvalSettings
) -> dict[str, float]:
    """All scores when each group (a person, a scene) is once the test set and the others are training set and gallery.

    Every score of `evaluate_split` is a mean over test items, so the folds' scores weighted by their size are those of
    the pooled predictions: each item counts once. The linear probe makes its choice anew in each fold.

    Args:
      features: (N, D) float features.
      labels: (N,) integer classes.
      groups: (N,) integers or strings, the group of each item; at least two different ones.
      settings: how features are compared.

    Returns:
      The scores of `evaluate_split`.

    Raises:
      ValueError: as `evaluate_split`, or fewer than two groups, or (with centring) a group of one item.
    """
    features = check_features("features", features)
    labels = check_labels("labels", labels, len(features))
    groups = np.asarray(groups)
    if groups.shape != labels.shape:
        raise ValueError(f"groups has shape {groups.shape}; pass one group per feature vector: {labels.shape}")
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"groups has only {names[0]}; leaving one group out needs at least two")
    if settings.centre and sizes.min() == 1:
        alone = names[sizes.argmin()]
        raise ValueError(f"group {alone} has one item, which centring turns into zero; merge it or set centre=False")
    folds = []
    for name in names:
        test = groups == name
        folds.append(evaluate_split(features[~test], labels[~test], features[test], labels[test], settings))
    return {score: float(np.average([fold[score] for fold in folds], weights=sizes)) for score in folds[0]}


def _checked(predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"labels has shape {labels.shape}; pass one class per test item, at least one")
    if predictions.shape != labels.shape:
        raise ValueError(f"predictions has shape {predictions.shape} and labels {labels.shape}; they must be equal")
    return predictions, labels
