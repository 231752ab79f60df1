"""Contrastive logits and the cross-entropies over them.

InfoNCE: van den Oord et al. 2018 (arXiv 1807.03748), with the queue of MoCo: He et al. 2020 (arXiv 1911.05722, eq. 1).
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

# Logit of a slot that may not serve as a negative: finite, so that 0 * logit stays 0, and exp of it is exactly 0.
_EXCLUDED = -1e9


def similarity_logits(query: Array, key: Array, queue: Array, *, temperature: ArrayLike, mask: Array | None = None) -> Array:
    """Logits of "which of these is my other view": the positive in slot 0, then the queue.

    Args:
      query, key: (B, D) float, L2-normalised by the caller; row i of `key` is the positive of row i of `query`.
      queue: (K, D) float, L2-normalised; the negatives.
      temperature: positive scalar.
      mask: (B, K) bool, True where a queue slot may serve as a negative of that row; None: everywhere.

    Returns:
      (B, 1 + K) float32.
    """
    query, key, queue = (jnp.asarray(x, jnp.float32) for x in (query, key, queue))
    positive = jnp.sum(query * key, axis=-1, keepdims=True)
    # Full precision: a TPU's default would round the similarities to bfloat16, and the temperature magnifies that.
    negative = jnp.matmul(query, queue.T, precision=jax.lax.Precision.HIGHEST)
    if mask is not None:
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
