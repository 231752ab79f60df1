"""Which tokens of a clip are masked: drawn on the device, per video, all counts fixed.

The tokens of a grid (t, h, w) are numbered row-major, time first. Each clip draws from the key folded with its video's index:
its masks are the same wherever in the global batch it is, and a batch may be cut into pieces.

Sources: `tube_masks` VideoMAE (Tong et al. 2022, arXiv 2203.12602); `token_masks` MAE-ST (Feichtenhofer et al. 2022, arXiv
2205.09113); `block_masks` BEiT (Bao et al. 2022, arXiv 2106.08254), as iBOT (arXiv 2111.07832) and, with a duration, MaskFeat
(arXiv 2112.09133) use it; `multi_block_masks` V-JEPA (Bardes et al. 2024, arXiv 2404.08471). That counts are fixed is ours:
there they vary, or are cut to the shortest of the batch.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Grid = tuple[int, int, int]


class Split(NamedTuple):
    """A clip's tokens in two parts, each in ascending order: `visible` (B, N - M) and `masked` (B, M), int32 indices."""

    visible: Array
    masked: Array


class Blocks(NamedTuple):
    """What a network sees and what it predicts.

    Attributes:
      context: (B, C) int32, ascending.
      targets: (B, P) int32, ascending.
      weights: (B, P) float32: 1, or 0 for a target that only fills up the number.
    """

    context: Array
    targets: Array
    weights: Array


def token_masks(key: Array, videos: Array, tokens: int, masked: int) -> Split:
    """`masked` of the tokens 0 to `tokens` - 1, uniformly drawn for each of the videos (B,) int32."""
    _check_count("masked", masked, tokens)

    order = jnp.argsort(_uniform(key, videos, tokens), axis=1)
    return Split(jnp.sort(order[:, masked:], axis=1), jnp.sort(order[:, :masked], axis=1))


def tube_masks(key: Array, videos: Array, grid: Grid, masked: int) -> Split:
    """`masked` of the h * w places of each frame, the same ones throughout the clip; counts are those times t."""
    t, h, w = grid
    frames = jnp.asarray(np.arange(t, dtype=np.int32).reshape(1, t, 1) * (h * w))
    return Split(*((frames + part[:, None]).reshape(len(part), -1) for part in token_masks(key, videos, h * w, masked)))


@dataclass(frozen=True)
class BlockSpec:
    """How blocks are drawn.

    Attributes:
      area: least and largest area of a block, relative to the frame.
      aspect: least and largest height / width, drawn evenly on a logarithmic scale.
      duration: least and largest number of frames, in tokens; None: all.
      blocks: how many are drawn at most; where they mask too few tokens, single ones at random are added.
    """

    area: tuple[float, float] = (0.08, 0.5)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    duration: tuple[int, int] | None = None
    blocks: int = 32


