"""The head of self-distillation: a perceptron, a row of length 1, and its similarity to prototypes of length 1."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from wt_jax.models.embedder import l2_normalize


class PrototypeHead(nn.Module):
    """`layers` linear maps with GELU between, to `dim`; then the products with `prototypes` unit vectors (DINO's head)."""

    hidden: int = 2048
    dim: int = 256
    layers: int = 3
    prototypes: int = 65536

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., D) float32 -> logits (..., `prototypes`) float32."""
        start = nn.initializers.truncated_normal(0.02)
        for index in range(self.layers):
            width = self.dim if index == self.layers - 1 else self.hidden
            x = nn.Dense(width, kernel_init=start, name=f"dense{index + 1}")(x)
            x = x if index == self.layers - 1 else nn.gelu(x, approximate=False)
        # PyTorch's default for a linear map without bias, U(-b, b) with b = 1 / sqrt(dim); only directions count.
        rows = self.param(
            "prototypes", nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform"), (self.prototypes, self.dim)
        )
        return l2_normalize(x) @ l2_normalize(rows).T


class Prototyped(nn.Module):
    """A vision transformer with such a head: logits of clips, and of the tokens of places where they are asked for."""

    encoder: nn.Module
    head: nn.Module
    hides: bool = False

    @nn.compact
    def __call__(
        self,
        clips: Array,
        train: bool,
        mask: Array | None = None,
        alive: Array | None = None,
        patches: bool = False,
    ) -> tuple[Array, Array | None]:
        """(B, T, S, S, 3) -> logits (B, K), and with `patches` (B, N, K); `mask` (B, N) bool are tokens that are replaced."""
        encoder: nn.Module = self.encoder
        hidden = None
        if self.hides:
            token = self.param("mask_token", nn.initializers.zeros, (encoder.channels,), jnp.float32)  # pyright: ignore
            hidden = None if mask is None else (mask, token)
        feature, tokens = encoder.tokens(clips, train, hidden=hidden, alive=alive)  # pyright: ignore
        logits = self.head(feature)
        if not patches:
            return logits, None
        return logits, self.head(tokens.reshape(len(clips), -1, tokens.shape[-1]).astype(jnp.float32))
