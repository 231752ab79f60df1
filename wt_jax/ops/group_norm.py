"""GroupNorm, then a ReLU where one is wanted, with its gradient written out."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from wt_jax.kernels import operations
from wt_jax.ops.runtime import dispatch


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def group_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, epsilon: float, relu: bool) -> jax.Array:
    """GroupNorm (https://arxiv.org/abs/1803.08494, eq. 1 to 6) of the last axis of `x`.

    Args:
      x: (B, ..., C) float32.
      scale: (C,) float32.
      bias: (C,) float32.
      groups: number of groups of neighboring channels; a divisor of C.
      epsilon: what is added to the variance.
      relu: whether what is below 0 becomes 0.

    Returns:
      The same shape as `x`, float32. Reverse-mode differentiable once.
    """
    return _value(x, scale, bias, groups, epsilon, relu)[0]


def _value(x, scale, bias, groups, epsilon, relu):
    """Also mean and inverse standard deviation (B, 2, groups)."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    portable = partial(_value_composed, groups=groups, epsilon=epsilon, relu=relu)
    native = partial(operations.group_norm, groups=groups, epsilon=epsilon, relu=relu)
    y, moments = dispatch(native, portable, flat, scale, bias)
    return y.reshape(x.shape), moments


def _forward(x, scale, bias, groups, epsilon, relu):
    y, moments = _value(x, scale, bias, groups, epsilon, relu)
    return y, (x, scale, bias, moments)


def _backward(groups, epsilon, relu, residuals, dy):
    x, scale, bias, moments = residuals
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    portable = partial(_gradients_composed, relu=relu)
    native = partial(operations.group_norm_gradients, relu=relu)
    dx, sums = dispatch(native, portable, flat, scale, bias, moments, dy.reshape(flat.shape))
    d_scale, d_bias = jnp.sum(sums, axis=0)
    return dx.reshape(x.shape), d_scale, d_bias


group_norm.defvjp(_forward, _backward)


def _value_composed(x, scale, bias, groups: int, epsilon: float, relu: bool):
    """Moments are pooled from the channels' moments: one pass over `x`, whose channel axis is never split (slow on CPUs)."""

    def pooled(values: jax.Array) -> jax.Array:
        return jnp.mean(jnp.mean(values, axis=1).reshape(x.shape[0], groups, -1), axis=2)

    mean = pooled(x)
    var = jnp.maximum(pooled(jnp.square(x)) - jnp.square(mean), 0.0)
    inverse = jnp.where(
        var < jnp.inf, lax.rsqrt(var + epsilon), jnp.nan
    )  # not 0: the loss of a network that has diverged must be NaN
    moments = jnp.stack([mean, inverse], axis=1)
    factor, shift = _factors(scale, bias, moments)
    y = x * factor + shift
    return jax.nn.relu(y) if relu else y, moments


def _gradients_composed(x, scale, bias, moments, dy, relu: bool):
    """As `wt_jax.ops.batch_norm.gradients`, of groups: dx, and the gradients by scale and bias of each clip (B, 2, C)."""
    if relu:
        factor, shift = _factors(scale, bias, moments)
        dy = jnp.where(x * factor + shift > 0, dy, 0.0)
    groups = moments.shape[2]
    mean, inverse = (_by_channel(moments[:, i], x.shape[-1]) for i in range(2))
    d_bias = jnp.sum(dy, axis=1)
    d_scale = inverse * (jnp.sum(dy * x, axis=1) - mean * d_bias)

    def pooled(values: jax.Array) -> jax.Array:
        per_group = jnp.sum((values * scale[None]).reshape(x.shape[0], groups, -1), axis=2)
        return _by_channel(per_group, x.shape[-1]) * (groups / (x.shape[1] * x.shape[2]))

    of_x = -jnp.square(inverse) * pooled(d_scale)
    rest = -inverse * pooled(d_bias) - mean * of_x
    dx = (inverse * scale[None])[:, None] * dy + of_x[:, None] * x + rest[:, None]
    return dx, jnp.stack([d_scale, d_bias], axis=1)


def _factors(scale, bias, moments):
    """What `x` is multiplied by and what is added (B, 1, C)."""
    mean, inverse = (_by_channel(moments[:, i], scale.shape[0])[:, None] for i in range(2))
    scale, bias = scale[None, None], bias[None, None]
    return inverse * scale, bias - mean * inverse * scale


def _by_channel(values: jax.Array, channels: int) -> jax.Array:
    return jnp.repeat(values, channels // values.shape[-1], axis=-1)
