"""The small networks on top of an encoder: projection and prediction heads are both this MLP.

SimCLR's and MoCo v2's projection head is `MLP()` (https://arxiv.org/abs/2003.04297); BYOL's projector and predictor are
`MLP(hidden=4096, out=256, norm="batch")` (https://arxiv.org/abs/2006.07733).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from wt_jax.models.norm import Norm


class MLP(nn.Module):
    """`layers` linear maps with ReLU between.

    The hidden layers have `hidden` units, a norm of kind `norm` if one is named, and no bias where a norm follows.
    """

    hidden: int = 2048
    out: int = 128
    layers: int = 2
    norm: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, D) of any float dtype -> (B, `out`) in float32, not normalized to the sphere."""
        for index in range(self.layers - 1):
            x = nn.Dense(self.hidden, use_bias=self.norm is None, dtype=self.dtype, name=f"dense{index + 1}")(x)
            if self.norm is not None:
                x = Norm(self.norm, dtype=self.dtype, name=f"norm{index + 1}")(x, train)
            x = nn.relu(x)
        x = nn.Dense(self.out, dtype=self.dtype, name=f"dense{self.layers}")(x)
        return x.astype(jnp.float32)


class LevelHeads(nn.Module):
    """Two heads for each of several depths, "spatial" and "temporal" (HDC), all of one size."""

    hidden: int = 2048
    out: int = 128
    layers: int = 2
    norm: str | None = None

    @nn.compact
    def __call__(self, features: dict[str, jax.Array], train: bool) -> dict[str, dict[str, jax.Array]]:
        """{level: (B, C)} -> {"spatial" or "temporal": {level: (B, `out`) float32}}."""
        return {
            kind: {
                level: MLP(self.hidden, self.out, self.layers, self.norm, name=f"{level}_{kind}")(feature, train)
                for level, feature in features.items()
            }
            for kind in ("spatial", "temporal")
        }
