"""Vision transformers with joint space-time attention: the ViT-S, B and L of VideoMAE, in tubelets of 2 x 16 x 16 pixels.

Every token attends to all tokens of the clip; positions are fixed sinusoids of a token's index in the flattened (time,
height, width) grid, so any clip length and size has them (VideoMAE, https://arxiv.org/abs/2203.12602, and its code).
`width` is the width of one head; 64 is the published value. The norm is LayerNorm whatever the config names: the
constructors set its kind, as `s3d` sets its epsilon.

Two forms of each size differ in the last norm. `vit_base` normalizes every token and then averages them: the form of
pre-trained models. `vit_base_fc_norm` averages first and normalizes the average: the form of VideoMAE's fine-tuned models.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from wt_jax.config import IMAGENET_MEAN, IMAGENET_STD, RGB
from wt_jax.models.layers import Size3, global_pool, normalize_input

TUBELET: Size3 = (2, 16, 16)
# The deviation is timm's and that of VideoMAE's fine-tuning; VideoMAE pre-trains from Xavier's uniform distribution.
_dense = partial(nn.Dense, kernel_init=nn.initializers.truncated_normal(0.02))


def positions(count: int, channels: int) -> np.ndarray:
    """Sinusoids of the positions 0 to `count` - 1: float32 (count, channels), sines and cosines in turn, wavelengths to 1e4."""
    rates = 10000.0 ** (-2 * (np.arange(channels) // 2) / channels)
    angles = np.arange(count)[:, None] * rates
    return np.where(np.arange(channels) % 2, np.cos(angles), np.sin(angles)).astype(np.float32)


class Tubelets(nn.Module):
    """A linear map of each tubelet, plus its position. Clips that do not fill whole tubelets are padded by their edge."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, clips: jax.Array) -> jax.Array:
        """(B, T, H, W, 3) -> (B, ceil(T / 2), ceil(H / 16), ceil(W / 16), features) in `dtype`."""
        missing = (-size % step for size, step in zip(clips.shape[1:4], TUBELET, strict=True))
        clips = jnp.pad(clips, ((0, 0), *((0, count) for count in missing), (0, 0)), mode="edge")
        t, h, w = TUBELET
        x = rearrange(clips, "b (t i) (h j) (w k) c -> b t h w (i j k c)", i=t, j=h, k=w)
        x = _dense(self.features, dtype=self.dtype, name="dense")(x)
        table = positions(x.size // x.shape[0] // self.features, self.features)
        return x + jnp.asarray(table, self.dtype).reshape(1, *x.shape[1:])


def _attention_of(dtype: jnp.dtype) -> Literal["cudnn"] | None:
    """cuDNN's fused attention where it can run: half precision on an NVIDIA GPU. JAX's own default never takes it."""
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    return "cudnn" if half and jax.devices()[0].device_kind.startswith("NVIDIA") else None


class Attention(nn.Module):
    """Multi-head attention of all tokens to all. Keys have no bias: it would change no attention weight."""

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, t, h, w, C) -> the same shape in `dtype`."""
        channels = x.shape[-1]

        def project(name: str, use_bias: bool = True) -> jax.Array:
            y = _dense(channels, use_bias=use_bias, dtype=self.dtype, name=name)(x)
            return rearrange(y, "b t h w (n d) -> b (t h w) n d", n=self.heads)

        query, key, value = project("query"), project("key", use_bias=False), project("value")
        with jax.numpy_dtype_promotion("standard"):  # inside, JAX widens bfloat16 to float32 implicitly
            y = jax.nn.dot_product_attention(query, key, value, implementation=_attention_of(self.dtype))
        return _dense(channels, dtype=self.dtype, name="out")(y.reshape(x.shape))


class Block(nn.Module):
    """Attention and a two-layer perceptron of four times the width, each after a norm and with a shortcut."""

    heads: int
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, t, h, w, C) -> the same shape in the dtype of the norm."""
        channels, norm = x.shape[-1], self.norm(name="norm1")
        x = x + Attention(self.heads, norm.dtype, name="attention")(norm(x, train))
        y = self.norm(name="norm2")(x, train)
        y = nn.gelu(_dense(4 * channels, dtype=norm.dtype, name="dense1")(y), approximate=False)
        return x + _dense(channels, dtype=norm.dtype, name="dense2")(y)


class ViT(nn.Module):
    """Tubelets, blocks of attention, last norm, average over all tokens.

    `fc_norm` normalizes the average instead of the tokens; the map is then that of the last block. `remat` recomputes each
    block in the backward pass instead of keeping its activations.
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

    @property
    def feature_dim(self) -> int:
        """Number of channels of the features."""
        return self.heads * self.width

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the parts that have a map, from input to output."""
        return ("tubelets", *(f"block{index + 1}" for index in range(self.depth)), *(() if self.fc_norm else ("norm",)))

    @nn.compact
    def __call__(self, clips: jax.Array, train: bool, pool: bool = True) -> jax.Array:
        """(B, T, H, W, 3) in [0, 1] -> features (B, `feature_dim`) float32, or without `pool` the last map (B, t, h, w, C)."""
        norm = self.norm(name="fc_norm", dtype=jnp.float32) if self.fc_norm else self.norm(name="norm")
        clips = normalize_input(clips, self.mean, self.std)
        x = Tubelets(self.feature_dim, self.norm(parent=None).dtype, name="tubelets")(clips)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for index in range(self.depth):
            x = block(self.heads, self.norm, name=f"block{index + 1}")(x, train)
        if not self.fc_norm:
            x = norm(x, train)
            return global_pool(x) if pool else x
        feature = norm(global_pool(x), train)
        return feature if pool else x


def _vit(heads: int, depth: int, norm: Callable[..., nn.Module], **options) -> ViT:
    # VideoMAE's epsilon. Transformers' port has 1e-12, and 1e-5 in the norm of the average.
    return ViT(partial(norm, kind="layer", epsilon=1e-6), heads, depth, **options)


def vit_small(**options) -> ViT:
    """ViT-S/16x16x2: 6 heads, 12 blocks."""
    return _vit(6, 12, **options)


def vit_base(**options) -> ViT:
    """ViT-B/16x16x2: 12 heads, 12 blocks."""
    return _vit(12, 12, **options)


def vit_large(**options) -> ViT:
    """ViT-L/16x16x2: 16 heads, 24 blocks."""
    return _vit(16, 24, **options)
