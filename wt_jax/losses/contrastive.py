"""Contrastive logits and the cross-entropies over them.

InfoNCE: van den Oord et al. 2018 (arXiv 1807.03748), with the queue of MoCo: He et al. 2020 (arXiv 1911.05722, eq. 1).
NT-Xent: Chen et al. 2020 (arXiv 2002.05709, eq. 1).
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, PartitionSpec
from jax.typing import ArrayLike

# Logit of a slot that may not serve as a negative: finite, so that 0 * logit stays 0, and exp of it is exactly 0.
_EXCLUDED = -1e9


def check_mask(mask: Array, rows: int, slots: int) -> None:
    """Raises TypeError for another dtype than bool, ValueError for another shape than (rows, slots), naming `mask`."""
    if mask.dtype != bool:
        raise TypeError(
            f"mask must be bool, True where a slot may serve as a negative; got {mask.dtype} (mask > 0 makes it bool)"
        )
    if mask.shape != (rows, slots):
        raise ValueError(f"mask must be of shape {(rows, slots)}, a row per query and a column per slot; got {mask.shape}")


def has_explicit_axes(array: Array) -> bool:
    """Whether the array is on a mesh with explicit axes, where an operation must not mix rows of different devices."""
    return any(axis == AxisType.Explicit for axis in jax.typeof(array).sharding.mesh.axis_types)


def similarities(rows: Array, columns: Array) -> Array:
    """Inner products of (N, D) and (M, D), any float dtype -> (N, M) float32."""
    rows, columns = (jnp.asarray(x, jnp.float32) for x in (rows, columns))
    if has_explicit_axes(columns):
        # The compiler does not gather by itself there, and rows and columns may be on the same axis.
        columns = jax.sharding.reshard(columns, PartitionSpec(None, None))
    # Full precision: a TPU's default would round the similarities to bfloat16, and the temperature magnifies that.
    return jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)


def similarity_logits(query: Array, key: Array, queue: Array, *, temperature: ArrayLike, mask: Array | None = None) -> Array:
    """Logits of "which of these is my other view": the positive in slot 0, then the queue.

    Args:
      query, key: (B, D) float, L2-normalized by the caller; row i of `key` is the positive of row i of `query`.
      queue: (K, D) float, L2-normalized; the negatives.
      temperature: positive scalar.
      mask: (B, K) bool, True where a queue slot may serve as a negative of that row; None: everywhere.

    Returns:
      (B, 1 + K) float32.

    Raises:
      TypeError, ValueError: the mask is not bool, or of another shape.
    """
    query, key = (jnp.asarray(x, jnp.float32) for x in (query, key))
    positive = jnp.sum(query * key, axis=-1, keepdims=True)
    negative = similarities(query, queue)
    if mask is not None:
        check_mask(mask, *negative.shape)
        negative = jnp.where(mask, negative, _EXCLUDED * temperature)
    return jnp.concatenate([positive, negative], axis=-1) / temperature


def soft_cross_entropy(logits: Array, labels: Array) -> Array:
    """Cross-entropy -sum_j y_j log softmax(z)_j of rows of `labels` that sum to 1.

    Args:
      logits: (B, N) float32.
      labels: (B, N) float32, rows sum to 1, 0 where a logit is excluded. No gradient flows into them.

    Returns:
      (B,) float32. Its gradient with respect to the logits is softmax(logits) - labels.
    """
    labels = jax.lax.stop_gradient(labels)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(labels * logits, axis=-1)


def info_nce(query: Array, key: Array, queue: Array, *, temperature: ArrayLike = 0.07, mask: Array | None = None) -> Array:
    """InfoNCE with a queue of negatives, -log p_0 (MoCo, eq. 1).

    Arguments are those of `similarity_logits`. Gradient flows into `query` alone.

    Returns:
      (B,) float32, at least 0.

    >>> import jax.numpy as jnp
    >>> [f"{x:.3f}" for x in info_nce(jnp.eye(2), jnp.eye(2), jnp.eye(2), temperature=1.0)]
    ['0.862', '0.862']
    """
    key, queue = jax.lax.stop_gradient((key, queue))
    logits = similarity_logits(query, key, queue, temperature=temperature, mask=mask)
    return jax.nn.logsumexp(logits, axis=-1) - logits[:, 0]


def nt_xent(views: Array, *, temperature: ArrayLike = 0.1) -> Array:
    """NT-Xent: InfoNCE within the batch, every view once the query (SimCLR, eq. 1).

        l(i, j) = -log( exp(z_i.z_j / t) / (exp(z_i.z_j / t) + sum_{k of other videos} exp(z_i.z_k / t)) )

    averaged over all ordered pairs (i, j) of views of a video. For two views this is SimCLR's loss; that further views of
    the same video are no negatives of one another is how the rho study has it (arXiv 2104.14558).

    Args:
      views: (B, V, D) float, L2-normalized; V views of each of B videos, V at least 2. Gradient flows into all.
      temperature: positive scalar; 0.1 is CVRL's (arXiv 2008.03800).

    Returns:
      (B,) float32.

    >>> import jax.numpy as jnp
    >>> pair = jnp.stack([jnp.eye(2), jnp.eye(2)], axis=1)
    >>> [f"{x:.3f}" for x in nt_xent(pair, temperature=1.0)]
    ['0.551', '0.551']
    """
    count, number, dim = views.shape
    flat = views.reshape(count * number, dim)
    logits = similarities(flat, flat) / temperature
    video = jnp.arange(count * number) // number
    negative = jax.nn.logsumexp(jnp.where(video[:, None] == video[None, :], _EXCLUDED, logits), axis=-1)
    positive = jnp.einsum("ivd,iwd->ivw", *(jnp.asarray(views, jnp.float32),) * 2, precision="highest") / temperature
    loss = jnp.logaddexp(positive, negative.reshape(count, number, 1)) - positive
    pairs = 1.0 - jnp.eye(number)
    return jnp.sum(loss * pairs[None], axis=(1, 2)) / (number * (number - 1))
