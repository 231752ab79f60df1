"""Cosine similarity between two sets of features, and the checks common to every protocol on features.

NumPy on the host, so that a result does not depend on the accelerator's matmul precision. Products are summed in
float64 and rounded to twelve decimals: equal items then tie whatever BLAS does, ties go to the lower gallery index, and
features of nearly the same direction, whose cosines differ by little, keep their order (float32 would lose it).
"""

from collections.abc import Iterator

import numpy as np

# Similarities held at once: 2^24 float64 values are 128 MiB.
_CHUNK_VALUES = 2**24


def check_features(name: str, features: np.ndarray) -> np.ndarray:
    """Returns `features` as an array, after checking that it is a usable set.

    Args:
      name: what to call the set in an error.
      features: (N, D) real numbers, all finite, N and D at least 1.

    Raises:
      ValueError: another rank, an empty set, or NaN or infinity (the rows are named).
    """
    features = np.asarray(features)
    if features.ndim != 2:
        raise ValueError(f"{name} has shape {features.shape}; pass a (count, dimension) array")
    if features.size == 0:
        raise ValueError(f"{name} is empty (shape {features.shape}); pass at least one feature vector")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        shown = ", ".join(map(str, bad[:8])) + (", ..." if bad.size > 8 else "")
        raise ValueError(f"{name} has NaN or infinity in {bad.size} of {len(features)} rows ({shown}); drop or re-extract them")
    return features


def check_labels(name: str, labels: np.ndarray, count: int) -> np.ndarray:
    """Returns `labels` as an array, after checking that there is one class per feature vector.

    Args:
      name: what to call the labels in an error.
      labels: (count,) integers, none negative.
      count: how many feature vectors there are.

    Raises:
      ValueError: another shape, not integers, or a negative label (an unlabelled item).
    """
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise ValueError(f"{name} has shape {labels.shape}; pass one label per feature vector: ({count},)")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} has dtype {labels.dtype}; pass integer class numbers")
    if labels.min() < 0:
        raise ValueError(f"{name} holds {labels.min()}; classes count from 0, so drop the unlabelled items")
    return labels


def check_pair(first_name: str, first: np.ndarray, second_name: str, second: np.ndarray) -> None:
    """Raises ValueError unless two sets of features, both (N, D), have the same dimension D."""
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{first_name} has dimension {first.shape[1]} and {second_name} has {second.shape[1]}; "
            "take both from the same encoder"
        )


def centered(name: str, features: np.ndarray) -> np.ndarray:
    """Returns (N, D) float64 features minus their own mean, as CoCLR centers each set before a comparison.

    Raises:
      ValueError: a set of one vector, which centering would turn into zero.
    """
    if len(features) == 1:
        raise ValueError(f"{name} has one row, which centering turns into zero; pass more rows or center=False")
    # float32 values that are all equal have an exact float64 mean, so a collapsed set becomes exactly zero.
    features = features.astype(np.float64)
    return features - features.mean(axis=0)


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Returns (N, D) float64 rows of length 1; a zero row stays zero and has similarity 0 to everything."""
    features = features.astype(np.float64)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length > 0, length, 1)


def top_k(similarity: np.ndarray, k: int) -> np.ndarray:
    """Indices of the `k` largest values of each row, largest first, the lower index first among equals.

    Args:
      similarity: (Q, N) real numbers, no NaN.
      k: from 1 to N.

    Returns:
      (Q, k) integer indices into the columns.
    """
    smallest = np.partition(similarity, -k, axis=1)[:, -k, None]
    above, tied = similarity > smallest, similarity == smallest
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (tied & (tied.cumsum(axis=1) <= room))
    columns = np.nonzero(chosen)[1].reshape(-1, k)
    order = np.argsort(-np.take_along_axis(similarity, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


def similarity_chunks(query: np.ndarray, gallery: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (rows, cosine similarity of these query rows to the whole gallery), a bounded number of rows at a time.

    Args:
      query: (Q, D) features of any length.
      gallery: (N, D) features of any length.

    Yields:
      A slice of the queries and its (rows, N) float64 similarities.
    """
    query, gallery = unit_rows(query), unit_rows(gallery)
    rows = max(1, _CHUNK_VALUES // len(gallery))
    for start in range(0, len(query), rows):
        chunk = slice(start, start + rows)
        similarity = query[chunk] @ gallery.T
        yield chunk, np.round(similarity, 12, out=similarity)


def nearest(query: np.ndarray, gallery: np.ndarray, k: int, center: bool = True) -> np.ndarray:
    """The `k` gallery items most similar to each query, by cosine.

    Args:
      query: (Q, D) float features.
      gallery: (N, D) float features; a query that is in the gallery finds itself first.
      k: how many, at least 1; more than N means N.
      center: whether each set is first centered by its own mean, as CoCLR does.

    Returns:
      (Q, min(k, N)) int32 gallery indices, most similar first, the lower index first among equals.

    Raises:
      ValueError: empty or non-finite features, different dimensions, k below 1, or a set of one row to be centered.
    """
    query, gallery = prepared(query, gallery, center)
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least 1 neighbor")
    k = min(k, len(gallery))
    return np.concatenate([top_k(chunk, k) for _, chunk in similarity_chunks(query, gallery)]).astype(np.int32)


def prepared(query: np.ndarray, gallery: np.ndarray, center: bool) -> tuple[np.ndarray, np.ndarray]:
    """Both sets checked and, with `center`, each centered by its own mean; errors are those of `nearest`."""
    query, gallery = check_features("query_features", query), check_features("gallery_features", gallery)
    check_pair("query_features", query, "gallery_features", gallery)
    return (centered("query_features", query), centered("gallery_features", gallery)) if center else (query, gallery)
