"""Targets over the same slots as the contrastive logits: what each method puts in the place of the one-hot label.

Every builder gives y (B, 1 + K) float32 with rows that sum to 1, slot 0 the positive, 0 in excluded slots, and no gradient;
`soft_cross_entropy` of the student's `similarity_logits` against it is the method's loss:

    one-hot (MoCo)                 label_smoothing(mask, label_weight=0)
    smoothed evenly                label_smoothing
    smoothed by the weak teacher   artificial_labels         similarities among the negatives
    ReSSL                          similarity_labels         the weak key to the queue, no positive slot
    CLSA                           similarity_labels         the weak query to key and queue
    SEED                           similarity_labels         the teacher to itself and to its queue
    CO2                            relations                 the key to the queue, added to the one-hot loss
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses.contrastive import check_mask, similarities, similarity_logits


def relations(anchor: Array, queue: Array, *, temperature: ArrayLike, mask: Array | None = None) -> Array:
    """softmax(anchor.queue / temperature) over the slots that the (B, K) bool mask allows.

    Args:
      anchor: (B, D) float, L2-normalized.
      queue: (K, D) float, L2-normalized.
      temperature: positive scalar.
      mask: (B, K) bool; None: all slots.

    Returns:
      (B, K) float32; rows sum to 1, or are 0 where the mask allows no slot. Gradient flows.
    """
    similarity = similarities(anchor, queue) / temperature
    if mask is None:
        return jax.nn.softmax(similarity, axis=-1)
    check_mask(mask, *similarity.shape)
    return jnp.where(mask, jax.nn.softmax(jnp.where(mask, similarity, -jnp.inf), axis=-1, where=mask), 0.0)


def similarity_labels(
    anchor: Array, key: Array | None, queue: Array, *, temperature: ArrayLike, mask: Array | None = None
) -> Array:
    """The similarity distribution of an anchor over [key, queue], as a target.

    Args:
      anchor: (B, D) float, L2-normalized.
      key: (B, D) float, L2-normalized, compared in slot 0; None: slot 0 gets nothing.
      queue, temperature, mask: as in `relations`.

    Returns:
      y (B, 1 + K) float32. Without a key, a row that has no allowed slot is all 0.
    """
    if key is None:
        shares = relations(anchor, queue, temperature=temperature, mask=mask)
        labels = jnp.pad(shares, ((0, 0), (1, 0)))
    else:
        labels = jax.nn.softmax(similarity_logits(anchor, key, queue, temperature=temperature, mask=mask), axis=-1)
    return jax.lax.stop_gradient(labels)


def artificial_labels(
    weak_key: Array,
    weak_queue: Array,
    *,
    temperature: ArrayLike,
    label_weight: ArrayLike,
    mask: Array | None = None,
    key: Array | None = None,
) -> Array:
    """One-hot labels smoothed by the weak teacher's similarities to other videos; see `wt_jax.losses.weak_teacher`.

    Args:
      weak_key: (B, D) float, L2-normalized; the weak teacher's view of each video.
      weak_queue: (K, D) float, L2-normalized; its view of other videos.
      temperature: positive scalar t_w; infinity spreads the mass evenly.
      label_weight: scalar l in [0, 1], the mass that leaves the positive; it may be traced (a schedule).
      mask: (B, K) bool, True where a slot may serve as a negative; a row without any keeps its one-hot label.
      key: (B, D) float, L2-normalized; the positive, compared as slot 0, so that y_0 = 1 - l + l s_0; None: only the
        negatives are compared, y_0 = 1 - l.

    Returns:
      y (B, 1 + K) float32.

    >>> import jax.numpy as jnp
    >>> labels = artificial_labels(jnp.eye(2)[:1], jnp.eye(2), temperature=1.0, label_weight=0.5)
    >>> [f"{y:.3f}" for y in labels[0]]
    ['0.500', '0.366', '0.134']
    """
    if key is None:
        return _smoothed(relations(weak_key, weak_queue, temperature=temperature, mask=mask), label_weight)
    shares = similarity_labels(weak_key, key, weak_queue, temperature=temperature, mask=mask)
    return _smoothed(shares[:, 1:], label_weight)


def label_smoothing(mask: Array, *, label_weight: ArrayLike) -> Array:
    """The control without a teacher: the same mass spread evenly over the slots that the (B, K) bool mask allows.

    Returns:
      y (B, 1 + K) float32; a row without any allowed slot keeps its one-hot label.
    """
    allowed = jnp.asarray(mask, jnp.float32)
    return _smoothed(allowed / jnp.maximum(jnp.sum(allowed, axis=-1, keepdims=True), 1.0), label_weight)


def _smoothed(distribution: Array, label_weight: ArrayLike) -> Array:
    """One-hot labels smoothed by (B, K) rows that sum to 1, or to 0 where a row has no negative and stays one-hot."""
    soft = label_weight * distribution
    rest = 1.0 - jnp.asarray(label_weight, jnp.float32) * jnp.sum(distribution, axis=-1, keepdims=True)
    return jax.lax.stop_gradient(jnp.concatenate([rest, soft], axis=-1))
