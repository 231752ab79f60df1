"""Affine and perspective warps of clips on the device: one per clip, the same for all its frames, without black borders.

A warp is a 3 x 3 matrix that takes a pixel of the result to the point of the source that it shows, both as (x, y, 1) in pixels
from the center. What is drawn depends on the key and the video alone, so that a batch may be cut into pieces.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

AFFINE = ("angle", "log_scale", "shear", "shift_x", "shift_y")
PERSPECTIVES = ("none", "left", "right", "up", "down")


@dataclass(frozen=True)
class AffineRange:
    """The largest change either way: of the angle in radians, the logarithm of the scale, the shear, and the shift relative to
    the side of the result.
    """

    angle: float = math.radians(20)
    log_scale: float = math.log(1.2)
    shear: float = 0.1
    shift: float = 0.05

    @property
    def largest(self) -> np.ndarray:
        """Of each of `AFFINE`, float32 (5,)."""
        return np.array([self.angle, self.log_scale, self.shear, self.shift, self.shift], np.float32)

    def reach(self, size: int) -> float:
        """How far from the center, in pixels along an axis, a result of `size` pixels may show the source."""
        half = (size - 1) / 2
        corners = half * np.array([[1.0, 1.0], [1.0, -1.0]])  # the other two are opposite
        angles, shears = np.meshgrid(np.linspace(-self.angle, self.angle, 129), [-self.shear, self.shear])
        cos, sin = np.cos(angles), np.sin(angles)
        turns = np.stack([np.stack([cos, cos * shears - sin], -1), np.stack([sin, sin * shears + cos], -1)], -2)
        return float(np.abs(turns @ corners).max()) * math.exp(self.log_scale) + self.shift * size

    def check(self, size: int, view_size: int) -> None:
        """Raises ValueError where a result of `size` pixels could show what lies outside a view of `view_size`."""
        reach = self.reach(size)
        if reach > (view_size - 1) / 2:
            raise ValueError(
                f"warps of {size} pixels reach {reach:.1f} pixels from the center, beyond a view of {view_size}: "
                f"take a view of {math.ceil(2 * reach + 1)} pixels or more"
            )


def draw_affine(key: Array, videos: Array, largest: AffineRange) -> Array:
    """(B, 5) float32, uniform in [-1, 1], relative to the `largest` change of each of `AFFINE`, for videos (B,) int32."""

    def draw(key: Array) -> Array:
        return jax.random.uniform(key, (len(AFFINE),), jnp.float32, -1.0, 1.0)

    return jax.vmap(draw)(jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, videos))


def affine_matrices(draws: Array, largest: AffineRange, size: int) -> Array:
    """(B, 3, 3) float32 from draws (B, 5) in [-1, 1]: rotation * scale * shear, then the shift; 0 is the identity.

    `size` is the side of the result in pixels.
    """
    angle, log_scale, shear, shift_x, shift_y = jnp.moveaxis(draws * largest.largest[None], -1, 0)
    cos, sin, scale, none = jnp.cos(angle), jnp.sin(angle), jnp.exp(log_scale), jnp.zeros_like(angle)
    rows = [
        [scale * cos, scale * (cos * shear - sin), size * shift_x],
        [scale * sin, scale * (sin * shear + cos), size * shift_y],
        [none, none, none + 1.0],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def draw_perspective(key: Array, videos: Array) -> Array:
    """(B,) int32, places in `PERSPECTIVES`, equally often, for videos (B,) int32."""

    def draw(key: Array) -> Array:
        return jax.random.randint(key, (), 0, len(PERSPECTIVES), jnp.int32)

    return jax.vmap(draw)(jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, videos))


def perspective_matrices(kinds: Array, view_size: int, size: int, shrink: float = 0.6) -> Array:
    """(B, 3, 3) float32 for kinds (B,) int32, places in `PERSPECTIVES`: which side is far away.

    The far side of the result shows the whole side of the source, the near one the middle `shrink` of it, so that what is far
    is smaller by that factor and no border shows. "none" shows the whole source.
    """
    far = (view_size - 1) / 2
    near, half = shrink * far, (size - 1) / 2
    square = [(-half, -half), (half, -half), (half, half), (-half, half)]  # from the top left, clockwise
    corners = {
        "none": [(-far, -far), (far, -far), (far, far), (-far, far)],
        "left": [(-far, -far), (far, -near), (far, near), (-far, far)],
        "right": [(-far, -near), (far, -far), (far, far), (-far, near)],
        "up": [(-far, -far), (far, -far), (near, far), (-near, far)],
        "down": [(-near, -far), (near, -far), (far, far), (-far, far)],
    }
    table = np.stack([_homography(square, corners[kind]) for kind in PERSPECTIVES]).astype(np.float32)
    return jnp.asarray(table)[kinds]


def _homography(source: Sequence[tuple[float, float]], target: Sequence[tuple[float, float]]) -> np.ndarray:
    """The matrix that takes four points to four others."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(values)), 1.0).reshape(3, 3)


def warp(clips: Array, matrices: Array, size: int) -> Array:
    """Each clip as its matrix shows it, interpolated linearly between the four pixels around each point.

    A point outside the source shows the nearest pixel of its border; see `AffineRange.check` for that not to happen. The
    identity is the middle square, exactly where it has whole pixels on all sides.

    Args:
      clips: (B, T, H, W, 3) float32.
      matrices: (B, 3, 3) float32.
      size: side of the result in pixels.

    Returns:
      (B, T, size, size, 3) float32.
    """
    _, _, height, width, _ = clips.shape
    at = jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2
    x, y = jnp.meshgrid(at, at)
    points = jnp.einsum("bij,jhw->bihw", matrices, jnp.stack([x, y, jnp.ones_like(x)]), precision="highest")
    left, right_part = _between(points[:, 0] / points[:, 2] + (width - 1) / 2, width)
    top, below_part = _between(points[:, 1] / points[:, 2] + (height - 1) / 2, height)

    def one(clip: Array, top: Array, left: Array, below: Array, right: Array) -> Array:
        upper = clip[:, top, left] * (1.0 - right) + clip[:, top, left + 1] * right
        lower = clip[:, top + 1, left] * (1.0 - right) + clip[:, top + 1, left + 1] * right
        return upper * (1.0 - below) + lower * below

    return jax.vmap(one)(clips, top, left, below_part[:, None, :, :, None], right_part[:, None, :, :, None])


def _between(place: Array, size: int) -> tuple[Array, Array]:
    """The pixel before each place along an axis, int32, never the last one, and the distance to it, in [0, 1]."""
    place = jnp.clip(place, 0.0, size - 1.0)
    before = jnp.minimum(jnp.floor(place), size - 2.0)
    return before.astype(jnp.int32), place - before
