"""SwAV's codes and swapped prediction (Caron et al. 2020, arXiv 2006.09882)."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses.contrastive import soft_cross_entropy


def sinkhorn(scores: Array, *, epsilon: ArrayLike = 0.05, iterations: int = 3, valid: Array | None = None) -> Array:
    """Codes: the scores' soft assignment that uses all prototypes equally (section 3.1, eq. 3 and 4).

    Rows and columns of exp(scores / epsilon) are normalized in turn; in logarithms, which neither over- nor underflow.

    Args:
      scores: (N, P) float, similarities of embeddings to prototypes.
      epsilon: positive scalar; the smaller, the harder the codes.
      iterations: turns, 1 or more; 3 in the source.
      valid: (N,) bool, rows that count towards the use of the prototypes (others: empty slots of a queue); None: all.

    Returns:
      (N, P) float32, rows sum to 1; over the valid rows each column's sum tends to the same value. No gradient.

    >>> import jax.numpy as jnp
    >>> [f"{x:.3f}" for x in sinkhorn(jnp.array([[0.9, 0.1], [0.8, 0.3]]), epsilon=1.0)[0]]
    ['0.537', '0.463']
    """
    log_codes = jax.lax.stop_gradient(jnp.asarray(scores, jnp.float32)) / epsilon
    for _ in range(iterations):
        counted = log_codes if valid is None else jnp.where(valid[:, None], log_codes, -jnp.inf)
        log_codes = log_codes - jax.nn.logsumexp(counted, axis=0, keepdims=True)
        log_codes = jax.nn.log_softmax(log_codes, axis=1)
    return jnp.exp(log_codes)


def swapped_prediction(scores: Array, codes: Array, *, temperature: ArrayLike = 0.1) -> Array:
    """Predict one view's codes from another view's scores (eq. 2): -sum_p q_p log softmax(scores / t)_p.

    Args:
      scores: (B, P) float, similarities of one view to the prototypes; receives the gradient.
      codes: (B, P) float32, `sinkhorn` of another view of the same videos.
      temperature: positive scalar.

    Returns:
      (B,) float32.
    """
    return soft_cross_entropy(jnp.asarray(scores, jnp.float32) / temperature, codes)
