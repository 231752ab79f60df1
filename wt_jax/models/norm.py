"""Normalisation layers of the encoders: one choice, named in the config.

* "batch": BatchNorm. Under `jit` the batch axis is the global batch, so its statistics are those of all devices.
* "sub_batch": BatchNorm whose statistics are taken in `sub_batches` contiguous parts of the batch. It stands in for the
  per-device BatchNorm of a multi-GPU run, through which MoCo's keys leak (https://arxiv.org/abs/1911.05722, sec. 3.3).
* "group": GroupNorm, without any coupling between clips (https://arxiv.org/abs/1803.08494).

"layer" is LayerNorm over the channels of each place: transformers ask for it themselves, no config names it.

They are written out because flax's own fail in bfloat16 under strict dtype promotion.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

KINDS = ("batch", "sub_batch", "group")


class Norm(nn.Module):
    """Normalise the channels (last axis) of an array by statistics in float32, then scale and shift.

    The running statistics of "batch" and "sub_batch" live in the collection "batch_stats". GroupNorm has none. Its
    groups are 32, or the largest power of two that divides the channels. Nor has LayerNorm.
    """

    kind: str = "batch"
    sub_batches: int = 1
    epsilon: float = 1e-5
    momentum: float = 0.9
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, ..., C) of any float dtype -> the same shape in `dtype`.

        With `train` the batch is normalised by its own statistics, and the running ones move by 1 - `momentum`;
        without, the running ones normalise. GroupNorm and LayerNorm ignore `train`.
        """
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        wide = x.astype(jnp.float32)
        if self.kind == "group":
            mean, var = _group_moments(wide, math.gcd(32, channels))
            factor = jax.lax.rsqrt(var + self.epsilon) * scale
            y = wide * factor + (bias - mean * factor)
        else:
            if self.kind == "layer":
                mean, var = jnp.mean(wide, -1, keepdims=True), jnp.var(wide, -1, keepdims=True)
            else:
                mean, var = self._batch_moments(wide, train)
            y = (wide - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        return y.astype(self.dtype)

    def _batch_moments(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Mean and variance of each channel, in a shape that broadcasts against `x`."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if not train:
            return running_mean.value, running_var.value
        batch_axes = tuple(range(x.ndim - 1))
        if self.kind == "batch":
            mean, var = whole_mean, whole_var = _moments(x, batch_axes, keepdims=False)
        else:
            if x.shape[0] % self.sub_batches:
                raise ValueError(f"a batch of {x.shape[0]} cannot be split into sub_batches={self.sub_batches}")
            parts = x.reshape(self.sub_batches, -1, *x.shape[1:])
            mean, var = _moments(parts, tuple(range(1, x.ndim)), keepdims=False)
            whole_mean = jnp.mean(mean, axis=0)
            whole_var = jnp.mean(var, axis=0) + jnp.var(mean, axis=0)
            members = x.shape[0] // self.sub_batches
            shape = (x.shape[0], *(1,) * (x.ndim - 2), channels)
            mean, var = (jnp.repeat(m, members, axis=0).reshape(shape) for m in (mean, var))
        if not self.is_initializing():
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * whole_mean
            running_var.value = keep * running_var.value + (1 - keep) * whole_var
        return mean, var


def _moments(x: jax.Array, axes: tuple[int, ...], keepdims: bool = True) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance in one pass over `x`."""
    mean = jnp.mean(x, axes, keepdims=keepdims)
    square = jnp.mean(jnp.square(x), axes, keepdims=keepdims)
    return mean, jnp.maximum(square - jnp.square(mean), 0.0)


def _group_moments(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each channel's group in float32 (B, 1, ..., C).

    Pooled from the channels' moments: one pass over `x`, whose channel axis is never split (slow on CPUs).
    """
    count, channels = x.shape[0], x.shape[-1]

    def pooled(values: jax.Array) -> jax.Array:
        per_channel = jnp.mean(values.reshape(count, -1, channels), axis=1)
        per_group = jnp.mean(per_channel.reshape(count, groups, -1), axis=2)
        return jnp.repeat(per_group, channels // groups, axis=1).reshape(count, *(1,) * (x.ndim - 2), channels)

    mean = pooled(x)
    return mean, jnp.maximum(pooled(jnp.square(x)) - jnp.square(mean), 0.0)
