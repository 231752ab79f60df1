"""The layers that the video encoders share: a 3-D convolution with its norm, and the final pooling."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wt_jax.config import RGB
from wt_jax.ops.conv3d import conv3d
from wt_jax.ops.ranks import widened

Size3 = tuple[int, int, int]


def normalize_input(clips: jax.Array, mean: RGB, std: RGB) -> jax.Array:
    """(..., 3) RGB in [0, 1] -> the same shape, float32, less `mean` and divided by `std` per channel."""
    center, deviation = (widened(jnp.asarray(each, jnp.float32), clips) for each in (mean, std))
    return (clips - center) / deviation


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
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, T, H, W, Cin) -> (B, T', H', W', features) in `dtype`."""
        init = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
        kernel = self.param("kernel", init, (*self.kernel_size, x.shape[-1], self.features), jnp.float32)
        padding = tuple((size // 2, size // 2) for size in self.kernel_size)
        return conv3d(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, padding)


class ConvNorm(nn.Module):
    """Convolution and norm, then ReLU if `relu`. `norm` makes a `Norm`; its dtype is that of the convolution too."""

    features: int
    kernel_size: Size3
    strides: Size3
    norm: Callable[..., Any]
    relu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, T, H, W, Cin) -> (B, T', H', W', features) in the dtype of the norm."""
        norm = self.norm(relu=self.relu, name="norm")
        conv = Conv3D(self.features, self.kernel_size, self.strides, norm.dtype, name="conv")
        return norm(conv(x), train)


def global_pool(x: jax.Array) -> jax.Array:
    """(B, t, h, w, C) of any float dtype -> mean (B, C) in float32."""
    return jnp.mean(x, axis=(1, 2, 3), dtype=jnp.float32)
