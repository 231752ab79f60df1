"""SCALE's two losses on sets of clips (Sameni, Jenni, Favaro 2023, arXiv 2211.17042, and its public code)."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses.hdc import in_batch_info_nce


def set_contrast(first: Array, second: Array, *, temperature: ArrayLike = 0.2) -> Array:
    """Two sets of clips of one video attract, sets of other videos repel, both ways round.

        L_i = -(log softmax_j(a_i.b_j / t)_i + log softmax_j(b_i.a_j / t)_i) / 2

    Args:
      first, second: (B, D) float, L2-normalized embeddings of two sets of each video. Gradient flows into both.
      temperature: positive scalar; 0.2 is the authors'.

    Returns:
      (B,) float32, at least 0; 0 where there is one video.
    """
    there = in_batch_info_nce(first, second, temperature=temperature)
    return (there + in_batch_info_nce(second, first, temperature=temperature)) / 2.0


def masked_clip_loss(predicted: Array, target: Array, masked: Array, *, temperature: ArrayLike = 0.2) -> Array:
    """Which of all clips of the batch is the one that was masked here?

        L_n = -log softmax_m(p_n.g_m / t)_n   for masked n, else 0

    Args:
      predicted: (N, D) float, L2-normalized: what a network expects at each place.
      target: (N, D) float, L2-normalized, of the clips themselves. Gradient flows into both.
      masked: (N,) bool, the places that were hidden from the network.
      temperature: positive scalar; 0.2 is the authors'.

    Returns:
      (N,) float32; their sum over the number of masked places is the authors' mean.
    """
    return jnp.where(masked, in_batch_info_nce(predicted, target, temperature=temperature), 0.0)
