"""Video retrieval: which items of a gallery are most like a query, and are they of its class?

Protocol of CoCLR (Han et al. 2020, arXiv 2010.09709): test clips query the training set; each set is centered by its own
mean, then L2-normalized; recall at k counts a hit if any of the k most similar items (cosine) has the query's class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wt_jax.eval.protocols.base import Encoded, Split, check_centering, parts
from wt_jax.eval.similarity import check_labels, nearest, prepared, similarity_chunks
from wt_jax.eval.statistics import Result, join


@dataclass(frozen=True)
class Retrieval:
    """Test items query the training set.

    Attributes:
      ks: the k of R@k.
      center: whether each set is first centered by its own mean, as CoCLR does, or not, or once each. The numbers of sets as
        they are end in "_uncentered".
    """

    ks: tuple[int, ...] = (1, 5, 10, 20, 50)
    center: tuple[bool, ...] = (True, False)

    reads: ClassVar = "features"

    def __post_init__(self):
        if not self.ks or min(self.ks) < 1 or not self.center:
            raise ValueError(f"ks {self.ks} must be some, each 1 or more, and center {self.center} one value or two")

    def headings(self) -> dict[str, str]:
        """R@1, R@5 and mAP."""
        suffix, note = ("", "") if True in self.center else ("_uncentered", " (uncentered)")
        names = {"recall@1": "R@1", "recall@5": "R@5", "mean_average_precision": "mAP"}
        return {f"{name}{suffix}": f"{heading}{note}" for name, heading in names.items()}

    def check(self, shapes: Mapping[str, tuple[int, ...]], labels: np.ndarray, splits: Sequence[Split]) -> None:
        """Raise ValueError where a set has one item, which centering turns into zero."""
        if True in self.center:
            check_centering(splits)

    def run(
        self, features: Encoded, labels: np.ndarray, classes: Sequence[str], splits: Sequence[Split], *, seed: int = 0
    ) -> Result:
        """ "recall@k" and "mean_average_precision" of each query; see `wt_jax.eval.protocols.base.Protocol`."""
        results = []
        for split in splits:
            gallery, gallery_labels, query, query_labels = parts(features, labels, split)
            pair = (query.values, query_labels, gallery.values, gallery_labels)
            values = {}
            for center in self.center:
                suffix = "" if center else "_uncentered"
                found = retrieval_hits(*pair, self.ks, center)
                values |= {f"recall@{k}{suffix}": hit.astype(np.float64) for k, hit in found.items()}
                values[f"mean_average_precision{suffix}"] = average_precisions(*pair, center)
            results.append(Result(split.test, np.zeros(len(query_labels), np.int32), query_labels, values))
        return join(results)


def retrieval_recall(
    query_features: np.ndarray,
    query_labels: np.ndarray,
    gallery_features: np.ndarray,
    gallery_labels: np.ndarray,
    ks: Sequence[int] = (1, 5, 10, 20, 50),
    center: bool = True,
) -> dict[int, float]:
    """Recall at k: the fraction of queries with an item of their class among the k nearest of the gallery (CoCLR).

    A query whose class is absent from the gallery is a miss. A k above the gallery's size means the whole gallery.

    Args:
      query_features: (Q, D) float features.
      query_labels: (Q,) integer classes.
      gallery_features: (N, D) float features.
      gallery_labels: (N,) integer classes.
      ks: the values of k, each at least 1.
      center: whether each set is first centered by its own mean.

    Returns:
      {k: recall in [0, 1]}.

    Raises:
      ValueError: as `nearest`, or labels that do not fit.
    """
    hits = retrieval_hits(query_features, query_labels, gallery_features, gallery_labels, ks, center)
    return {k: float(hit.mean()) for k, hit in hits.items()}


def retrieval_hits(
    query_features: np.ndarray,
    query_labels: np.ndarray,
    gallery_features: np.ndarray,
    gallery_labels: np.ndarray,
    ks: Sequence[int] = (1, 5, 10, 20, 50),
    center: bool = True,
) -> dict[int, np.ndarray]:
    """{k: (Q,) bool, whether an item of the query's class is among the k nearest}; the rest is as in `retrieval_recall`."""
    query_labels, gallery_labels = _prepared_labels(query_features, query_labels, gallery_features, gallery_labels)
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {tuple(ks)}; ask for at least one k, each at least 1")
    neighbors = nearest(query_features, gallery_features, max(ks), center)
    hit = gallery_labels[neighbors] == query_labels[:, None]
    return {k: hit[:, :k].any(axis=1) for k in ks}


def mean_average_precision(
    query_features: np.ndarray,
    query_labels: np.ndarray,
    gallery_features: np.ndarray,
    gallery_labels: np.ndarray,
    center: bool = True,
) -> float:
    """Mean over the queries of the average precision of the whole ranked gallery (Manning et al. 2008, section 8.4).

    Arguments and errors are those of `average_precisions`.

    Returns:
      A number in [0, 1].
    """
    return float(average_precisions(query_features, query_labels, gallery_features, gallery_labels, center).mean())


def average_precisions(
    query_features: np.ndarray,
    query_labels: np.ndarray,
    gallery_features: np.ndarray,
    gallery_labels: np.ndarray,
    center: bool = True,
) -> np.ndarray:
    """The average precision of each query: the mean, over the gallery items of its class, of the precision at their rank.

    It is 0 if there is none (our choice: the query then counts as a failure, as in `retrieval_recall`).

    Args:
      query_features: (Q, D) float features.
      query_labels: (Q,) integer classes.
      gallery_features: (N, D) float features.
      gallery_labels: (N,) integer classes.
      center: whether each set is first centered by its own mean.

    Returns:
      (Q,) float64 in [0, 1].

    Raises:
      ValueError: as `retrieval_recall`.
    """
    query_labels, gallery_labels = _prepared_labels(query_features, query_labels, gallery_features, gallery_labels)
    query, gallery = prepared(query_features, gallery_features, center)
    ranks = np.arange(1, len(gallery) + 1)
    precisions = np.empty(len(query))
    for rows, similarity in similarity_chunks(query, gallery):
        ranked = gallery_labels[np.argsort(-similarity, axis=1, kind="stable")]
        relevant = ranked == query_labels[rows, None]
        precision_at_hits = (relevant.cumsum(axis=1) / ranks * relevant).sum(axis=1)
        precisions[rows] = precision_at_hits / np.maximum(relevant.sum(axis=1), 1)
    return precisions


def _prepared_labels(query, query_labels, gallery, gallery_labels) -> tuple[np.ndarray, np.ndarray]:
    return (
        check_labels("query_labels", query_labels, len(query)),
        check_labels("gallery_labels", gallery_labels, len(gallery)),
    )
