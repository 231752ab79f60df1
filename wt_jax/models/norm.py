"""Normalisation layers of the encoders: one choice, named in the config.

* "batch": BatchNorm. Under `jit` the batch axis is the global batch, so its statistics are those of all devices.
* "sub_batch": BatchNorm whose statistics are taken in `sub_batches` contiguous parts of the batch. It stands in for the
  per-device BatchNorm of a multi-GPU run, through which MoCo's keys leak (https://arxiv.org/abs/1911.05722, sec. 3.3).
* "group": GroupNorm, without any coupling between clips (https://arxiv.org/abs/1803.08494).

"layer" is LayerNorm over the channels of each place: transformers ask for it themselves, no config names it.

They are written out because flax's own fail in bfloat16 under strict dtype promotion.
"""

import math
from functools import partial

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
        elif self.kind == "layer":
            mean, var = jnp.mean(wide, -1, keepdims=True), jnp.var(wide, -1, keepdims=True)
            y = _scaled(wide, mean, var, scale, bias, self.epsilon)
        else:
            y = self._by_batch(wide, scale, bias, train)
        return y.astype(self.dtype)

    def _by_batch(self, x: jax.Array, scale: jax.Array, bias: jax.Array, train: bool) -> jax.Array:
        """`x` by its batch's statistics, which move the running ones, or by the running ones."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if not train:
            return _scaled(x, running_mean.value, running_var.value, scale, bias, self.epsilon)
        if self.kind == "batch":
            y, mean, var = _batch_norm(x, scale, bias, self.epsilon)
        else:
            if x.shape[0] % self.sub_batches:
                raise ValueError(f"a batch of {x.shape[0]} cannot be split into sub_batches={self.sub_batches}")
            parts = x.reshape(self.sub_batches, -1, *x.shape[1:])
            y, means, variances = jax.vmap(_batch_norm, in_axes=(0, None, None, None))(parts, scale, bias, self.epsilon)
            y, mean = y.reshape(x.shape), jnp.mean(means, axis=0)
            var = jnp.mean(variances, axis=0) + jnp.var(means, axis=0)
        if not self.is_initializing():
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * var
        return y


def _scaled(x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    return (x - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """BatchNorm (https://arxiv.org/abs/1502.03167, algorithm 1) of the last axis of `x`, and the batch's mean and biased
    variance, through which no gradient passes.

    The gradient is written out, as two sums and one pass over `x`; derived, it would write the centred `x` to memory as well.
    """
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    var = jnp.maximum(jnp.mean(jnp.square(x), axes) - jnp.square(mean), 0.0)
    return _scaled(x, mean, var, scale, bias, epsilon), mean, var


def _batch_norm_forward(x, scale, bias, epsilon):
    y, mean, var = _batch_norm(x, scale, bias, epsilon)
    return (y, mean, var), (x, mean, jax.lax.rsqrt(var + epsilon), scale)


def _batch_norm_backward(epsilon, kept, gradients):
    x, mean, inverse, scale = kept
    dy, axes, count = gradients[0], tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    dbias = jnp.sum(dy, axes)
    dscale = (jnp.sum(dy * x, axes) - mean * dbias) * inverse
    # scale * inverse * (dy - mean(dy) - normalised x * mean(dy * normalised x)), as factors of dy, of x and of 1
    of_dy = scale * inverse
    of_x = -of_dy * inverse * dscale / count
    rest = -of_dy * dbias / count - of_x * mean
    return of_dy * dy + of_x * x + rest, dscale, dbias


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


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
