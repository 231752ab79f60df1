"""Networks that predict what was masked: an encoder of the visible tokens, and a small transformer that fills in the others."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from wt_jax.config import ViTConfig
from wt_jax.models.layers import Size3
from wt_jax.models.positions import grid_positions, positions, rotation
from wt_jax.models.transformer import Block, kernel_init


class TokenPredictor(nn.Module):
    """A learned token at each place that is asked for, joint attention with the visible tokens, norm, linear map.

    Attributes:
      out: width of what is predicted.
      norm: makes the norms.
      form: kind of positions, first values, epsilon; positions of a grid are added in the predictor's own width.
      width, heads, depth: of the transformer.
      bias: of the first linear map.
      kinds: how many learned tokens there are to choose from.
      start: first value of those.
    """

    out: int
    norm: Callable[..., nn.Module]
    form: ViTConfig = ViTConfig()
    width: int = 384
    heads: int = 6
    depth: int = 4
    bias: bool = True
    kinds: int = 1
    start: Callable[..., Any] = nn.initializers.zeros

    @nn.compact
    def __call__(self, tokens: Array, seen: Array, wanted: Array, grid: Size3, train: bool, kind: int = 0) -> Array:
        """Tokens (B, K, C) of the places `seen` (B, K) int32 -> (B, P, `out`) float32 of the places `wanted` (B, P) int32."""
        norms = partial(self.norm, epsilon=self.form.epsilon)
        norm: Any = norms(name="norm")
        dtype, start = norm.dtype, kernel_init(self.form)
        x = nn.Dense(self.width, self.bias, dtype, kernel_init=start, name="embed")(tokens)
        learned = self.param("mask_tokens", self.start, (self.kinds, self.width), jnp.float32)[kind].astype(dtype)
        y = jnp.broadcast_to(learned, (*wanted.shape, self.width))
        places = jnp.concatenate([seen, wanted], axis=1)
        x = jnp.concatenate([x, y], axis=1)
        tables = {"flat": positions(grid[0] * grid[1] * grid[2], self.width), "grid": grid_positions(grid, self.width)}
        turns = rotation(self.form.positions, grid, self.width // self.heads, places)
        if turns is None:
            # Learned tables are the encoder's alone.
            table = tables["grid" if self.form.positions == "learned" else self.form.positions]
            x = x + jnp.asarray(table, dtype)[places]
        form = replace(self.form, layer_scale=0.0, drop_path=0.0, cls=False, registers=0, attention="joint")
        for index in range(self.depth):
            block = Block(self.heads, norms, form, number=index + 1, name=f"block{index + 1}")
            x, _ = block(x, train, None, None, turns)
        x = norm(x[:, seen.shape[1] :], train)
        return nn.Dense(self.out, dtype=dtype, kernel_init=start, name="head")(x).astype(jnp.float32)


class MaskedAutoencoder(nn.Module):
    """The encoder computes the visible tokens alone, the predictor what is at the masked ones."""

    encoder: nn.Module
    predictor: TokenPredictor

    def __call__(self, clips: Array, visible: Array, masked: Array, train: bool, kind: int = 0) -> Array:
        """(B, T, H, W, 3) and int32 places (B, K), (B, M) -> predictions (B, M, out) float32 of the masked tokens."""
        encoder: Any = self.encoder
        _, tokens = encoder.tokens(clips, train, keep=visible)
        return self.predictor(tokens, visible, masked, encoder.grid(clips.shape), train, kind)


class HiddenTokens(nn.Module):
    """An encoder in which a learned token replaces the masked ones at the input, and a linear map of its tokens (MaskFeat)."""

    encoder: nn.Module
    out: int

    @nn.compact
    def __call__(self, clips: Array, mask: Array, train: bool) -> Array:
        """(B, T, H, W, 3) and bool (B, N) -> predictions (B, N, out) float32 of all tokens."""
        encoder: Any = self.encoder
        token = self.param("mask_token", nn.initializers.truncated_normal(0.02), (encoder.channels,), jnp.float32)
        _, tokens = encoder.tokens(clips, train, hidden=(mask, token))
        tokens = tokens.reshape(len(clips), -1, tokens.shape[-1])
        return nn.Dense(self.out, dtype=tokens.dtype, kernel_init=kernel_init(encoder.form), name="head")(tokens).astype(
            jnp.float32
        )


def chosen(tokens: Array, places: Array) -> Array:
    """The tokens (B, P, C) at the places (B, P) int32 of (B, N, C)."""
    return jnp.take_along_axis(tokens, places[..., None], axis=1)


def flat(tokens: Array) -> Array:
    """A map (B, t, h, w, C) as tokens (B, N, C)."""
    return tokens.reshape(len(tokens), -1, tokens.shape[-1])
