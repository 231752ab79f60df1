"""The small networks on top of an encoder: projection and prediction heads are both this MLP.

SimCLR's and MoCo v2's projection head is `MLP()` (https://arxiv.org/abs/2003.04297); BYOL's projector and predictor are
`MLP(hidden=4096, out=256, norm="batch")` (https://arxiv.org/abs/2006.07733).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from wt_jax.models.norm import Norm


class Center(nn.Module):
    """Subtracts the mean of the batch, in evaluation a running mean (momentum 0.9). No gradient flows through the mean."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, D) float32 -> the same shape."""
        running = self.variable("batch_stats", "mean", jnp.zeros, x.shape[1:], jnp.float32)
        if not train:
            return x - running.value[None]
        mean = jax.lax.stop_gradient(jnp.mean(x, axis=0))
        if not self.is_initializing():
            running.value = 0.9 * running.value + 0.1 * mean
        return x - mean[None]


class MLP(nn.Module):
    """`layers` linear maps with ReLU between.

    The hidden layers have `hidden` units, a norm of kind `norm` if one is named, and no bias where a norm follows. With
    `center` the mean of the batch is subtracted from the result.
    """

    hidden: int = 2048
    out: int = 128
    layers: int = 2
    norm: str | None = None
    dtype: jnp.dtype = jnp.float32
    center: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, D) of any float dtype -> (B, `out`) in float32, not normalized to the sphere."""
        for index in range(self.layers - 1):
            x = nn.Dense(self.hidden, use_bias=self.norm is None, dtype=self.dtype, name=f"dense{index + 1}")(x)
            if self.norm is not None:
                x = Norm(self.norm, dtype=self.dtype, name=f"norm{index + 1}")(x, train)
            x = nn.relu(x)
        x = nn.Dense(self.out, dtype=self.dtype, name=f"dense{self.layers}")(x).astype(jnp.float32)
        return Center(name="center")(x, train) if self.center else x


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