def block_masks(key: Array, videos: Array, grid: Grid, masked: int | Array, spec: BlockSpec = BlockSpec()) -> Array:
    """Masks of overlapping blocks: one block after the other until enough is masked, of the last one a random part.

    Args:
      key: PRNG key.
      videos: (B,) int32.
      grid: tokens in time, height and width.
      masked: how many tokens, an integer or int32 (B,). Where blocks last throughout, a multiple of t gives whole tubes.
      spec: what blocks look like.

    Returns:
      bool (B, t * h * w), with exactly `masked` True in each row.
    """
    t, h, w = grid
    if isinstance(masked, int):
        _check_count("masked", masked, t * h * w)
    tubes = spec.duration is None
    count = jnp.broadcast_to(jnp.asarray(masked, jnp.int32), videos.shape)
    times = 1 if tubes else t

    def mask_of(draws: Array, count: Array) -> Array:
        covers = jax.vmap(lambda draws: _block(draws, (times, h, w), spec))(draws[: 6 * spec.blocks].reshape(-1, 6))
        # The number of the first block that covers a token, and a fraction that orders those of the same block.
        first = jnp.where(jnp.any(covers, axis=0), jnp.argmax(covers, axis=0), spec.blocks)
        order = jnp.argsort(first.astype(jnp.float32) + draws[6 * spec.blocks :])
        return jnp.argsort(order) < (-(-count // t) if tubes else count)

    mask = jax.vmap(mask_of)(_uniform(key, videos, 6 * spec.blocks + times * h * w), count)
    if not tubes:
        return mask
    mask = jnp.tile(mask, (1, t))
    # Where the count is no multiple of t the last tube ends early.
    return mask & (jnp.cumsum(mask, axis=1, dtype=jnp.int32) <= count[:, None])


def _block(draws: Array, grid: Grid, spec: BlockSpec) -> Array:
    """One block, bool (t * h * w,), by six draws from [0, 1)."""
    t, h, w = grid
    area, aspect, top, left, length, start = draws
    area = h * w * (spec.area[0] + (spec.area[1] - spec.area[0]) * area)
    low, high = np.log(spec.aspect).astype(np.float32)
    aspect = jnp.exp(low + (high - low) * aspect)
    rows, columns = _side(jnp.sqrt(area * aspect), h), _side(jnp.sqrt(area / aspect), w)
    shortest, longest = spec.duration or (t, t)
    frames = shortest + jnp.floor((longest - shortest + 1) * length).astype(jnp.int32)
    return _box(grid, (start, top, left), (frames, rows, columns))


def multi_block_masks(
    key: Array,
    videos: Array,
    grid: Grid,
    *,
    blocks: int,
    area: float,
    aspect: tuple[float, float] = (0.75, 1.5),
    context: float,
    targets: float,
    tries: int = 4,
) -> Blocks:
    """Targets are the union of blocks that last throughout the clip, the context is the rest: a random part of each.

    Of `tries` draws the first one counts that has enough of both, else the last; where that has too few tokens of one part,
    those of the other fill it up, with weight 0 as targets. V-JEPA's kinds: 8 blocks of area 0.15 with context 0.24 and
    targets 0.50, and 2 blocks of area 0.70 with 0.10 and 0.63. Grids below 8 x 8 often have no context left.

    Args:
      key: PRNG key; one for each kind of mask.
      videos: (B,) int32.
      grid: tokens in time, height and width.
      blocks: blocks in the union, equally large, each at a place of its own.
      area: of a block, relative to the frame.
      aspect: least and largest height / width, drawn once per clip.
      context, targets: how many tokens of each part are kept, relative to all tokens, rounded down.
      tries: draws.
    """
    t, h, w = grid
    tokens = t * h * w
    kept, predicted = int(context * tokens), int(targets * tokens)
    if min(kept, predicted) < 1 or kept + predicted > tokens:
        raise ValueError(f"context {context} and targets {targets} must keep a token each, and together at most all {tokens}")

    def union(draws: Array) -> Array:
        ratio, size = aspect[0] + (aspect[1] - aspect[0]) * draws[0], int(h * w * area)  # whole tokens, as in the source
        rows, columns = _side(jnp.sqrt(size * ratio), h), _side(jnp.sqrt(size / ratio), w)
        sides = jnp.ones((), jnp.int32), rows, columns
        boxes = jax.vmap(lambda place: _box((1, h, w), (jnp.zeros(()), *place), sides))(draws[1:].reshape(blocks, 2))
        return jnp.tile(jnp.any(boxes, axis=0), t)

    def masks_of(draws: Array) -> Blocks:
        unions = jax.vmap(union)(draws[tokens:].reshape(tries, -1))
        sizes = jnp.sum(unions, axis=1, dtype=jnp.int32)
        enough = (sizes >= predicted) & (tokens - sizes >= kept)
        masked = unions[jnp.where(jnp.any(enough), jnp.argmax(enough), tries - 1)].astype(jnp.float32)
        # Random within each part. One order serves both ends, so that no token is in both.
        order = jnp.argsort(masked + draws[:tokens])
        chosen, wanted = jnp.sort(order[:kept]), jnp.sort(order[tokens - predicted :])
        return Blocks(chosen, wanted, masked[wanted])

    return jax.vmap(masks_of)(_uniform(key, videos, tokens + tries * (1 + 2 * blocks)))


def _side(length: Array, most: int) -> Array:
    """A block's side in tokens, int32."""
    return jnp.clip(jnp.round(length), 1, most).astype(jnp.int32)


def _box(grid: Grid, draws: tuple[Array, ...], sides: tuple[Array, ...]) -> Array:
    """The tokens of a box with these sides, bool (t * h * w,), at a place that three draws from [0, 1) choose evenly."""
    inside = jnp.ones((), bool)
    for axis, (size, draw, side) in enumerate(zip(grid, draws, sides, strict=True)):
        start = jnp.floor((size - side + 1).astype(jnp.float32) * draw).astype(jnp.int32)
        at = np.arange(size).reshape([-1 if other == axis else 1 for other in range(3)])
        inside = inside & (at >= start) & (at < start + side)
    return inside.reshape(-1)


def _uniform(key: Array, videos: Array, count: int) -> Array:
    """All that the clips draw, (B, count) in [0, 1), at once: each call of the generator is costly on a CPU, and to compile."""

    def draw(video: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, video), (count,), jnp.float32)

    return jax.vmap(draw)(videos)


def _check_count(name: str, count: int, tokens: int) -> None:
    if not 0 <= count <= tokens:
        raise ValueError(f"{name} must lie in [0, {tokens}], the number of tokens, got {count}")
