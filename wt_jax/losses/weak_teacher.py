"""The weak teacher's artificial labels and the loss that learns from them.

Source: "Systems and methods for video representation learning with a weak teacher", US20220156593A1 / US12210976B2,
claim 1, and H. Liu, "Improving self-supervision in video representation learning", NTU 2021 (abstract). Neither prints
an equation that could be read: the equations here are our inference from the claim and the abstract. In short:

    z_i  = [q_i.k_i, q_i.Qs_1, ..., q_i.Qs_K] / t           p_i = softmax(z_i)
    s_ij = exp(w_i.Qw_j / t_w) / sum_m exp(w_i.Qw_m / t_w)   over negatives only
    y_i  = [1 - l, l s_i1, ..., l s_iK]                      the artificial label
    L_i  = - sum_j y_ij log p_ij

q: student, strong view; k: teacher, strong view; w: the weak teacher (the same parameters), weak view; Qs and Qw: queues
of past k and w, slot j of both from one video.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses.contrastive import similarity_logits, soft_cross_entropy


def _smoothed(distribution: Array, label_weight: ArrayLike) -> Array:
    """One-hot labels smoothed by (B, K) rows that sum to 1, or to 0 where a row has no negative and stays one-hot."""
    soft = label_weight * distribution
    rest = 1.0 - jnp.asarray(label_weight, jnp.float32) * jnp.sum(distribution, axis=-1, keepdims=True)
    return jax.lax.stop_gradient(jnp.concatenate([rest, soft], axis=-1))


def _relations(weak_key: Array, weak_queue: Array, temperature: ArrayLike, mask: Array | None) -> Array:
    """softmax(w.Qw / temperature) over the slots that the mask allows, (B, K) float32; zeros where it allows none."""
    weak_key, weak_queue = (jnp.asarray(x, jnp.float32) for x in (weak_key, weak_queue))
    similarity = jnp.matmul(weak_key, weak_queue.T, precision=jax.lax.Precision.HIGHEST) / temperature
    if mask is None:
        return jax.nn.softmax(similarity, axis=-1)
    return jnp.where(mask, jax.nn.softmax(jnp.where(mask, similarity, -jnp.inf), axis=-1, where=mask), 0.0)


def artificial_labels(
    weak_key: Array, weak_queue: Array, *, temperature: ArrayLike, label_weight: ArrayLike, mask: Array | None = None
) -> Array:
    """One-hot labels smoothed by the weak teacher's similarities to other videos.

    Args:
      weak_key: (B, D) float, L2-normalised; the weak teacher's view of each video.
      weak_queue: (K, D) float, L2-normalised; its view of other videos.
      temperature: positive scalar t_w; infinity spreads the mass evenly.
      label_weight: scalar l in [0, 1], the mass that leaves the positive; it may be traced (a schedule).
      mask: (B, K) bool, True where a slot may serve as a negative; a row without any keeps its one-hot label.

    Returns:
      y (B, 1 + K) float32, rows sum to 1, slot 0 is the positive. No gradient flows through it.

    >>> import jax.numpy as jnp
    >>> labels = artificial_labels(jnp.eye(2)[:1], jnp.eye(2), temperature=1.0, label_weight=0.5)
    >>> [f"{y:.3f}" for y in labels[0]]
    ['0.500', '0.366', '0.134']
    """
    return _smoothed(_relations(weak_key, weak_queue, temperature, mask), label_weight)


def label_smoothing(mask: Array, *, label_weight: ArrayLike) -> Array:
    """The control without a teacher: the same mass spread evenly over the slots that the (B, K) bool mask allows.

    Returns:
      y (B, 1 + K) float32, rows sum to 1; a row without any allowed slot keeps its one-hot label.
    """
    allowed = jnp.asarray(mask, jnp.float32)
    return _smoothed(allowed / jnp.maximum(jnp.sum(allowed, axis=-1, keepdims=True), 1.0), label_weight)


def weak_teacher_loss(
    query: Array,
    key: Array,
    weak_key: Array,
    strong_queue: Array,
    weak_queue: Array,
    *,
    temperature: ArrayLike = 0.07,
    weak_temperature: ArrayLike = 0.07,
    label_weight: ArrayLike = 0.2,
    mask: Array | None = None,
) -> Array:
    """Contrastive loss of the student against the weak teacher's artificial labels (equations above).

    It equals (1 - l) InfoNCE + l sum_j s_ij (-log p_ij). With label_weight 0 it is exactly `info_nce`; with an infinite
    weak temperature it is InfoNCE with plain label smoothing; with label_weight 1 only the relations teach.

    Args:
      query: (B, D) float, the student's strong view, L2-normalised by the caller like all the others. The only argument
        that receives a gradient: (p - y) / temperature with respect to the similarities.
      key: (B, D) float, the first teacher's strong view.
      weak_key: (B, Dw) float, the second (weak) teacher's weak view; Dw may differ from D.
      strong_queue: (K, D) float, past keys.
      weak_queue: (K, Dw) float, past weak keys; slot j comes from the same video as slot j of `strong_queue`.
      temperature, weak_temperature: positive scalars. Both defaults are our inference (0.07 is MoCo's).
      label_weight: scalar in [0, 1]; the default is our inference.
      mask: (B, K) bool, True where a queue slot may serve as a negative.

    Returns:
      (B,) float32.
    """
    key, strong_queue = jax.lax.stop_gradient((key, strong_queue))
    logits = similarity_logits(query, key, strong_queue, temperature=temperature, mask=mask)
    labels = artificial_labels(weak_key, weak_queue, temperature=weak_temperature, label_weight=label_weight, mask=mask)
    return soft_cross_entropy(logits, labels)


def relational_loss(
    query: Array,
    weak_key: Array,
    strong_queue: Array,
    weak_queue: Array,
    *,
    temperature: ArrayLike = 0.1,
    weak_temperature: ArrayLike = 0.04,
    mask: Array | None = None,
) -> Array:
    """The relations alone, with no positive slot: the form of ReSSL (Zheng et al. 2021, arXiv 2107.09282, eq. 5).

    ReSSL keeps one queue; with `strong_queue` and `weak_queue` the same array this is its loss (temperatures 0.1 and 0.04
    are its own). Arguments are those of `weak_teacher_loss`. A row whose mask allows no slot has loss 0.

    Returns:
      (B,) float32.
    """
    strong_queue = jax.lax.stop_gradient(strong_queue)
    no_positive = jnp.zeros_like(query)
    logits = similarity_logits(query, no_positive, strong_queue, temperature=temperature, mask=mask)[:, 1:]
    relations = _relations(weak_key, weak_queue, weak_temperature, mask)
    return jnp.sum(relations, axis=-1) * soft_cross_entropy(logits, relations)
