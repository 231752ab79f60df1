"""A 3-D convolution that is fast on CPUs too, in its value and in both gradients.

On a CPU, XLA's 3-D convolutions run far below the machine's matmul rate, and the input gradient of a strided one at
about a hundredth of it (openxla/xla #34273). Its 2-D convolutions and matmuls are good, but for the kernel gradient of
a 2-D convolution. So on a CPU

* a 3-D convolution is a sum over its temporal taps of 2-D convolutions, with the frames folded into the batch;
* a tap without spatial extent is a matmul;
* the kernel gradient of a 2-D convolution is a sum of matmuls over small groups of frames.

Every other platform runs `lax.conv_general_dilated`. The choice falls at lowering, so one traced function serves all.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], ...]

# Output positions per matmul of the kernel gradient: above a few thousand, XLA's matmul slows down with the length of
# the contraction; far below, the loop costs more than the work in it.
_POSITIONS = 1024


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv3d(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Padding) -> jax.Array:
    """Convolve `x` (B, T, H, W, Cin) with `kernel` (kt, kh, kw, Cin, Cout), both of one float dtype.

    Equal within float tolerance to `lax.conv_general_dilated` with the layouts NDHWC, DHWIO, NDHWC. `strides` are three
    ints, `padding` three `(low, high)` pairs. Returns (B, T', H', W', Cout) in the dtype of `x`. Reverse-mode
    differentiable once in both arrays: it brings its own backward pass, which has no derivative.
    """
    cpu = partial(_conv3d_cpu, strides=strides, padding=padding)
    default = partial(_conv3d_lax, strides=strides, padding=padding)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _forward(x, kernel, strides, padding):
    return conv3d(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, residuals, dy):
    # Differentiating through platform_dependent would keep the residuals of both branches; so choose here once more.
    def gradients(conv):
        return lambda x, kernel, dy: jax.vjp(partial(conv, strides=strides, padding=padding), x, kernel)[1](dy)

    return lax.platform_dependent(*residuals, dy, cpu=gradients(_conv3d_cpu), default=gradients(_conv3d_lax))


conv3d.defvjp(_forward, _backward)


def _conv3d_lax(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))


def _conv3d_cpu(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Padding) -> jax.Array:
    dtype = x.dtype
    # CPUs gain nothing from bfloat16 arithmetic, and the sum over taps is better off in float32.
    x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
    taps, step, batch = kernel.shape[0], strides[0], x.shape[0]
    x = jnp.pad(x, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
    frames = (x.shape[1] - taps) // step + 1
    shifted = (x[:, i : i + step * (frames - 1) + 1 : step].reshape(-1, *x.shape[2:]) for i in range(taps))
    y = sum(_conv2d(tap, weight, strides[1:], padding[1:]) for tap, weight in zip(shifted, kernel, strict=True))
    return y.reshape(batch, frames, *y.shape[1:]).astype(dtype)


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
