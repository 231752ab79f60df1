"""BatchNorm by the batch's own statistics, then a ReLU where one is wanted, with its gradient written out."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from wt_jax.ops.ranks import widened

Axis = str | tuple[str, ...] | None


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
    return value(x, scale, bias, epsilon, relu)


def _forward(x, scale, bias, epsilon, relu):
    y, mean, var = value(x, scale, bias, epsilon, relu)
    return (y, mean, var), (x, scale, bias, mean, var)


def _backward(epsilon, relu, residuals, dy):
    x, scale, bias, mean, var = residuals
    return gradients(x, scale, bias, mean, var, dy[0], epsilon, relu)


batch_norm.defvjp(_forward, _backward)


def scaled(x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """`x` normalized by these moments, then scaled and shifted."""
    factor = lax.rsqrt(var + epsilon) * widened(scale, var)
    return (x - widened(mean, x)) * widened(factor, x) + widened(bias, x)


def value(x, scale, bias, epsilon: float, relu: bool, across: Axis = None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`batch_norm`; of a batch that is split along the mesh axis `across`, called for each part."""
    mean = _mean(x, across)
    var = jnp.maximum(_mean(jnp.square(x), across) - jnp.square(mean), 0.0)
    y = scaled(x, mean, var, scale, bias, epsilon)
    return jax.nn.relu(y) if relu else y, mean, var


def gradients(
    x, scale, bias, mean, var, dy, epsilon: float, relu: bool, across: Axis = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of `value` by x, scale and bias, given its moments and the gradient by its first result.

    Two means and one pass over `x`; derived, it would write the centered `x` to memory as well.
    """
    if relu:
        dy = jnp.where(scaled(x, mean, var, scale, bias, epsilon) > 0, dy, 0.0)
    inverse = lax.rsqrt(var + epsilon)
    bias_part = _mean(dy, across)
    scale_part = (_mean(dy * x, across) - mean * bias_part) * inverse
    # scale * inverse * (dy - mean(dy) - normalized x * mean(dy * normalized x)), as factors of dy, of x and of 1
    of_dy = scale * inverse
    of_x = -of_dy * inverse * scale_part
    rest = -of_dy * bias_part - of_x * mean
    count = x.size // x.shape[-1] * (1 if across is None else lax.axis_size(across))
    of_dy, of_x, rest = (widened(each, x) for each in (of_dy, of_x, rest))
    return of_dy * dy + of_x * x + rest, count * scale_part, count * bias_part


def _mean(x: jax.Array, across: Axis) -> jax.Array:
    mean = jnp.mean(x, range(x.ndim - 1))
    return mean if across is None else lax.pmean(mean, across)
