"""From uint8 views to what a network reads: color and blur of whole batches, once per clip, RGB in [0, 1].

Each clip draws from a key folded from the step's key and the video's index, so a clip looks the same wherever in the
global batch it stands; the views of a video draw one after the other.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from wt_jax.augment.color import between, color_map
from wt_jax.kernels import operations
from wt_jax.specs import ClipView, PixelSpec


def _blur_matrix(sigma: Array, size: int) -> Array:
    """(size, size) float32, rows sum to 1: a Gaussian of `sigma` pixels along one axis, renormalized at the border.

    No weight is below exp(-40), which is nothing beside the others but no denormal number: with those a product of matrices
    takes three times as long on a CPU.
    """
    place = jnp.arange(size, dtype=jnp.float32)
    far = jnp.square(place[:, None] - place[None, :]) / (2.0 * jnp.square(sigma))
    weight = jnp.exp(-jnp.minimum(far, 40.0))
    return weight / jnp.sum(weight, axis=1, keepdims=True)


def _sigma_of(draws: Array, spec: PixelSpec) -> Array:
    """The blur of one clip, by two draws from [0, 1): of one sigma, or none at all."""
    blurred, width = draws
    return jnp.where(blurred < spec.blur_probability, between(width, *spec.blur_sigma), 1e-3)  # which is the identity


def _blurred(clips: Array, sigma: Array) -> Array:
    """Gaussian blur as two matrix products per frame: blur of any width is dense work that chips do well."""
    matrices = jax.vmap(_blur_matrix, in_axes=(0, None))(sigma, clips.shape[2])
    return jnp.einsum("bih,bthwc,bjw->btijc", matrices, clips, matrices)


def _recolored(clips: Array, of_pixel: Array, offset: Array) -> Array:
    """Each clip's affine map of RGB. Not as a matrix product: with three columns that is the slowest way on a CPU."""
    matrix, offset = (jnp.expand_dims(array, (1, 2, 3)) for array in (of_pixel, offset))
    return jnp.clip(sum(clips[..., k : k + 1] * matrix[..., k] for k in range(3)) + offset, 0.0, 1.0)


def _finish(clips: Array, draws: Array, spec: PixelSpec) -> Array:
    blurs, recolors = spec.blur_probability > 0, spec.jitter_probability > 0 or spec.gray_probability > 0
    if not (blurs or recolors):
        return clips.astype(jnp.float32) / 255.0
    sigma = jax.vmap(_sigma_of, in_axes=(0, None))(draws[:, 6:], spec)
    of_pixel, of_mean = jax.vmap(color_map, in_axes=(0, None))(draws[:, :6], spec)

    def default(clips: Array, sigma: Array, of_pixel: Array, of_mean: Array) -> Array:
        scaled = clips.astype(jnp.float32) / 255.0
        offset = jnp.einsum("bcd,bd->bc", of_mean, jnp.mean(scaled, axis=(1, 2, 3)))
        scaled = _blurred(scaled, sigma) if blurs else scaled
        # Color comes after the blur: both are linear, so that only what is clipped is another.
        return _recolored(scaled, of_pixel, offset) if recolors else scaled

    cpu = operations.pixels if operations.available() else default
    return lax.platform_dependent(clips, sigma, of_pixel, of_mean, cpu=cpu, default=default)


def _draws(key: Array, videos: Array, views: int) -> Array:
    """All that the clips of so many views draw, (B, views, 8) in [0, 1).

    At once: on a CPU each call of the generator takes as long as a large array's change of color.
    """
    return jax.vmap(lambda video: jax.random.uniform(jax.random.fold_in(key, video), (views, 8), jnp.float32))(videos)


def finish_view(clips: Array, videos: Array, key: Array, spec: PixelSpec) -> Array:
    """Finish the pixels of one view.

    Args:
      clips: (B, T, H, W, 3) uint8.
      videos: (B,) int32, indices of the videos; they choose each clip's random draw.
      key: PRNG key of the step.
      spec: what may happen to the pixels; everything is drawn once per clip.

    Returns:
      (B, T, H, W, 3) float32 in [0, 1]; an encoder normalizes by the mean and deviation that belong to it.
    """
    return _finish(clips, _draws(key, videos, 1)[:, 0], spec)


def finish_views(batch: Mapping[str, Array], views: Mapping[str, ClipView], key: Array) -> dict[str, Array]:
    """`batch` with each view finished as by `finish_view`, with draws of its own; labels and indices pass through."""
    draws = _draws(key, batch["video"], len(views))
    finished = {name: _finish(batch[name], draws[:, place], view.pixels) for place, (name, view) in enumerate(views.items())}
    return dict(batch) | finished


def to_uint8(clips: Array) -> np.ndarray:
    """Finished clips (B, T, H, W, 3) as pictures again, uint8."""
    return np.clip(255 * np.asarray(clips) + 0.5, 0, 255).astype(np.uint8)
