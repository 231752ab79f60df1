"""CLIP's text tower: captions to features in the space of the image tower (Radford et al. 2021, arXiv 2103.00020)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from wt_jax.config import ViTConfig
from wt_jax.models.norm import Norm
from wt_jax.models.transformer import Block


class TextTower(nn.Module):
    """Embedded tokens, causal blocks, a norm, and a linear map of the state at the end token, the largest number of a caption.

    `length` is the number of tokens of a caption, `project` the width of its feature.
    """

    vocabulary: int = 49408
    length: int = 77
    channels: int = 512
    heads: int = 8
    depth: int = 12
    project: int = 512
    activation: str = "quick_gelu"

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(B, `length`) int32 -> features (B, `project`) float32, not normalized."""
        start = nn.initializers.normal(0.02)
        table = self.param("tokens", start, (self.vocabulary, self.channels), jnp.float32)
        places = self.param("places", nn.initializers.normal(0.01), (self.length, self.channels), jnp.float32)
        norm, x = partial(Norm, kind="layer", epsilon=1e-5), jnp.take(table, tokens, axis=0) + places[None]
        form = ViTConfig(activation=self.activation)
        for index in range(self.depth):
            x, _ = Block(self.heads, norm, form, causal=True, name=f"block{index + 1}")(x, False)
        x = jnp.take_along_axis(norm(name="norm")(x, False), jnp.argmax(tokens, axis=1)[:, None, None], axis=1)[:, 0]
        return nn.Dense(self.project, use_bias=False, name="project")(x)
