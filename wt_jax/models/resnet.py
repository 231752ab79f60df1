"""3-D residual networks: one module, and one function per published structure.

R3D-18 and R(2+1)D-18 are those of torchvision (https://arxiv.org/abs/1711.11248), R3D-34 and R3D-50 those of
3D-ResNets-PyTorch with 1x1x1 shortcuts (https://arxiv.org/abs/1711.09577), Slow R50 that of PySlowFast
(https://arxiv.org/abs/1812.03982). `width` scales all channels; 64 is the published value.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from wt_jax.models.layers import ConvNorm, Size3, global_pool, max_pool


class Factorised(nn.Module):
    """A (1, k, k) convolution to `middle` channels, norm and ReLU, then a (k, 1, 1) convolution and norm: R(2+1)D."""

    features: int
    middle: int
    strides: Size3
    norm: Callable[..., nn.Module]
    relu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        step, *space = self.strides
        x = ConvNorm(self.middle, (1, 3, 3), (1, *space), self.norm, name="space")(x, train)
        return ConvNorm(self.features, (3, 1, 1), (step, 1, 1), self.norm, self.relu, name="time")(x, train)


class Basic(nn.Module):
    """Two 3x3x3 convolutions, each factorised into space and time if `factorised`, and the shortcut."""

    width: int
    strides: Size3
    norm: Callable[..., nn.Module]
    factorised: bool = False
    temporal_kernel: int = 3
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.factorised:
            # As many parameters as the 3x3x3 convolution had; torchvision uses the first one's for both.
            middle = 27 * x.shape[-1] * self.width // (9 * x.shape[-1] + 3 * self.width)
            conv = partial(Factorised, self.width, middle)
        else:
            conv = partial(ConvNorm, self.width, (self.temporal_kernel, 3, 3))
        y = conv(strides=self.strides, norm=self.norm, name="conv1")(x, train)
        y = conv(strides=(1, 1, 1), norm=self.norm, relu=False, name="conv2")(y, train)
        return nn.relu(y + _shortcut(x, self.width, self.strides, self.norm, train))


class Bottleneck(nn.Module):
    """1x1 down, 3x3 across, 1x1 up to four times the width; `kernels` are those of the first two convolutions."""

    width: int
    strides: Size3
    norm: Callable[..., nn.Module]
    kernels: tuple[Size3, Size3] = ((1, 1, 1), (3, 3, 3))
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        features = self.width * self.expansion
        y = ConvNorm(self.width, self.kernels[0], norm=self.norm, name="conv1")(x, train)
        y = ConvNorm(self.width, self.kernels[1], self.strides, self.norm, name="conv2")(y, train)
        y = ConvNorm(features, (1, 1, 1), norm=self.norm, relu=False, name="conv3")(y, train)
        return nn.relu(y + _shortcut(x, features, self.strides, self.norm, train))


def _shortcut(x, features, strides, norm, train):
    if x.shape[-1] == features and strides == (1, 1, 1):
        return x
    return ConvNorm(features, (1, 1, 1), strides, norm, relu=False, name="shortcut")(x, train)
