"""Normalisation layers of the encoders: one choice, named in the config.

* "batch": BatchNorm. Under `jit` the batch axis is the global batch, so its statistics are those of all devices.
* "sub_batch": BatchNorm whose statistics are taken in `sub_batches` contiguous parts of the batch. It stands in for the
  per-device BatchNorm of a multi-GPU run, through which MoCo's keys leak (https://arxiv.org/abs/1911.05722, sec. 3.3).
* "group": GroupNorm, without any coupling between clips (https://arxiv.org/abs/1803.08494).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

KINDS = ("batch", "sub_batch", "group")


class Norm(nn.Module):
    """Normalise the channels (last axis) of an array (B, ..., C); returns the same shape in `dtype`.

    Statistics are float32 whatever `dtype` is; running ones live in the collection "batch_stats". With `train` the
    batch is normalised by its own statistics and the running ones move by 1 - `momentum`; without, the running ones
    normalise. GroupNorm has none and ignores `train`. Its groups are 32, or the largest power of two that divides C.
    """

    kind: str = "batch"
    sub_batches: int = 1
    epsilon: float = 1e-5
    momentum: float = 0.9
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        options = {"epsilon": self.epsilon, "dtype": self.dtype}
        if self.kind == "group":
            return nn.GroupNorm(num_groups=math.gcd(32, x.shape[-1]), name="group", **options)(x)
        options["momentum"] = self.momentum
        if self.kind == "batch":
            return nn.BatchNorm(use_running_average=not train, name="batch", **options)(x)
        if self.kind == "sub_batch":
            return SubBatchNorm(sub_batches=self.sub_batches, name="batch", **options)(x, train)
        raise ValueError(f"norm {self.kind!r} is none of {', '.join(KINDS)}")


class SubBatchNorm(nn.Module):
    """BatchNorm over (B, ..., C) with statistics per contiguous sub-batch of B / `sub_batches` clips.

    Parameters and running statistics have BatchNorm's names and shapes. The running variance is that of the whole
    batch: the mean of the sub-batch variances plus the variance of the sub-batch means.
    """

    sub_batches: int
    epsilon: float
    momentum: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        if not train:
            return self._normalise(x, mean.value, var.value, scale, bias)
        if x.shape[0] % self.sub_batches:
            raise ValueError(f"a batch of {x.shape[0]} clips cannot be split into sub_batches={self.sub_batches}")
        parts = x.reshape(self.sub_batches, -1, channels)
        part_mean = jnp.mean(parts, axis=1, keepdims=True, dtype=jnp.float32)
        part_var = jnp.mean(jnp.square(parts.astype(jnp.float32) - part_mean), axis=1, keepdims=True)
        if not self.is_initializing():
            keep = self.momentum
            mean.value = keep * mean.value + (1 - keep) * jnp.mean(part_mean, axis=(0, 1))
            whole_var = jnp.mean(part_var, axis=(0, 1)) + jnp.var(part_mean, axis=(0, 1))
            var.value = keep * var.value + (1 - keep) * whole_var
        return self._normalise(parts, part_mean, part_var, scale, bias).reshape(x.shape)

    def _normalise(self, x, mean, var, scale, bias):
        return ((x.astype(jnp.float32) - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias).astype(self.dtype)
