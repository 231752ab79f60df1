"""From uint8 views to what a network reads: colour and blur of whole batches, once per clip, RGB in [0, 1].

Each clip draws from a key folded from the step's key, the view's place in the list and the video's index, so a clip
looks the same wherever in the global batch it stands.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from wt_jax.augment.colour import colour_map
from wt_jax.data.views import PixelSpec, ViewSpec


def _blur_matrix(sigma: Array, size: int) -> Array:
    """(size, size) float32, rows sum to 1: a Gaussian of `sigma` pixels along one axis, renormalised at the border."""
    place = jnp.arange(size, dtype=jnp.float32)
    weight = jnp.exp(-jnp.square(place[:, None] - place[None, :]) / (2.0 * jnp.square(sigma)))
    return weight / jnp.sum(weight, axis=1, keepdims=True)


def _blur(clip: Array, key: Array, spec: PixelSpec) -> Array:
    """Gaussian blur with one sigma per clip. As two matrix products: blur of any width is dense work that chips do well."""
    chance, width = jax.random.split(key)
    sigma = jax.random.uniform(width, (), jnp.float32, *spec.blur_sigma)
    blurred = jax.random.bernoulli(chance, spec.blur_probability)
    matrix = jnp.where(blurred, _blur_matrix(sigma, clip.shape[1]), jnp.eye(clip.shape[1]))
    return jnp.einsum("ih,thwc,jw->tijc", matrix, clip, matrix)


def _finish_clip(clip: Array, key: Array, spec: PixelSpec) -> Array:
    colour_key, blur_key = jax.random.split(key)
    clip = clip.astype(jnp.float32) / 255.0
    if spec.jitter_probability > 0 or spec.gray_probability > 0:
        matrix, offset = colour_map(colour_key, spec, jnp.mean(clip, axis=(0, 1, 2)))
        # Not as a matrix product: with three columns that is the slowest way (5.5 ms against 0.3 ms on a CPU).
        changed = sum(clip[..., k : k + 1] * matrix[:, k] for k in range(3)) + offset
        clip = jnp.clip(changed, 0.0, 1.0)
    if spec.blur_probability > 0:
        clip = _blur(clip, blur_key, spec)
    return clip


def finish_view(clips: Array, videos: Array, key: Array, spec: PixelSpec) -> Array:
    """Finish the pixels of one view.

    Args:
      clips: (B, T, H, W, 3) uint8.
      videos: (B,) int32, indices of the videos; they choose each clip's random draw.
      key: PRNG key of the step and view.
      spec: what may happen to the pixels; everything is drawn once per clip.

    Returns:
      (B, T, H, W, 3) float32 in [0, 1]; an encoder normalises by the mean and deviation that belong to it.
    """
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, videos)
    return jax.vmap(_finish_clip, in_axes=(0, 0, None))(clips, keys, spec)


def finish_views(batch: Mapping[str, Array], views: Mapping[str, ViewSpec], key: Array) -> dict[str, Array]:
    """`batch` with each view finished by `finish_view`; labels and indices pass through."""
    finished = dict(batch)
    for place, (name, view) in enumerate(views.items()):
        finished[name] = finish_view(batch[name], batch["video"], jax.random.fold_in(key, place), view.pixels)
    return finished


def to_uint8(clips: Array) -> np.ndarray:
    """Finished clips (B, T, H, W, 3) as pictures again, uint8."""
    return np.clip(255 * np.asarray(clips) + 0.5, 0, 255).astype(np.uint8)
