"""Targets in place of the one-hot label, by what they are made of: controls of the weak teacher, and shared by others.

Each returns a `Contrast` of the loss (B,) of the student's view "query" and of the labels (B, 1 + K) that it learns.
"""

from jax.typing import ArrayLike

from wt_jax.losses import label_smoothing, relational_loss, similarity_labels, similarity_logits, soft_cross_entropy
from wt_jax.methods.queue_contrast import Contrast, Seen


def smoothed(seen: Seen, *, temperature: ArrayLike, label_weight: ArrayLike) -> Contrast:
    """The view "key" is the positive; the mass l is spread evenly over the negatives. With l = 0 the loss is InfoNCE."""
    logits = similarity_logits(
        seen.queries["query"], seen.keys["key"], seen.queue["key"], temperature=temperature, mask=seen.mask
    )
    labels = label_smoothing(seen.mask, label_weight=label_weight)
    return Contrast(soft_cross_entropy(logits, labels), {}, labels=labels)


def related(seen: Seen, second: str, *, temperature: ArrayLike, weak_temperature: ArrayLike) -> Contrast:
    """No positive: the similarities of the teacher's view `second` to its own queue are the target."""
    query, key, queue, weak_queue = seen.queries["query"], seen.keys[second], seen.queue["key"], seen.queue[second]
    temperatures = {"temperature": temperature, "weak_temperature": weak_temperature}
    loss = relational_loss(query, key, queue, weak_queue, **temperatures, mask=seen.mask)
    labels = similarity_labels(key, None, weak_queue, temperature=weak_temperature, mask=seen.mask)
    return Contrast(loss, {}, labels=labels)
