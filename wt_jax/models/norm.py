"""Normalization layers of the encoders: one choice, named in the config.

* "batch": BatchNorm. Under `jit` the batch axis is the global batch, so its statistics are those of all devices.
* "sub_batch": BatchNorm whose statistics are taken in `sub_batches` contiguous parts of the batch. It replaces the
  per-device BatchNorm of a multi-GPU run, through which MoCo's keys leak (https://arxiv.org/abs/1911.05722, sec. 3.3).
* "group": GroupNorm, without any coupling between clips (https://arxiv.org/abs/1803.08494).

"layer" is LayerNorm over the channels of each position: transformers set it themselves, no config names it.

They are written out because flax's own raise in bfloat16 under strict dtype promotion.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wt_jax.ops.batch_norm import batch_norm, scaled
from wt_jax.ops.group_norm import group_norm

KINDS = ("batch", "sub_batch", "group")


class Norm(nn.Module):
    """Normalize the channels (last axis) of an array by statistics in float32, then scale and shift; then ReLU if `relu`.

    The running statistics of "batch" and "sub_batch" live in the collection "batch_stats". GroupNorm has none. Its
    groups are 32, or the largest power of two that divides the channels. Nor has LayerNorm.
    """

    kind: str = "batch"
    sub_batches: int = 1
    epsilon: float = 1e-5
    momentum: float = 0.9
    relu: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, ..., C) of any float dtype -> the same shape in `dtype`.

        With `train` the batch is normalized by its own statistics, and the running ones move by 1 - `momentum`;
        without, the running ones normalize. GroupNorm and LayerNorm ignore `train`.
        """
        channels, wide = x.shape[-1], x.astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        if self.kind == "group":
            y: Any = group_norm(wide, scale, bias, math.gcd(32, channels), self.epsilon, self.relu)
            return y.astype(self.dtype)
        if self.kind == "layer":
            mean, var = jnp.mean(wide, -1, keepdims=True), jnp.var(wide, -1, keepdims=True)
            return self._end(scaled(wide, mean, var, scale, bias, self.epsilon)).astype(self.dtype)
        return self._by_batch(wide, scale, bias, train).astype(self.dtype)

    def _end(self, y: jax.Array) -> jax.Array:
        return nn.relu(y) if self.relu else y

    def _by_batch(self, x: jax.Array, scale: jax.Array, bias: jax.Array, train: bool) -> jax.Array:
        """`x` normalized by its batch's statistics, which move the running ones, or by the running ones; ReLU if `relu`."""
        if not train:
            mean, var = self._running(x.shape[-1])
            return self._end(scaled(x, mean.value, var.value, scale, bias, self.epsilon))
        if self.kind == "batch":
            results: Any = batch_norm(x, scale, bias, self.epsilon, self.relu)
            return self._update(*results)
        if x.shape[0] % self.sub_batches:
            raise ValueError(f"a batch of {x.shape[0]} cannot be split into sub_batches={self.sub_batches}")
        parts = x.reshape(self.sub_batches, -1, *x.shape[1:])
        y, means, variances = jax.vmap(lambda part: batch_norm(part, scale, bias, self.epsilon, self.relu))(parts)
        return self._update(y.reshape(x.shape), jnp.mean(means, axis=0), jnp.mean(variances, axis=0) + jnp.var(means, axis=0))

    def _running(self, channels: int) -> tuple[nn.Variable, nn.Variable]:
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        return mean, self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)

    def _update(self, y: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
        """Return `y`, and move the running statistics towards those of this batch."""
        keep = self.momentum
        for running, now in zip(self._running(y.shape[-1]), (mean, var), strict=True):
            if not self.is_initializing():
                running.value = keep * running.value + (1 - keep) * now
        return y
