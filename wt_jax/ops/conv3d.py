"""A 3-D convolution that is fast on CPUs too, in its value and in both gradients.

On a CPU, XLA's 3-D convolutions run far below the machine's matmul rate, and the input gradient of a strided one at
about a hundredth of it (openxla/xla #34273). So on a CPU it is one of two things:

* where there is oneDNN (`wt_jax/kernels/onednn.py`), its convolutions, each an operation of the program;
* elsewhere a composition of what XLA is good at: a sum over the temporal taps of 2-D convolutions, with the frames folded
  into the batch, or of matmuls where a tap has no spatial extent; the kernel gradient of a 2-D convolution is a sum of
  matmuls over small groups of frames (`wt_jax/ops/conv3d_composed.py`).

Every other platform runs `lax.conv_general_dilated`. The choice falls at lowering, so one traced function serves all.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from wt_jax.kernels import operations
from wt_jax.kernels.onednn import Padding
from wt_jax.ops import conv3d_composed
from wt_jax.ops.runtime import dispatch


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv3d(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Padding) -> jax.Array:
    """Convolve `x` (B, T, H, W, Cin) with `kernel` (kt, kh, kw, Cin, Cout), both of one float dtype.

    Equal within float tolerance to `lax.conv_general_dilated` with the layouts NDHWC, DHWIO, NDHWC. `strides` are three
    ints, `padding` three `(low, high)` pairs, none negative. Returns (B, T', H', W', Cout) in the dtype of `x`; on a CPU the
    arithmetic is float32. Reverse-mode differentiable once in both arrays: it brings its own backward pass, which has no
    derivative.
    """
    window = {"strides": strides, "padding": padding}
    native, composed, plain = (partial(form, **window) for form in (_conv3d_native, _conv3d_composed, _conv3d_lax))
    return dispatch(native, composed, x, kernel, default=plain)


def _forward(x, kernel, strides, padding):
    # Clips need no gradient: that of a first layer's input is a third of its work. An empty tuple: it is wanted.
    wanted = () if x.perturbed else None
    return conv3d(x.value, kernel.value, strides, padding), (x.value, kernel.value, wanted)


def _backward(strides, padding, residuals, dy):
    x, kernel, wanted = residuals
    if isinstance(dy, jax.custom_derivatives.SymbolicZero):
        return jnp.zeros_like(x), jnp.zeros_like(kernel)
    dx, d_kernel = _gradients(x, kernel, dy, strides, padding, wanted is not None)
    return jnp.zeros_like(x) if dx is None else dx, d_kernel


conv3d.defvjp(_forward, _backward, symbolic_zeros=True)


def _gradients(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, strides: tuple[int, ...], padding: Padding, wanted: bool
) -> tuple[jax.Array | None, jax.Array]:
    """Gradients of `conv3d` by x, where that is wanted, and by kernel, given that by its result."""
    # Differentiating through platform_dependent would keep the residuals of both branches; so choose here once more.
    window = {"strides": strides, "padding": padding, "wanted": wanted}
    composed, plain = (partial(_gradients_of, form, **window) for form in (_conv3d_composed, _conv3d_lax))
    native = partial(_gradients_native, **window)
    found: tuple[jax.Array, ...] = dispatch(native, composed, x, kernel, dy, default=plain)
    return (found[0] if wanted else None), found[-1]


def _conv3d_lax(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))


def _in_float32(conv, x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Padding) -> jax.Array:
    # CPUs gain nothing from bfloat16 arithmetic, and sums are better off in float32.
    return conv(x.astype(jnp.float32), kernel.astype(jnp.float32), strides, padding).astype(x.dtype)


_conv3d_native, _conv3d_composed = partial(_in_float32, operations.value), partial(_in_float32, conv3d_composed.conv3d)


def _gradients_of(conv, x: jax.Array, kernel: jax.Array, dy: jax.Array, strides, padding: Padding, wanted: bool):
    found = jax.vjp(partial(conv, strides=strides, padding=padding), x, kernel)[1](dy)
    return found if wanted else found[1:]


def _gradients_native(x: jax.Array, kernel: jax.Array, dy: jax.Array, strides, padding: Padding, wanted: bool):
    wide_x, wide_kernel, wide_dy = (array.astype(jnp.float32) for array in (x, kernel, dy))
    if wanted:
        dx, d_kernel = operations.gradients(wide_x, wide_kernel, wide_dy, strides, padding)
        return dx.astype(x.dtype), d_kernel.astype(kernel.dtype)
    return (operations.kernel_gradient(wide_x, wide_dy, kernel.shape[:3], strides, padding).astype(kernel.dtype),)
