"""The protocols that work on stored features: kNN, linear, attentive and low-shot probes, retrieval.

A protocol that makes choices gets the labels of the training set and no label of the test set: its function has no argument for
them. They are first seen when finished predictions are compared with them.

kNN as in Wu et al. 2018 (arXiv 1805.01978), linear probe and retrieval as in CoCLR (Han et al. 2020, arXiv 2010.09709).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wt_jax.eval.protocols.attentive import attentive_probe
from wt_jax.eval.protocols.knn import choose_knn, weighted_knn
from wt_jax.eval.protocols.linear import linear_probe
from wt_jax.eval.protocols.low_shot import low_shot_probe
from wt_jax.eval.protocols.retrieval import average_precisions, centered, check_features, check_labels, retrieval_hits
from wt_jax.eval.statistics import Result, hits, join


@dataclass(frozen=True)
class KnnSettings:
    """Weighted kNN.

    Attributes:
      k, temperature: of the vote that is reported as "top1".
      ks, temperatures: candidates of the sweep, chosen on a held-out part of the training set and reported as "top1_sweep";
        empty: no sweep. Their values are ours.
      center: whether each set is first centered by its own mean; kNN's authors do not.
    """

    k: int = 20
    temperature: float = 0.07
    ks: tuple[int, ...] = (1, 5, 10, 20, 50, 100, 200)
    temperatures: tuple[float, ...] = (0.03, 0.07, 0.15, 0.3, 1.0)
    center: bool = False


@dataclass(frozen=True)
class LinearSettings:
    """Linear probe on stored features: see `wt_jax.eval.protocols.linear.linear_probe`."""

    learning_rates: tuple[float, ...] = (0.01, 0.1, 1.0)
    weight_decays: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    epochs: int = 100
    batch_size: int = 1024


@dataclass(frozen=True)
class AttentiveSettings:
    """Attentive probe on stored tokens: see `wt_jax.eval.protocols.attentive.attentive_probe`."""

    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    weight_decays: tuple[float, ...] = (0.01, 0.1)
    epochs: int = 20
    batch_size: int = 256
    heads: int = 12


@dataclass(frozen=True)
class LowShotSettings:
    """Low-shot probe: shares of the labels, draws of each, and the probe on them."""

    shares: tuple[float, ...] = (0.01, 0.05, 0.1)
    draws: int = 3
    linear: LinearSettings = LinearSettings()


@dataclass(frozen=True)
class RetrievalSettings:
    """Retrieval: the k of R@k, and whether each set is first centered by its own mean, as CoCLR does, or not, or once each."""

    ks: tuple[int, ...] = (1, 5, 10, 20, 50)
    center: tuple[bool, ...] = (True, False)


@dataclass(frozen=True)
class StoredSettings:
    """All settings of the protocols on stored features; `seed` is that of held-out parts, draws and the order of batches."""

    knn: KnnSettings = KnnSettings()
    linear: LinearSettings = LinearSettings()
    attentive: AttentiveSettings = AttentiveSettings()
    low_shot: LowShotSettings = LowShotSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    seed: int = 0


@dataclass(frozen=True)
class Unlabeled:
    """Items without their labels, all that a protocol learns of a test set before it has predicted.

    Attributes:
      values: (N, D) float features.
      tokens: (R, M, C) array of feature maps, or None where none are stored.
      rows: (N,) integers, the row of `tokens` of each item.
    """

    values: np.ndarray
    tokens: np.ndarray | None = None
    rows: np.ndarray | None = None


@dataclass(frozen=True)
class Predicted:
    """Classes (M, K) of the test items, the likeliest first, by suffix of the number's name; and what was chosen."""

    ranked: dict[str, np.ndarray]
    chosen: list[dict[str, Any]] = field(default_factory=list)


Predictor = Callable[[Unlabeled, np.ndarray, Unlabeled, StoredSettings], list[Predicted]]


def predict_knn(train: Unlabeled, labels: np.ndarray, test: Unlabeled, settings: StoredSettings) -> list[Predicted]:
    """The weighted vote at the usual settings and, if there are candidates, at the chosen ones."""
    own = settings.knn
    if own.center:
        values = centered("train_features", train.values), centered("test_features", test.values)
    else:
        values = train.values, test.values
    ranked = {"": weighted_knn(values[0], labels, values[1], k=own.k, temperature=own.temperature)[:, None]}
    chosen = []
    if own.ks and own.temperatures:
        choice = choose_knn(values[0], labels, ks=own.ks, temperatures=own.temperatures, seed=settings.seed)
        voted = weighted_knn(values[0], labels, values[1], k=choice.k, temperature=choice.temperature)
        ranked["_sweep"] = voted[:, None]
        chosen.append(vars(choice))
    return [Predicted(ranked, chosen)]


def predict_linear(train: Unlabeled, labels: np.ndarray, test: Unlabeled, settings: StoredSettings) -> list[Predicted]:
    """The linear probe."""
    probe = linear_probe(train.values, labels, test.values, **vars(settings.linear), seed=settings.seed)
    return [Predicted({"": probe.ranked}, [_choice(probe)])]


