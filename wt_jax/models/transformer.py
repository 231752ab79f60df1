"""Attention and the block of a transformer, as encoders, decoders and predictors of tokens have them.

A clip's tokens are in two arrays: those of places, (B, t, h, w, C) or any (B, ..., C), and the `extra` ones, CLS first:
(B, E, C) for the clip or (B, t, E, C) for each frame, or None. Extra tokens come first in an attention.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from wt_jax.config import ViTConfig
from wt_jax.models.positions import Rotation, unturned
from wt_jax.ops.attention import attention
from wt_jax.ops.ranks import widened

ACTIVATIONS = {
    "gelu": partial(nn.gelu, approximate=False),
    "quick_gelu": lambda x: x * nn.sigmoid(jnp.asarray(1.702, x.dtype) * x),
}


def kernel_init(form: ViTConfig, factor: float = 1.0) -> Callable[..., Any]:
    """How linear maps start, times `factor`. The deviation 0.02 is timm's."""
    if form.init == "xavier":
        return nn.initializers.xavier_uniform()
    return nn.initializers.truncated_normal(0.02 * factor)


class Attention(nn.Module):
    """Multi-head attention of all tokens to all, or with `causal` to themselves and those before.

    By default keys have no bias: it would change no attention weight, but of turned keys.
    """

    heads: int
    dtype: jnp.dtype = jnp.float32
    form: ViTConfig = ViTConfig()
    causal: bool = False
    factor: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, turns: Rotation | None = None) -> jax.Array:
        """(B, N, C) -> the same shape in `dtype`."""
        channels, start = x.shape[-1], kernel_init(self.form)

        def project(name: str, use_bias: bool = True) -> jax.Array:
            y = nn.Dense(channels, use_bias=use_bias, dtype=self.dtype, kernel_init=start, name=name)(x)
            return rearrange(y, "b n (h d) -> b n h d", h=self.heads)

        query, key, value = project("query"), project("key", use_bias=self.form.key_bias), project("value")
        if turns is not None:
            query, key = turns(query), turns(key)
        with jax.numpy_dtype_promotion("standard"):  # inside, JAX widens bfloat16 to float32 implicitly
            y = attention(query, key, value, causal=self.causal)
        out = nn.Dense(channels, dtype=self.dtype, kernel_init=kernel_init(self.form, self.factor), name="out")
        return out(y.reshape(x.shape))


def join(x: jax.Array, extra: jax.Array | None) -> jax.Array:
    """All tokens of a clip in a row, (B, N, C), the extra ones first."""
    parts = [part.reshape(len(x), -1, x.shape[-1]) for part in (extra, x) if part is not None]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def split(tokens: jax.Array, x: jax.Array, extra: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """The inverse of `join`, into the shapes of `x` and `extra`."""
    if extra is None:
        return tokens.reshape(x.shape), None
    count = math.prod(extra.shape[1:-1])
    return tokens[:, count:].reshape(x.shape), tokens[:, :count].reshape(extra.shape)


def branches_of(form: ViTConfig) -> int:
    """Residual branches of a block."""
    return 3 if form.attention.endswith("divided") else 2


class Block(nn.Module):
    """Attention and a two-layer perceptron `mlp` times as wide, each after a norm and with a shortcut.

    `number` counts the blocks of a network from 1.
    """

    heads: int
    norm: Callable[..., nn.Module]
    form: ViTConfig = ViTConfig()
    mlp: float = 4.0
    number: int = 1
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool,
        extra: jax.Array | None = None,
        alive: jax.Array | None = None,
        turns: Rotation | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Both arrays of tokens after the block; `alive` (B, branches) float32 are factors of the branches of each clip."""
        form, channels = self.form, x.shape[-1]
        kept = None if alive is None else list(jnp.moveaxis(alive, 1, 0))
        factor = (2 * self.number) ** -0.5 if form.init == "scaled" else 1.0

        def add(tokens: jax.Array, y: jax.Array, scale: str) -> jax.Array:
            if form.layer_scale and scale:
                gain = self.param(scale, nn.initializers.constant(form.layer_scale), (channels,), jnp.float32)
                y = y * widened(gain.astype(y.dtype), y)
            if kept is not None:
                y = y * kept.pop(0).reshape(-1, *(1,) * (y.ndim - 1)).astype(y.dtype)
            return tokens + y

        attend = partial(Attention, self.heads, form=form, causal=self.causal, factor=factor)
        if form.attention.endswith("divided"):
            tokens = rearrange(x, "b t h w c -> b t (h w) c")
            per_frame = extra if form.attention == "frame_divided" else None
            tokens = tokens if per_frame is None else jnp.concatenate([per_frame, tokens], axis=2)
            norm = cast(Any, self.norm(name="time_norm"))
            y = rearrange(norm(tokens, train), "b t n c -> (b n) t c")
            y = attend(dtype=norm.dtype, name="time_attention")(y)
            # Starts as nothing, so that an image model's blocks compute what they did.
            y = nn.Dense(channels, dtype=norm.dtype, kernel_init=nn.initializers.zeros, name="time_dense")(y)
            tokens = add(tokens, rearrange(y, "(b n) t c -> b t n c", b=len(x)), "")
            if per_frame is not None:
                count = per_frame.shape[2]
                extra, tokens = tokens[:, :, :count], tokens[:, :, count:]
            x = tokens.reshape(x.shape)

        norm = cast(Any, self.norm(name="norm1"))
        attention = attend(dtype=norm.dtype, name="attention")

        def attended(tokens: jax.Array) -> jax.Array:
            return attention(norm(tokens, train), unturned(turns, tokens.shape[1]))

        tokens = join(x, extra)
        y = attended(tokens) if form.attention == "joint" else _by_frame(x, extra, attended)
        tokens = add(tokens, y, "scale1")
        y = self.norm(name="norm2")(tokens, train)
        y = nn.Dense(int(self.mlp * channels), dtype=norm.dtype, kernel_init=kernel_init(form), name="dense1")(y)
        y = ACTIVATIONS[form.activation](y)
        y = nn.Dense(channels, dtype=norm.dtype, kernel_init=kernel_init(form, factor), name="dense2")(y)
        return split(add(tokens, y, "scale2"), x, extra)


def _by_frame(x: jax.Array, extra: jax.Array | None, attend: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Attention within each frame: what is added to all tokens; that of a clip's own is the mean over its frames."""
    frames, each = rearrange(x, "b t h w c -> (b t) h w c"), extra
    if extra is not None:
        each = repeat(extra, "b e c -> b t e c", t=x.shape[1]) if extra.ndim == 3 else extra
        each = rearrange(each, "b t e c -> (b t) e c")
    y, rest = split(attend(join(frames, each)), frames, each)
    if rest is not None:
        rest = rearrange(rest, "(b t) e c -> b t e c", b=len(x))
        rest = jnp.mean(rest, axis=1) if cast(Any, extra).ndim == 3 else rest
    return join(y.reshape(x.shape), rest)
