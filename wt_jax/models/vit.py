"""Vision transformers: tubelets of pixels become tokens, blocks of attention, a last norm.

Sizes are those of the field, the form is `wt_jax.config.ViTConfig`: by default VideoMAE's (joint attention, tubelets of
2 x 16 x 16 pixels, fixed sinusoids; https://arxiv.org/abs/2203.12602 and its code). `width` is the width of one head; 64 is the
published value. The norm is LayerNorm whatever the config names: the constructors set its kind, as `s3d` sets its epsilon.

Two forms of each size differ in the last norm. `vit_base` normalizes every token and then averages them: the form of
pre-trained models. `vit_base_fc_norm` averages first and normalizes the average: the form of VideoMAE's fine-tuned models.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from wt_jax.config import IMAGENET_MEAN, IMAGENET_STD, RGB, ViTConfig
from wt_jax.models.layers import Size3, normalize_input
from wt_jax.models.positions import grid_positions, positions, rotation
from wt_jax.models.transformer import Block, branches_of, kernel_init
from wt_jax.ops.ranks import widened

Hidden = tuple[jax.Array, jax.Array]  # which tokens, (B, N) bool, and what is there instead, (C,)


def grid_of(clip: tuple[int, ...], tubelet: Size3) -> Size3:
    """Tokens in time, height and width of clips (..., T, H, W, 3)."""
    t, h, w = (-(-size // step) for size, step in zip(clip[-4:-1], tubelet, strict=True))
    return t, h, w


def tubelets_of(clips: jax.Array, tubelet: Size3) -> jax.Array:
    """(B, T, H, W, C) -> (B, t, h, w, frames * rows * columns * C). What does not fill whole tubelets is padded by its edge."""
    missing = (-size % step for size, step in zip(clips.shape[1:4], tubelet, strict=True))
    clips = jnp.pad(clips, ((0, 0), *((0, count) for count in missing), (0, 0)), mode="edge")
    t, h, w = tubelet
    return rearrange(clips, "b (t i) (h j) (w k) c -> b t h w (i j k c)", i=t, j=h, k=w)


class Tubelets(nn.Module):
    """A linear map of each tubelet, plus its position; and the extra tokens, see `wt_jax.models.transformer`."""

    features: int
    dtype: jnp.dtype = jnp.float32
    form: ViTConfig = ViTConfig()

    @nn.compact
    def __call__(
        self, clips: jax.Array, keep: jax.Array | None = None, hidden: Hidden | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """(B, T, H, W, 3) -> (B, t, h, w, features), or (B, K, features) of the tokens `keep`, in `dtype`; extra tokens."""
        form, channels = self.form, self.features
        start = nn.initializers.truncated_normal(0.02)
        x = tubelets_of(clips, form.tubelet)
        grid, batch = cast(Size3, x.shape[1:4]), len(x)
        if keep is not None:
            x = jnp.take_along_axis(x.reshape(batch, -1, x.shape[-1]), keep[..., None], axis=1)
        x = nn.Dense(channels, form.patch_bias, self.dtype, kernel_init=kernel_init(form), name="dense")(x)
        if hidden is not None:
            where, token = hidden
            x = jnp.where(where.reshape(*x.shape[:-1], 1), widened(token.astype(self.dtype), x), x)
        table, first = self._table(grid, start)
        if table is not None:
            table = table.astype(self.dtype)
            x = x + (table.reshape(1, *x.shape[1:]) if keep is None else table[keep])
        names = {"cls": int(form.cls), "registers": form.registers}
        extra = [self.param(name, start, (count, channels), jnp.float32) for name, count in names.items() if count]
        if not extra:
            return x, None
        if first is not None:
            extra[0] = extra[0] + first
        each = jnp.concatenate(extra).astype(self.dtype)
        lead = (batch, grid[0]) if form.attention.startswith("frame") else (batch,)
        return x, jnp.broadcast_to(each.reshape(*(1,) * len(lead), *each.shape), (*lead, *each.shape))

    def _table(self, grid: Size3, start: Callable[..., Any]) -> tuple[jax.Array | None, jax.Array | None]:
        """What is added to the tokens, (N, features), and to CLS, (1, features), if anything."""
        form, channels = self.form, self.features
        if form.positions == "flat":
            return jnp.asarray(positions(int(np.prod(grid)), channels)), None
        if form.positions == "grid":
            return jnp.asarray(grid_positions(grid, channels)), None
        if form.positions != "learned":
            return None, None
        times, *sides = form.learned_grid
        first = int(form.cls)
        places = self.param("places", start, (first + sides[0] * sides[1], channels), jnp.float32)
        rows, columns = (_nearest(there, size) for there, size in zip(grid[1:], sides, strict=True))
        table = places[first:][(rows[:, None] * sides[1] + columns).reshape(-1)]
        table = jnp.broadcast_to(table, (grid[0], *table.shape))
        if form.attention != "frame":
            moments = self.param("times", nn.initializers.zeros, (times, channels), jnp.float32)
            table = table + moments[_nearest(grid[0], times)][:, None]
        return table.reshape(-1, channels), places[:first] if form.cls else None


def _nearest(wanted: int, there: int) -> np.ndarray:
    """For each of so many positions the nearest of those that are there, as PyTorch's interpolation takes it."""
    return np.arange(wanted) * there // wanted