def predict_attentive(train: Unlabeled, labels: np.ndarray, test: Unlabeled, settings: StoredSettings) -> list[Predicted]:
    """The attentive probe."""
    if train.tokens is None or test.tokens is None:
        raise ValueError("the attentive probe needs feature maps; extract the features with tokens")
    options = {**vars(settings.attentive), "seed": settings.seed}
    probe = attentive_probe(train.tokens, train.rows, labels, test.tokens, test.rows, **options)
    return [Predicted({"": probe.ranked}, [_choice(probe)])]


def predict_low_shot(train: Unlabeled, labels: np.ndarray, test: Unlabeled, settings: StoredSettings) -> list[Predicted]:
    """One `Predicted` per draw, with a probe for each share of the labels."""
    own, draws = settings.low_shot, []
    for draw in range(own.draws):
        seed = settings.seed + draw
        probes = {
            share: low_shot_probe(train.values, labels, test.values, share=share, seed=seed, **vars(own.linear))
            for share in own.shares
        }
        # Only top-1: ranks below it mean little where a class was seen once.
        ranked = {f"_{100 * share:g}%": probe.ranked[:, :1] for share, probe in probes.items()}
        draws.append(Predicted(ranked, [{"share": share, "draw": draw, **_choice(p)} for share, p in probes.items()]))
    return draws


PREDICTORS: dict[str, Predictor] = {
    "knn": predict_knn,
    "linear": predict_linear,
    "attentive": predict_attentive,
    "low_shot": predict_low_shot,
}
STORED = (*PREDICTORS, "retrieval")


def leave_one_group_out(groups: np.ndarray, center: bool) -> list[np.ndarray]:
    """One test mask (N,) bool per group, in sorted order; the others are training set and gallery.

    Args:
      groups: (N,) integers or text, the group (a person, a scene) of each item.
      center: whether sets will be centered, which needs two items in each.

    Raises:
      ValueError: fewer than two groups, or (with centering) a group of one item.
    """
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"groups has only {names[0]}; leaving one group out needs at least two")
    if center and sizes.min() == 1:
        alone = names[sizes.argmin()]
        raise ValueError(f"group {alone} has one item, which centering turns into zero; merge it or set center=False")
    return [groups == name for name in names]


def judge(
    protocol: str,
    train: Unlabeled,
    train_labels: np.ndarray,
    test: Unlabeled,
    test_labels: np.ndarray,
    items: np.ndarray,
    settings: StoredSettings,
) -> Result:
    """One protocol on one training and one test set.

    Args:
      protocol: one of `STORED`.
      train: the training set; the gallery of the retrieval.
      train_labels: (N,) integer classes.
      test: the test set; the queries.
      test_labels: (M,) integer classes; one that is absent from training counts as wrong.
      items: (M,) names of the test items, for `Result.items`.
      settings: of all protocols.

    Raises:
      ValueError: features or labels that are empty, not finite or do not fit, or of too few classes or items.
    """
    check_features("train_features", train.values)
    check_features("test_features", test.values)
    train_labels = check_labels("train_labels", train_labels, len(train.values))
    test_labels = check_labels("test_labels", test_labels, len(test.values))
    if protocol == "retrieval":
        values = retrieve(train.values, train_labels, test.values, test_labels, settings.retrieval)
        return Result(np.asarray(items), np.zeros(len(items), np.int32), test_labels, values)
    fits = PREDICTORS[protocol](train, train_labels, test, settings)
    return join([score(fit, test_labels, items) for fit in fits])


def score(predicted: Predicted, labels: np.ndarray, items: np.ndarray) -> Result:
    """Compare finished predictions with the labels."""
    values: dict[str, np.ndarray] = {}
    for suffix, ranked in predicted.ranked.items():
        values |= hits(ranked, labels, suffix)
    main = predicted.ranked[""][:, 0] if "" in predicted.ranked else None
    return Result(np.asarray(items), np.zeros(len(items), np.int32), np.asarray(labels), values, main, predicted.chosen)


def retrieve(
    gallery: np.ndarray, gallery_labels: np.ndarray, query: np.ndarray, query_labels: np.ndarray, settings: RetrievalSettings
) -> dict[str, np.ndarray]:
    """Per query: "recall@k" and "mean_average_precision" of centered sets, the same with "_uncentered" of those as they are."""
    values = {}
    for center in settings.center:
        suffix = "" if center else "_uncentered"
        found = retrieval_hits(query, query_labels, gallery, gallery_labels, settings.ks, center)
        values |= {f"recall@{k}{suffix}": hit.astype(np.float64) for k, hit in found.items()}
        precisions = average_precisions(query, query_labels, gallery, gallery_labels, center)
        values[f"mean_average_precision{suffix}"] = precisions
    return values


def _choice(probe: Any) -> dict[str, Any]:
    names = ("learning_rate", "weight_decay", "held_out_accuracy")
    return {name: getattr(probe, name) for name in names}
