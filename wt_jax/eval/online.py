"""The small evaluation that goes with a training: kNN while it runs; kNN, linear probe and retrieval at its end.

The full set of protocols, with intervals, is `wt_jax.tools.evaluate`; what both do is the same code.
"""

from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from wt_jax.config import Config
from wt_jax.data.records import VideoList, same_classes
from wt_jax.data.sources.open import open_source
from wt_jax.errors import ConfigError
from wt_jax.eval.features.extract import Extractor, Features, Reading, extract_features
from wt_jax.eval.protocols.retrieval import check_features, check_labels
from wt_jax.eval.protocols.stored import KnnSettings, RetrievalSettings, StoredSettings, Unlabeled, judge, leave_one_group_out
from wt_jax.eval.statistics import Result, join, top1


@dataclass(frozen=True)
class EvalSettings:
    """How features are compared.

    Attributes:
      k: neighbors that vote in kNN.
      temperature: of the kNN vote.
      center: whether each set is centered by its own mean before kNN and retrieval. CoCLR does so for retrieval; for kNN
        it is our choice. It uses the test features (never their labels) as a whole, so a test set must have two items
        or more. The linear probe always standardizes by training statistics instead.
    """

    k: int = 20
    temperature: float = 0.07
    center: bool = True

    def stored(self) -> StoredSettings:
        """The same as settings of the protocols."""
        knn = KnnSettings(self.k, self.temperature, ks=(), temperatures=(), center=self.center)
        return StoredSettings(knn=knn, retrieval=RetrievalSettings(center=(self.center,)))


class Evaluator:
    """Judges parameters by the labelled videos of a configuration; `possible` says whether there are any."""

    def __init__(self, config: Config, extractor: Extractor, train: VideoList, mesh: Mesh):
        self._extractor, self._mesh = extractor, mesh
        data, settings = config.data, config.eval
        test = open_source(data.test, data.root, data.max_bad_fraction) if data.test else None
        self.train, self.test = (train, None) if test is None else same_classes([train, test])
        self._reading = Reading(config.test_view, settings.windows, 1, settings.batch_size, data.workers, data.threads)
        self._settings = EvalSettings(k=settings.k, temperature=settings.temperature, center=settings.center)
        self._leave_out = settings.leave_out
        self._named: set[str] = set()  # undecodable videos, so that each is told once however often one evaluates
        if self._leave_out and self._leave_out not in train.columns:
            known = ", ".join(train.columns) or "none: it is not a CSV with a header"
            raise ConfigError(f"config.eval.leave_out {self._leave_out!r} is no column of {data.train} (columns: {known})")
        self.possible = bool(train.classes) and (bool(self._leave_out) or (self.test is not None and bool(self.test.classes)))

    def features(self, params: dict, model_state: dict) -> tuple[Features, Features | None]:
        """Features of the training and of the test list; no test list where groups are left out."""

        def extract(videos: VideoList) -> Features:
            return extract_features(self._extractor, params, model_state, videos, self._reading, self._mesh, named=self._named)

        if self._leave_out or self.test is None:
            return extract(self.train), None
        return extract(self.train), extract(self.test)

    def predictions(self, features: tuple[Features, Features | None]) -> tuple[np.ndarray, Features]:
        """The weighted kNN's class of each test item, (M,) int32, and these items: all, where groups are left out in turn."""
        train, test = features
        if test is not None:
            pair = (train.values, train.labels, test.values, test.labels)
            return _results(("knn",), *pair, self._settings)["knn"].predictions, test
        pooled = _pooled(("knn",), train.values, train.labels, self._groups(train), self._settings)["knn"]
        return pooled.predictions[np.argsort(pooled.items)], train

    def knn(self, params: dict, model_state: dict) -> float:
        """Top-1 of the weighted kNN in [0, 1], for use during training."""
        predictions, test = self.predictions(self.features(params, model_state))
        return top1(predictions, test.labels)

    def scores(self, features: tuple[Features, Features | None]) -> dict[str, float]:
        """All scores, each in [0, 1]: kNN and linear top-1, retrieval recalls and mean average precision."""
        train, test = features
        if test is not None:
            return evaluate_split(train.values, train.labels, test.values, test.labels, self._settings)
        return evaluate_leave_one_group_out(train.values, train.labels, self._groups(train), self._settings)

    def _groups(self, train: Features) -> np.ndarray:
        return np.asarray(self.train.columns[self._leave_out])[train.videos]


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
        one row to be centered.
    """
    return _scores(_results(_ALL, train_features, train_labels, test_features, test_labels, settings))


def evaluate_leave_one_group_out(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, settings: EvalSettings
) -> dict[str, float]:
    """All scores when each group (a person, a scene) is once the test set and the others are training set and gallery.

    Each item counts once. The linear probe makes its choice anew in each fold.

    Args:
      features: (N, D) float features.
      labels: (N,) integer classes.
      groups: (N,) integers or strings, the group of each item; at least two different ones.
      settings: how features are compared.

    Returns:
      The scores of `evaluate_split`.

    Raises:
      ValueError: as `evaluate_split`, or fewer than two groups, or (with centering) a group of one item.
    """
    return _scores(_pooled(_ALL, features, labels, groups, settings))


_ALL = ("knn", "linear", "retrieval")


def _results(protocols, train, train_labels, test, test_labels, settings, items=None) -> dict[str, Result]:
    items = np.arange(len(test)) if items is None else items
    pair = (Unlabeled(train), train_labels, Unlabeled(test), test_labels, items)
    return {protocol: judge(protocol, *pair, settings.stored()) for protocol in protocols}


def _pooled(protocols, features, labels, groups, settings) -> dict[str, Result]:
    """The results of all folds in one, each item once."""
    features = check_features("features", features)
    labels, groups = check_labels("labels", labels, len(features)), np.asarray(groups)
    if groups.shape != labels.shape:
        raise ValueError(f"groups has shape {groups.shape}; pass one group per feature vector: {labels.shape}")
    folds = [
        _results(protocols, features[~test], labels[~test], features[test], labels[test], settings, np.flatnonzero(test))
        for test in leave_one_group_out(groups, settings.center)
    ]
    return {protocol: join([fold[protocol] for fold in folds], one_fold=True) for protocol in protocols}


def _scores(results: dict[str, Result]) -> dict[str, float]:
    values = {f"{protocol}_top1": results[protocol].values["top1"] for protocol in ("knn", "linear")}
    values |= {name.removesuffix("_uncentered"): value for name, value in results["retrieval"].values.items()}
    return {name: float(value.mean()) for name, value in values.items()}
