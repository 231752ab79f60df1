"""Spatial and temporal contrast at several depths: HDC-style (Zhang & Crandall 2022, arXiv 2011.11261).

The paper's abstract has the plan (two subtasks, several depths, weights that model instance invariance). Its formulas
could not be read and no code is public: what is here is our inference.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses.contrastive import has_explicit_axes, similarities


def in_batch_info_nce(
    query: Array, key: Array, *, negative: Array | None = None, temperature: ArrayLike = 0.1, video: Array | None = None
) -> Array:
    """InfoNCE whose negatives are the keys of the other videos in the batch, and one more of each row's own.

        L_i = -log( exp(q_i.k_i / t) / (sum_j exp(q_i.k_j / t) + exp(q_i.n_i / t)) )

    Args:
      query, key: (B, D) float, L2-normalized; gradient flows into both.
      negative: (B, D) float, L2-normalized: another view of the same video that must look different; None: no such term.
      temperature: positive scalar.
      video: (B,) int32; keys of the same video are no negatives. None: all rows are different videos.

    Returns:
      (B,) float32, at least 0.
    """
    logits = similarities(query, key) / temperature
    rows = jnp.arange(query.shape[0])
    video = rows if video is None else video
    excluded = (video[:, None] == video[None, :]) & (rows[:, None] != rows[None, :])
    logits = jnp.where(excluded, -jnp.inf, logits)
    if has_explicit_axes(logits):
        positive = jnp.sum(jnp.where(rows[:, None] == rows[None, :], logits, 0.0), axis=-1)  # the diagonal, row by row
    else:
        positive = jnp.diagonal(logits)
    if negative is not None:
        query, negative = (jnp.asarray(x, jnp.float32) for x in (query, negative))
        own = jnp.sum(query * negative, axis=-1, keepdims=True) / temperature
        logits = jnp.concatenate([logits, own], axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - positive


def invariance_weights(invariance: Array, *, floor: float = 0.05) -> Array:
    """Weights of the depths in proportion to how instance-invariant each of them is.

        a_l = max(c_l, floor) / sum_m max(c_m, floor),   c_l: mean cosine of positive pairs at depth l

    Shallow features vary within a video, so holding them to the same objective would be wrong: they count less.

    Args:
      invariance: (L,) float, mean cosines in [-1, 1].
      floor: least cosine, above 0, so that no depth drops out.

    Returns:
      (L,) float32, sum 1. No gradient. Equal invariances give equal weights.
    """
    level = jnp.maximum(jax.lax.stop_gradient(jnp.asarray(invariance, jnp.float32)), floor)
    return level / jnp.sum(level)
