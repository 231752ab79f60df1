"""Where a token is: fixed sinusoids that are added to it, and angles by which its queries and keys are turned.

Tokens of a grid (t, h, w) are numbered row-major, time first.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from wt_jax.models.layers import Size3


def positions(count: int, channels: int) -> np.ndarray:
    """Sinusoids of the positions 0 to `count` - 1: float32 (count, channels), sines and cosines in turn, wavelengths to 1e4."""
    rates = 10000.0 ** (-2 * (np.arange(channels) // 2) / channels)
    angles = np.arange(count)[:, None] * rates
    return np.where(np.arange(channels) % 2, np.cos(angles), np.sin(angles)).astype(np.float32)


def grid_positions(grid: Size3, channels: int) -> np.ndarray:
    """Sinusoids of time, row and column, one behind the other: float32 (t * h * w, channels).

    Each axis has 2 * ceil(channels / 6) channels, sines before cosines; what is too much is cut off (V-JEPA's public code).
    """
    half = -(-channels // 6)
    rates = 10000.0 ** (-np.arange(half) / half)
    angles = [axis.reshape(-1, 1) * rates for axis in np.indices(grid)]
    table = np.concatenate([part for each in angles for part in (np.sin(each), np.cos(each))], axis=1)
    return table[:, :channels].astype(np.float32)


@partial(jax.tree_util.register_dataclass, data_fields=["cos", "sin"], meta_fields=["halves"])
@dataclass(frozen=True)
class Rotation:
    """Turns of pairs of channels of a head: `cos` and `sin` (1 or B, N, d) float32; which channels are pairs.

    Channel i is paired with its neighbor, or with channel i + d / 2 where `halves`.
    """

    cos: jax.Array
    sin: jax.Array
    halves: bool

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, N, heads, d) turned, in its dtype."""
        if self.halves:
            first, second = jnp.split(x, 2, axis=-1)
            turned = jnp.concatenate([-second, first], axis=-1)
        else:
            turned = jnp.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
        cos, sin = (part[:, :, None].astype(x.dtype) for part in (self.cos, self.sin))
        return x * cos + turned * sin


def rotation(kind: str, grid: Size3, width: int, keep: jax.Array | None = None) -> Rotation | None:
    """The turns of the tokens of a grid, or of those that `keep` (B, K) int32 names, for heads of `width` channels.

    "rotary": time, row and column have 2 * (width // 6) channels each, the rest is not turned; neighbors turn together.
    "rotary_tiled": as V-JEPA 2 has it, whose neighbors turn at different rates. "rotary_axial": row and column in [-1, 1]
    (DINOv3). Any other: None.
    """
    if not kind.startswith("rotary"):
        return None
    places = np.indices(grid).reshape(3, -1)
    if kind == "rotary_axial":
        rates = 2 * np.pi * 100.0 ** -np.arange(0, 1, 4 / width)
        centers = [2 * (place + 0.5) / size - 1 for place, size in zip(places[1:], grid[1:], strict=True)]
        angles = np.tile(np.concatenate([center[:, None] * rates for center in centers], axis=1), 2)
    else:
        half = width // 3 // 2
        rates = 10000.0 ** (-np.arange(half) / half)
        rates = np.tile(rates, 2) if kind == "rotary_tiled" else np.repeat(rates, 2)
        angles = np.concatenate([place[:, None] * rates for place in places], axis=1)
        angles = np.pad(angles, ((0, 0), (0, width - angles.shape[1])))
    cos, sin = (jnp.asarray(table, jnp.float32) for table in (np.cos(angles), np.sin(angles)))
    cos, sin = (table[None] if keep is None else table[keep] for table in (cos, sin))
    return Rotation(cos, sin, kind == "rotary_axial")


def unturned(turns: Rotation | None, count: int) -> Rotation | None:
    """The turns of `count` tokens, the last of which are those that are turned."""
    if turns is None:
        return None
    cos, sin = (
        jnp.pad(part, ((0, 0), (count - part.shape[1], 0), (0, 0)), constant_values=value)
        for part, value in ((turns.cos, 1.0), (turns.sin, 0.0))
    )
    return Rotation(cos, sin, turns.halves)
