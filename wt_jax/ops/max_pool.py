"""3-D max-pooling that is fast on CPUs too, in its value and its gradient.

A CPU without the native runtime takes the maximum axis by axis, as do GPUs. A TPU has `lax.reduce_window`, which moves a third
to a quarter of the bytes there, by the compiler's own count (docs/scaling.md).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from wt_jax.kernels import operations
from wt_jax.ops.runtime import dispatch

Size3 = tuple[int, int, int]
Padding = tuple[tuple[int, int], ...]


def max_pool(x: Array, window: Size3, strides: Size3) -> Array:
    """Max-pool `x`, each axis padded so that it comes out as ceil(size / stride), hence never 0.

    Odd windows are centered as in PyTorch's models, even ones start at the edge. In the native form and on a TPU the first of
    equal maxima gets the gradient, otherwise they share it. After a ReLU, whose zeros pass none on, that is the same but for
    equal maxima above 0.

    Args:
      x: (B, T, H, W, C) of a float dtype.
      window: (t, h, w).
      strides: along T, H and W.

    Returns:
      (B, T', H', W', C) in the dtype of `x`. Reverse-mode differentiable once.
    """
    padding = []
    for size, length, step in zip(x.shape[1:4], window, strides, strict=True):
        low = (length - 1) // 2
        padding.append((low, max(0, step * (-(-size // step) - 1) + length - low - size)))
    return _max_pool(x, window, strides, tuple(padding))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: Array, window: Size3, strides: Size3, padding: Padding) -> Array:
    where = {"window": window, "strides": strides, "padding": padding}

    def native(x: Array) -> Array:
        return operations.max_pool(x.astype(jnp.float32), **where).astype(x.dtype)

    by_axis, by_window = (functools.partial(form, **where) for form in (_by_axis, _by_window))
    return dispatch(native, by_axis, x, tpu=by_window)


def _forward(x, window, strides, padding):
    return _max_pool(x, window, strides, padding), x


def _backward(window, strides, padding, x, dy):
    where = {"window": window, "strides": strides, "padding": padding}

    def native(x: Array, dy: Array) -> Array:
        return operations.max_pool_gradient(x.astype(jnp.float32), dy.astype(jnp.float32), **where).astype(x.dtype)

    def gradient_of(form, x: Array, dy: Array) -> Array:
        return jax.vjp(functools.partial(form, **where), x)[1](dy)[0]

    by_axis, by_window = (functools.partial(gradient_of, form) for form in (_by_axis, _by_window))
    return (dispatch(native, by_axis, x, dy, tpu=by_window),)


_max_pool.defvjp(_forward, _backward)


def _by_axis(x: Array, window: Size3, strides: Size3, padding: Padding) -> Array:
    """Axis by axis over shifted slices: the gradient of `lax.reduce_window` is ten times slower on a CPU."""
    for axis, (length, step, around) in enumerate(zip(window, strides, padding, strict=True), start=1):
        size = (x.shape[axis] + sum(around) - length) // step + 1
        pads = [around if i == axis else (0, 0) for i in range(x.ndim)]
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        shifted = [lax.slice_in_dim(padded, i, i + step * (size - 1) + 1, step, axis) for i in range(length)]
        x = functools.reduce(jnp.maximum, shifted)
    return x


def _by_window(x: Array, window: Size3, strides: Size3, padding: Padding) -> Array:
    around = ((0, 0), *padding, (0, 0))
    return lax.reduce_window(x, np.array(-np.inf, x.dtype), lax.max, (1, *window, 1), (1, *strides, 1), around)
