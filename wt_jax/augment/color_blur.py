"""Gaussian blur and an affine map of RGB for whole batches of clips: the pixel work of the augmentations."""

import jax
import jax.numpy as jnp
from jax import Array


def color_blur(
    clips: Array, sigma: Array, of_pixel: Array, of_mean: Array, *, blur: bool = True, recolor: bool = True
) -> Array:
    """Scale uint8 clips to [0, 1], blur each frame, then map RGB by one affine map per clip and clip to [0, 1].

    Color comes after the blur: both are linear, so that only what is clipped differs.

    Args:
      clips: (B, T, S, S, 3) uint8.
      sigma: (B,) float32 above 0, the deviation of each clip's Gaussian in pixels; its weights are renormalized at the border.
        1e-3 is the identity.
      of_pixel: (B, 3, 3) float32.
      of_mean: (B, 3, 3) float32: new RGB = of_pixel @ old + of_mean @ the clip's mean RGB.
      blur: False promises that all `sigma` are those of the identity.
      recolor: False promises that all maps are the identity.

    Returns:
      (B, T, S, S, 3) float32 in [0, 1].
    """

    scaled = clips.astype(jnp.float32) / 255.0
    # Rows first: a sum down to three channels alone takes a CPU three times as long.
    mean = jnp.mean(jnp.mean(scaled, axis=(1, 2)), axis=1)
    offset = jnp.einsum("bcd,bd->bc", of_mean, mean)
    scaled = _blurred(scaled, sigma) if blur else scaled
    return _recolored(scaled, of_pixel, offset) if recolor else scaled


def blur_matrix(sigma: Array, size: int) -> Array:
    """(size, size) float32, rows sum to 1: a Gaussian of `sigma` pixels along one axis, renormalized at the border.

    No weight is below exp(-40), which is negligible in the sum but no denormal number: with those a product of matrices
    takes three times as long on a CPU.
    """
    index = jnp.arange(size, dtype=jnp.float32)
    exponent = jnp.square(index[:, None] - index[None, :]) / (2.0 * jnp.square(sigma))
    weight = jnp.exp(-jnp.minimum(exponent, 40.0))
    return weight / jnp.sum(weight, axis=1, keepdims=True)


def _blurred(clips: Array, sigma: Array) -> Array:
    """Gaussian blur as two matrix products per frame: blur of any width is dense work that accelerators do well."""
    matrices = jax.vmap(blur_matrix, in_axes=(0, None))(sigma, clips.shape[2])
    return jnp.einsum("bih,bthwc,bjw->btijc", matrices, clips, matrices)


def _recolored(clips: Array, of_pixel: Array, offset: Array) -> Array:
    """Each clip's affine map of RGB. Not as a matrix product: with three columns that is the slowest way on a CPU."""
    matrix, offset = (jnp.expand_dims(array, (1, 2, 3)) for array in (of_pixel, offset))
    return jnp.clip(sum(clips[..., k : k + 1] * matrix[..., k] for k in range(3)) + offset, 0.0, 1.0)
