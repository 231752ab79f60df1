"""Color changes of a clip as one affine map of RGB: brightness, contrast, saturation, hue and gray.

Each of these is linear in the pixel's RGB (contrast also needs the clip's mean), so a clip's whole color change is one
3 x 4 matrix and costs three multiply-adds per value. Against torchvision's ColorJitter: the order is fixed
(brightness, contrast, saturation, hue, gray) instead of random, values are clipped once at the end, after the blur, instead
of after each operation, and hue turns RGB about the gray axis. These are our choices. The turn equals that of HSV where it is a
third of a circle, and nearly everywhere: HSV goes round a hexagon where this goes round a circle.
"""

import jax.numpy as jnp
from jax import Array

from wt_jax.specs import PixelSpec

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision convert to gray


def _gray_matrix() -> Array:
    return jnp.broadcast_to(jnp.asarray(_LUMA, jnp.float32), (3, 3))


def _blend(share: Array) -> Array:
    """share * identity + (1 - share) * gray: saturation, and gray itself at share 0."""
    return share * jnp.eye(3) + (1.0 - share) * _gray_matrix()


def _hue_matrix(turn: Array) -> Array:
    """Rotation of RGB by `turn` (1 is the full circle) about the gray axis, red to green to blue."""
    # Circulant: at 1/3 the channels change places.
    same, after, before = ((1.0 + 2.0 * jnp.cos(2 * jnp.pi * (turn + shift / 3))) / 3 for shift in (0, 1, -1))
    return jnp.stack([same, after, before, before, same, after, after, before, same]).reshape(3, 3)


def color_map(draws: Array, spec: PixelSpec) -> tuple[Array, Array]:
    """One clip's color change.

    Args:
      draws: (6,) float32, uniform in [0, 1): for brightness, contrast, saturation, hue, whether any of these happens, gray.
      spec: strengths and probabilities.

    Returns:
      of_pixel and of_mean (3, 3), float32: new = of_pixel @ old + of_mean @ the clip's mean RGB.
    """
    bright, contrasted, saturated, turned, jittered, grayed = draws

    def factor(draw: Array, strength: float) -> Array:
        return between(draw, max(0.0, 1.0 - strength), 1.0 + strength)

    brightness, contrast = factor(bright, spec.brightness), factor(contrasted, spec.contrast)
    color = _hue_matrix(between(turned, -spec.hue, spec.hue)) @ _blend(factor(saturated, spec.saturation))
    of_pixel = color * (brightness * contrast)
    of_mean = color @ _gray_matrix() * (brightness * (1.0 - contrast))  # contrast pulls towards the mean's gray
    jitter = jittered < spec.jitter_probability
    of_pixel, of_mean = jnp.where(jitter, of_pixel, jnp.eye(3)), jnp.where(jitter, of_mean, jnp.zeros((3, 3)))
    gray = jnp.where(grayed < spec.gray_probability, _gray_matrix(), jnp.eye(3))
    return gray @ of_pixel, gray @ of_mean


def between(draw: Array, low: float, high: float) -> Array:
    """A draw from [0, 1) as one from [low, high)."""
    return low + (high - low) * draw