class ViT(nn.Module):
    """Tubelets, blocks of attention, last norm, and the feature: the CLS token, or the mean of all tokens.

    `fc_norm` normalizes the mean instead of the tokens; the map is then that of the last block. `remat` recomputes each
    block in the backward pass instead of keeping its activations. `mlp` is the width of the perceptrons over that of a token.
    """

    unit = "clip"
    norm: Callable[..., nn.Module]
    heads: int
    depth: int
    width: int = 64
    fc_norm: bool = False
    remat: bool = False
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    form: ViTConfig = ViTConfig()
    mlp: float = 4.0

    @property
    def channels(self) -> int:
        """Width of a token."""
        return self.heads * self.width

    @property
    def feature_dim(self) -> int:
        """Number of channels of the features."""
        return self.form.project or self.channels

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the parts that have a map, from input to output."""
        last = () if self.fc_norm else ("norm", *(("project",) if self.form.project else ()))
        first = ("tubelets", *(("pre_norm",) if self.form.pre_norm else ()))
        return (*first, *(f"block{index + 1}" for index in range(self.depth)), *last)

    def grid(self, clip: tuple[int, ...]) -> Size3:
        """Tokens in time, height and width of clips (..., T, H, W, 3)."""
        return grid_of(clip, self.form.tubelet)

    def draw_alive(self, key: jax.Array, videos: jax.Array) -> jax.Array | None:
        """Factors (B, branches) of the residual branches of each of the videos (B,) int32: 0, or 1 / (chance to stay)."""
        if not self.form.drop_path:
            return None
        branches = branches_of(self.form)
        stay = np.repeat(1 - np.linspace(0, self.form.drop_path, self.depth), branches).astype(np.float32)
        draws = jax.vmap(lambda video: jax.random.uniform(jax.random.fold_in(key, video), stay.shape, jnp.float32))(videos)
        return jnp.where(draws < stay[None], 1 / stay[None], 0.0)

    def __call__(self, clips: jax.Array, train: bool, pool: bool = True) -> jax.Array:
        """(B, T, H, W, 3) in [0, 1] -> features (B, `feature_dim`) float32, or without `pool` the last map (B, t, h, w, C)."""
        feature, tokens = self.tokens(clips, train)
        return feature if pool else tokens

    @nn.compact
    def tokens(
        self,
        clips: jax.Array,
        train: bool,
        keep: jax.Array | None = None,
        hidden: Hidden | None = None,
        alive: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Features (B, `feature_dim`) float32, and the last map (B, t, h, w, C), or (B, K, C) of the tokens that are kept.

        Args:
          clips: (B, T, H, W, 3) in [0, 1].
          train: whether it is trained.
          keep: (B, K) int32, the only tokens that are computed, by their index in the grid; with joint attention alone.
          hidden: tokens that are replaced before positions are added, (B, N) bool, and by what, (C,).
          alive: of `draw_alive`; None: no branch is left out.

        Raises:
          ValueError: `keep` with attention that needs whole frames.
        """
        form = self.form
        if keep is not None and form.attention != "joint":
            raise ValueError(f"keep needs joint attention, the encoder has attention {form.attention!r}")
        norms = partial(self.norm, epsilon=form.epsilon)
        norm: Any = norms(name="fc_norm", dtype=jnp.float32) if self.fc_norm else norms(name="norm")
        dtype = cast(Any, norms(parent=None)).dtype
        grid = self.grid(clips.shape)
        clips = normalize_input(clips, self.mean, self.std)
        x, extra = Tubelets(self.channels, dtype, form, name="tubelets")(clips, keep, hidden)
        if form.pre_norm:
            before: Any = norms(name="pre_norm")
            x, extra = before(x, train), None if extra is None else before(extra, train)
        turns = rotation(form.positions, (1, *grid[1:]) if form.positions == "rotary_axial" else grid, self.width, keep)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for index in range(self.depth):
            layer = block(self.heads, norms, form, self.mlp, index + 1, name=f"block{index + 1}")
            now = None if alive is None else jnp.split(alive, self.depth, axis=1)[index]
            x, extra = layer(x, train, extra, now, turns)
        if self.fc_norm:
            return norm(self._pooled(x, extra), train), x
        x, extra = norm(x, train), None if extra is None else norm(extra, train)
        if form.project:
            project = nn.Dense(form.project, use_bias=False, dtype=dtype, kernel_init=kernel_init(form), name="project")
            x, extra = project(x), None if extra is None else project(extra)
        return self._pooled(x, extra), x

    def _pooled(self, x: jax.Array, extra: jax.Array | None) -> jax.Array:
        """CLS, or the mean over all tokens; over frames, where each is for itself."""
        x = extra[..., 0, :] if extra is not None and self.form.cls else x
        return x.astype(jnp.float32) if x.ndim == 2 else jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32)


def _vit(heads: int, depth: int, norm: Callable[..., nn.Module], **options) -> ViT:
    return ViT(partial(norm, kind="layer"), heads, depth, **options)


def small_vit(**options) -> ViT:
    """4 heads, 4 blocks: ours, for a CPU; a width of 16 to 32 is enough."""
    return _vit(4, 4, **options)


def vit_small(**options) -> ViT:
    """ViT-S: 6 heads, 12 blocks."""
    return _vit(6, 12, **options)


def vit_base(**options) -> ViT:
    """ViT-B: 12 heads, 12 blocks."""
    return _vit(12, 12, **options)


def vit_large(**options) -> ViT:
    """ViT-L: 16 heads, 24 blocks."""
    return _vit(16, 24, **options)


def vit_huge(width: int = 64, **options) -> ViT:
    """ViT-H: 16 heads of 80 channels, 32 blocks."""
    return _vit(16, 32, width=5 * width // 4, **options)


def vit_giant(**options) -> ViT:
    """ViT-g: 22 heads, 40 blocks, perceptrons of 48 / 11 (https://arxiv.org/abs/2106.04560, as V-JEPA 2 has it)."""
    return _vit(22, 40, mlp=48 / 11, **options)
