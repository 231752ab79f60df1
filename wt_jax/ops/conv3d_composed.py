"""A 3-D convolution composed of operations that XLA runs well on a CPU: 2-D convolutions and matmuls."""

from functools import reduce
from operator import add

import jax
import jax.numpy as jnp
from jax import lax

from wt_jax.kernels.onednn import Padding

# Output positions per matmul of the kernel gradient: above a few thousand, XLA's matmul slows down with the length of
# the contraction; far below, the loop costs more than the work in it.
_POSITIONS = 1024


def conv3d(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Padding) -> jax.Array:
    """As `wt_jax.ops.conv3d.conv3d`, in float32."""
    taps, step, batch = kernel.shape[0], strides[0], x.shape[0]
    x = jnp.pad(x, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
    frames = (x.shape[1] - taps) // step + 1
    shifted = (x[:, i : i + step * (frames - 1) + 1 : step].reshape(-1, *x.shape[2:]) for i in range(taps))
    y = reduce(add, (_conv2d(tap, weight, strides[1:], padding[1:]) for tap, weight in zip(shifted, kernel, strict=True)))
    return y.reshape(batch, frames, *y.shape[1:])


def _conv2d(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Padding) -> jax.Array:
    """(N, H, W, Cin), (kh, kw, Cin, Cout) -> (N, H', W', Cout)."""
    if kernel.shape[:2] != (1, 1):
        return _conv2d_spatial(x, kernel, strides, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return x[:, :: strides[0], :: strides[1]] @ kernel[0, 0]


def _conv2d_lax(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


_conv2d_spatial = jax.custom_vjp(_conv2d_lax, nondiff_argnums=(2, 3))


def _conv2d_forward(x, kernel, strides, padding):
    return _conv2d_spatial(x, kernel, strides, padding), (x, kernel)


def _conv2d_backward(strides, padding, residuals, dy):
    x, kernel = residuals
    if strides == (1, 1):
        # As lax would do it, but with the kernel flipped by an operation of its own: inside a `lax.scan` a convolution
        # that flips its kernel is four times slower.
        flipped = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
        around = tuple((size - 1 - low, size - 1 - high) for size, (low, high) in zip(kernel.shape, padding, strict=False))
        dx = _conv2d_lax(dy, flipped, strides, around)
    else:
        (dx,) = jax.linear_transpose(lambda x: _conv2d_lax(x, kernel, strides, padding), x)(dy)
    return dx, _kernel_gradient(x, dy, kernel.shape, strides, padding)


_conv2d_spatial.defvjp(_conv2d_forward, _conv2d_backward)


def _kernel_gradient(x, dy, kernel_shape, strides, padding) -> jax.Array:
    """Gradient (kh, kw, Cin, Cout) of a 2-D convolution of `x` (N, H, W, Cin), given `dy` (N, H', W', Cout).

    It is patches^T @ dy. The patches are laid out as (kh kw Cin, positions), which spares the matmul a transposition,
    and exist for one group of frames at a time.
    """
    count, height, width, _ = dy.shape
    kh, kw = kernel_shape[:2]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))

    def one_group(x, dy):
        x = jnp.moveaxis(x, -1, 0)
        down, right = (step * (size - 1) + 1 for step, size in zip(strides, (height, width), strict=True))
        corners = ((i, j) for i in range(kh) for j in range(kw))
        patches = [x[:, :, i : i + down : strides[0], j : j + right : strides[1]] for i, j in corners]
        return jnp.stack(patches).reshape(-1, dy.size // dy.shape[-1]) @ dy.reshape(-1, dy.shape[-1])

    groups = -(-count * height * width // _POSITIONS)
    size = -(-count // groups)
    if size >= count:
        return one_group(x, dy).reshape(kernel_shape)
    groups = -(-count // size)
    # Frames of zeros fill the last group; they add nothing.
    x, dy = (
        jnp.pad(a, ((0, groups * size - count), (0, 0), (0, 0), (0, 0))).reshape(groups, size, *a.shape[1:]) for a in (x, dy)
    )
    zero = jnp.zeros((kh * kw * kernel_shape[2], kernel_shape[3]), x.dtype)
    total, _ = lax.scan(lambda total, group: (total + one_group(*group), None), zero, (x, dy))
    return total.reshape(kernel_shape)
