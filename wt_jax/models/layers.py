"""The layers that the video encoders share: a 3-D convolution with its norm, max-pooling and the final pooling."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from wt_jax.models.conv import conv3d

Size3 = tuple[int, int, int]


class Conv3D(nn.Module):
    """Convolution without bias: (B, T, H, W, Cin) -> (B, T', H', W', features), kernel in DHWIO layout.

    Each axis is padded by kernel // 2 on both sides, as in PyTorch's video models: T' = ceil(T / stride) for odd
    kernels, hence never 0. Parameters are float32; the arithmetic and the result are in `dtype`.
    """

    features: int
    kernel_size: Size3
    strides: Size3 = (1, 1, 1)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
        kernel = self.param("kernel", init, (*self.kernel_size, x.shape[-1], self.features), jnp.float32)
        padding = tuple((size // 2, size // 2) for size in self.kernel_size)
        return conv3d(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, padding)


class ConvNorm(nn.Module):
    """Convolution and norm, then ReLU if `relu`. `norm` makes a `Norm`; its dtype is that of the convolution too."""

    features: int
    kernel_size: Size3
    strides: Size3 = (1, 1, 1)
    norm: Callable[..., nn.Module] = None
    relu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = self.norm(name="norm")
        x = Conv3D(self.features, self.kernel_size, self.strides, norm.dtype, name="conv")(x)
        x = norm(x, train)
        return nn.relu(x) if self.relu else x


def max_pool(x: jax.Array, window: Size3, strides: Size3) -> jax.Array:
    """Max-pool (B, T, H, W, C), each axis padded so that it comes out as ceil(size / stride)."""
    padding = []
    for size, length, step in zip(x.shape[1:4], window, strides, strict=True):
        # kernel // 2 in front, as PyTorch's models have it; even windows start at the edge.
        low = (length - 1) // 2
        padding.append((low, (-(-size // step) - 1) * step + length - low - size))
    return nn.max_pool(x, window, strides, [(low, max(high, 0)) for low, high in padding])


def global_pool(x: jax.Array) -> jax.Array:
    """(B, t, h, w, C) of any float dtype -> mean (B, C) in float32."""
    return jnp.mean(x, axis=(1, 2, 3), dtype=jnp.float32)
