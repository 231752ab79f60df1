"""Targets in place of the one-hot label that several methods learn from.

Each returns the loss (B,) of the student's view "query" and the labels (B, 1 + K) that it is a cross-entropy against.
"""

from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses import label_smoothing, relational_loss, similarity_labels, similarity_logits, soft_cross_entropy
from wt_jax.methods.queue_contrast import Seen


def smoothed(seen: Seen, *, temperature: ArrayLike, label_weight: ArrayLike, among: Array | None = None) -> tuple[Array, Array]:
    """The view "key" is the positive; the mass l is spread evenly over the negatives. With l = 0 the loss is InfoNCE.

    With `among` (B, K) bool only these negatives get any of it; a video that has none of them keeps its one-hot label.
    """
    query, key, queue = seen.queries["query"], seen.keys["key"], seen.queue["key"]
    logits = similarity_logits(query, key, queue, temperature=temperature, mask=seen.mask)
    labels = label_smoothing(seen.mask if among is None else among, label_weight=label_weight)
    return soft_cross_entropy(logits, labels), labels


def related(seen: Seen, view: str, *, temperature: ArrayLike, weak_temperature: ArrayLike) -> tuple[Array, Array]:
    """No positive: the similarities of the teacher's `view` to its own queue are the target."""
    key, queue, weak_queue = seen.keys[view], seen.queue["key"], seen.queue[view]
    temperatures = {"temperature": temperature, "weak_temperature": weak_temperature}
    loss = relational_loss(seen.queries["query"], key, queue, weak_queue, **temperatures, mask=seen.mask)
    return loss, similarity_labels(key, None, weak_queue, temperature=weak_temperature, mask=seen.mask)
