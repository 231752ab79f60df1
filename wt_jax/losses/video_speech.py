"""Margin losses between clips and the speech of their window, paced by affinity.

After Jiao et al. 2020 (arXiv 2008.06607), whose abstract alone could be read (correspondence, affinity-aware self-paced
learning), and an interview (hard positive and negative pairs): the equations are our inference.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses.contrastive import check_mask, similarities


def paced_margin_loss(
    anchor: Array, positive: Array, *, mask: Array, ceiling: ArrayLike = 1.0, margin: ArrayLike = 0.5
) -> Array:
    """Negatives nearer than the margin, of those whose affinity to the anchor is not above a ceiling: easy ones first.

        L_i = mean over {j: mask_ij, a_i.p_j <= c} of max(0, m + a_i.p_j - a_i.p_i),   0 where there is no such j

    Args:
      anchor, positive: (B, D) float, L2-normalized; row i of one belongs to row i of the other. Gradient flows into both.
      mask: (B, B) bool, whether positive j may be a negative of anchor i.
      ceiling: c; from 1 on all negatives count. No gradient flows through the choice.
      margin: m, 0 or more.

    Returns:
      (B,) float32, at least 0.
    """
    found = similarities(anchor, positive)
    check_mask(mask, *found.shape)
    own = jnp.sum(jnp.asarray(anchor, jnp.float32) * jnp.asarray(positive, jnp.float32), axis=-1, keepdims=True)
    ceiling = jnp.where(jnp.asarray(ceiling) >= 1, jnp.inf, ceiling)  # a cosine may round to more than 1
    admitted = mask & (jax.lax.stop_gradient(found) <= ceiling)
    hinges = jnp.where(admitted, jax.nn.relu(margin + found - own), 0.0)
    return jnp.sum(hinges, axis=-1) / jnp.maximum(jnp.sum(admitted, axis=-1, dtype=jnp.float32), 1.0)


def video_speech_loss(
    video: Array,
    speech: Array,
    other: Array,
    *,
    mask: Array,
    ceiling: ArrayLike = 1.0,
    hard_weight: ArrayLike = 1.0,
    hard: str = "negative",
    margin: ArrayLike = 0.5,
    pull: ArrayLike = 1.0,
) -> Array:
    """A clip and the speech of its window attract, both repel those of other videos; and another clip of the same video.

        L_i = p (1 - v_i.s_i) + (paced(v, s)_i + paced(s, v)_i) / 2 + h * hard_i
        hard_i = max(0, m + v'_i.s_i - v_i.s_i) of a hard negative, 1 - v'_i.s_i of a hard positive

    Args:
      video, speech, other: (B, D) float, L2-normalized: a clip, its speech, and a clip elsewhere in the same video, which looks
        the same while other words are said.
      mask: (B, B) bool, whether the pair j is one of negatives for i; symmetric.
      ceiling, margin: as in `paced_margin_loss`.
      hard_weight: h.
      hard: "negative" or "positive": what the other clip is.
      pull: p. Pairs attract within the margin losses too, relative to others. A large p holds embeddings that are near each
        other together: they part only along what correlates in clips and speech by more than p / (p + fraction of active
        negatives), by our estimate for small distances.

    Returns:
      (B,) float32, at least 0. Symmetric in `video` and `speech` where `hard_weight` is 0.
    """
    paced = {"mask": mask, "ceiling": ceiling, "margin": margin}
    video, speech, other = (jnp.asarray(x, jnp.float32) for x in (video, speech, other))
    own, elsewhere = jnp.sum(video * speech, axis=-1), jnp.sum(other * speech, axis=-1)
    both = paced_margin_loss(video, speech, **paced) + paced_margin_loss(speech, video, **paced)
    hard_loss = jax.nn.relu(margin + elsewhere - own) if hard == "negative" else 1.0 - elsewhere
    return jnp.asarray(pull, jnp.float32) * (1.0 - own) + both / 2.0 + hard_weight * hard_loss
