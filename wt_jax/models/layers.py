"""The layers that the video encoders share: a 3-D convolution with its norm, max-pooling and the final pooling."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from wt_jax.kernels import operations
from wt_jax.kernels.onednn import Padding
from wt_jax.ops.conv3d import conv3d

Size3 = tuple[int, int, int]
RGB = tuple[float, float, float]
# Mean and deviation of ImageNet's pixels, the field's convention for RGB in [0, 1].
IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)


def normalize_input(clips: jax.Array, mean: RGB, std: RGB) -> jax.Array:
    """(..., 3) RGB in [0, 1] -> the same shape, float32, less `mean` and divided by `std` per channel."""
    return (clips - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


class Conv3D(nn.Module):
    """Convolution without bias; the kernel has the layout DHWIO and is float32.

    Each axis is padded by kernel // 2 on both sides, as in PyTorch's video models: T' = ceil(T / stride) for odd
    kernels, hence never 0.
    """

    features: int
    kernel_size: Size3
    strides: Size3 = (1, 1, 1)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, convolve: Callable = conv3d) -> jax.Array:
        """(B, T, H, W, Cin) -> (B, T', H', W', features) in `dtype`; or what another `convolve` makes of the same arguments."""
        init = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
        kernel = self.param("kernel", init, (*self.kernel_size, x.shape[-1], self.features), jnp.float32)
        padding = tuple((size // 2, size // 2) for size in self.kernel_size)
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, padding)


class ConvNorm(nn.Module):
    """Convolution and norm, then ReLU if `relu`. `norm` makes a `Norm`; its dtype is that of the convolution too."""

    features: int
    kernel_size: Size3
    strides: Size3 = (1, 1, 1)
    norm: Callable[..., nn.Module] = None
    relu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, T, H, W, Cin) -> (B, T', H', W', features) in the dtype of the norm."""
        norm = self.norm(relu=self.relu, name="norm")
        conv = Conv3D(self.features, self.kernel_size, self.strides, norm.dtype, name="conv")
        return norm(x, train, conv)


def max_pool(x: jax.Array, window: Size3, strides: Size3) -> jax.Array:
    """Max-pool (B, T, H, W, C), each axis padded so that it comes out as ceil(size / stride), hence never 0.

    Odd windows are centered as in PyTorch's models, even ones start at the edge. On a CPU with oneDNN it is oneDNN's, and of
    equal maxima the first one gets the gradient; elsewhere they share it. Behind a ReLU, whose zeros pass none on, that is
    the same but for equal maxima above 0.
    """
    padding = []
    for size, length, step in zip(x.shape[1:4], window, strides, strict=True):
        low = (length - 1) // 2
        padding.append((low, max(0, step * (-(-size // step) - 1) + length - low - size)))
    return _max_pool(x, window, strides, tuple(padding))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, window: Size3, strides: Size3, padding: Padding) -> jax.Array:
    where = {"window": window, "strides": strides, "padding": padding}
    cpu = _max_pool_onednn if operations.available() else _max_pool_by_axis
    return lax.platform_dependent(x, cpu=functools.partial(cpu, **where), default=functools.partial(_max_pool_by_axis, **where))


def _max_pool_forward(x, window, strides, padding):
    return _max_pool(x, window, strides, padding), x


def _max_pool_backward(window, strides, padding, x, dy):
    where = {"window": window, "strides": strides, "padding": padding}

    def by_axis(x, dy):
        return jax.vjp(functools.partial(_max_pool_by_axis, **where), x)[1](dy)[0]

    def by_onednn(x, dy):
        return operations.max_pool_gradient(x.astype(jnp.float32), dy.astype(jnp.float32), **where).astype(x.dtype)

    return (lax.platform_dependent(x, dy, cpu=by_onednn if operations.available() else by_axis, default=by_axis),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _max_pool_onednn(x: jax.Array, **where) -> jax.Array:
    return operations.max_pool(x.astype(jnp.float32), **where).astype(x.dtype)


def _max_pool_by_axis(x: jax.Array, window: Size3, strides: Size3, padding: Padding) -> jax.Array:
    """Axis by axis over shifted slices: the gradient of `lax.reduce_window` is ten times slower on a CPU."""
    for axis, (length, step, around) in enumerate(zip(window, strides, padding, strict=True), start=1):
        size = (x.shape[axis] + sum(around) - length) // step + 1
        pads = [around if i == axis else (0, 0) for i in range(x.ndim)]
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        shifted = [lax.slice_in_dim(padded, i, i + step * (size - 1) + 1, step, axis) for i in range(length)]
        x = functools.reduce(jnp.maximum, shifted)
    return x


def global_pool(x: jax.Array) -> jax.Array:
    """(B, t, h, w, C) of any float dtype -> mean (B, C) in float32."""
    return jnp.mean(x, axis=(1, 2, 3), dtype=jnp.float32)
