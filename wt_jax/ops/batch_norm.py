"""BatchNorm by the batch's own statistics, then a ReLU where one is wanted, with its gradient written out."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from wt_jax.ops.ranks import widened


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, relu: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """BatchNorm (https://arxiv.org/abs/1502.03167, algorithm 1) of the last axis of `x`.

    Args:
      x: (B, ..., C) float32.
      scale: (C,) float32.
      bias: (C,) float32.
      epsilon: what is added to the variance.
      relu: whether what is below 0 becomes 0.

    Returns:
      The same shape as `x`, and the batch's mean and biased variance (C,), through which no gradient passes. All float32.
    """
    return _value(x, scale, bias, epsilon, relu)


def _value(x, scale, bias, epsilon: float, relu: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    mean = _mean(x)
    var = jnp.maximum(_mean(jnp.square(x)) - jnp.square(mean), 0.0)
    y = scaled(x, mean, var, scale, bias, epsilon)
    return jax.nn.relu(y) if relu else y, mean, var


def _forward(x, scale, bias, epsilon, relu):
    y, mean, var = _value(x, scale, bias, epsilon, relu)
    return (y, mean, var), (x, scale, bias, mean, var)


def _backward(epsilon, relu, residuals, by_results):
    # Two means and one pass over `x`; derived, it would write the centered `x` to memory as well.
    (x, scale, bias, mean, var), dy = residuals, by_results[0]
    if relu:
        dy = jnp.where(scaled(x, mean, var, scale, bias, epsilon) > 0, dy, 0.0)
    inverse = lax.rsqrt(var + epsilon)
    bias_part = _mean(dy)
    scale_part = (_mean(dy * x) - mean * bias_part) * inverse
    # scale * inverse * (dy - mean(dy) - normalized x * mean(dy * normalized x)), as factors of dy, of x and of 1
    of_dy = scale * inverse
    of_x = -of_dy * inverse * scale_part
    rest = -of_dy * bias_part - of_x * mean
    count = x.size // x.shape[-1]
    of_dy, of_x, rest = (widened(each, x) for each in (of_dy, of_x, rest))
    return of_dy * dy + of_x * x + rest, count * scale_part, count * bias_part


batch_norm.defvjp(_forward, _backward)


def scaled(x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """`x` normalized by these moments, then scaled and shifted."""
    factor = lax.rsqrt(var + epsilon) * widened(scale, var)
    return (x - widened(mean, x)) * widened(factor, x) + widened(bias, x)


def _mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x, range(x.ndim - 1))
