"""VTDL's temporal triplet (Wang et al. 2020, arXiv 2008.02129)."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses.contrastive import similarity_logits


def vtdl_loss(
    query: Array, key: Array, negative: Array, queue: Array, *, temperature: ArrayLike = 0.07, mask: Array | None = None
) -> Array:
    """InfoNCE with one more negative of each row's own: another segment of the same video.

        L = -log( exp(q.k / t) / (exp(q.k / t) + sum_j exp(q.Q_j / t) + exp(q.n / t)) )

    Without the last term it is `info_nce`.

    Args:
      query: (B, D) float, L2-normalized like all the others: the anchor, by the student.
      key: (B, D) float, the same segment, by the teacher; a constant.
      negative: (B, D) float, another segment of the video, by the student: gradient flows into it too.
      queue: (K, D) float, past keys.
      temperature: positive scalar; 0.07 is the authors'.
      mask: (B, K) bool, True where a queue slot may serve as a negative.

    Returns:
      (B,) float32, at least 0.
    """
    key, queue = jax.lax.stop_gradient((key, queue))
    logits = similarity_logits(query, key, queue, temperature=temperature, mask=mask)
    query, negative = (jnp.asarray(x, jnp.float32) for x in (query, negative))
    own = jnp.sum(query * negative, axis=-1, keepdims=True) / temperature
    return jax.nn.logsumexp(jnp.concatenate([logits, own], axis=-1), axis=-1) - logits[:, 0]
