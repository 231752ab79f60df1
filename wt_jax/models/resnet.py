"""3-D residual networks: one module, and one function per published structure.

R3D-18, MC3-18 and R(2+1)D-18 are those of torchvision (https://arxiv.org/abs/1711.11248), R3D-34 and R3D-50 those of
3D-ResNets-PyTorch with 1x1x1 shortcuts (https://arxiv.org/abs/1711.09577), Slow R50 that of PySlowFast
(https://arxiv.org/abs/1812.03982). `width` scales all channels; 64 is the published value.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from wt_jax.config import IMAGENET_MEAN, IMAGENET_STD, RGB
from wt_jax.models.layers import ConvNorm, Size3, global_pool, normalize_input
from wt_jax.ops.max_pool import max_pool


class Factorised(nn.Module):
    """A (1, k, k) convolution to `middle` channels, norm and ReLU, then a (k, 1, 1) convolution and norm: R(2+1)D."""

    features: int
    middle: int
    strides: Size3
    norm: Callable[..., nn.Module]
    relu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, T, H, W, Cin) -> (B, T', H', W', features)."""
        step, down, right = self.strides
        x = ConvNorm(self.middle, (1, 3, 3), (1, down, right), self.norm, name="space")(x, train)
        return ConvNorm(self.features, (3, 1, 1), (step, 1, 1), self.norm, self.relu, name="time")(x, train)


class Basic(nn.Module):
    """Two convolutions of `kernel`, or of 3x3x3 factorized into space and time if `factorized`, and the shortcut."""

    width: int
    strides: Size3
    norm: Callable[..., nn.Module]
    factorized: bool = False
    kernel: Size3 = (3, 3, 3)
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, T, H, W, Cin) -> (B, T', H', W', features)."""
        if self.factorized:
            # As many parameters as the 3x3x3 convolution had; torchvision uses the first one's for both.
            middle = 27 * x.shape[-1] * self.width // (9 * x.shape[-1] + 3 * self.width)
            conv = partial(Factorised, self.width, middle)
        else:
            conv = partial(ConvNorm, self.width, self.kernel)
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
        """(B, T, H, W, Cin) -> (B, T', H', W', features)."""
        features = self.width * self.expansion
        y = ConvNorm(self.width, self.kernels[0], (1, 1, 1), self.norm, name="conv1")(x, train)
        y = ConvNorm(self.width, self.kernels[1], self.strides, self.norm, name="conv2")(y, train)
        y = ConvNorm(features, (1, 1, 1), (1, 1, 1), self.norm, relu=False, name="conv3")(y, train)
        return nn.relu(y + _shortcut(x, features, self.strides, self.norm, train))


def _shortcut(x, features, strides, norm, train):
    if x.shape[-1] == features and strides == (1, 1, 1):
        return x
    return ConvNorm(features, (1, 1, 1), strides, norm, relu=False, name="shortcut")(x, train)


@dataclass(frozen=True)
class Stage:
    """`depth` blocks of one width; the first one has the strides. `options` are further fields of the block."""

    depth: int
    block: Any  # Basic, Bottleneck or the like
    strides: Size3
    options: dict = field(default_factory=dict, hash=False)


class ResNet(nn.Module):
    """Stem, stages of residual blocks, average over time and space.

    `stem` lists the first convolutions as (features, kernel, strides); `pool` is the window of the max-pool after them,
    if there is one, with `pool_strides`. `width` is the width of the first stage and doubles with each stage. `remat`
    recomputes each block in the backward pass instead of keeping its activations.
    """

    unit = "clip"
    stem: tuple[tuple[int, Size3, Size3], ...]
    stages: tuple[Stage, ...]
    norm: Callable[..., nn.Module]
    width: int = 64
    pool: Size3 | None = None
    pool_strides: Size3 | None = None
    remat: bool = False
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD

    @property
    def feature_dim(self) -> int:
        """Number of channels of the features."""
        return self.width * 2 ** (len(self.stages) - 1) * self.stages[-1].block.expansion

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the parts, from input to output."""
        blocks = (f"stage{s + 1}_block{b + 1}" for s, stage in enumerate(self.stages) for b in range(stage.depth))
        return (*(f"stem{index + 1}" for index in range(len(self.stem))), *blocks)

    @nn.compact
    def __call__(self, clips: jax.Array, train: bool, pool: bool = True) -> jax.Array:
        """(B, T, H, W, 3) in [0, 1] -> features (B, `feature_dim`) float32, or without `pool` the last map (B, t, h, w, C)."""
        x = normalize_input(clips, self.mean, self.std)
        for index, (features, kernel, strides) in enumerate(self.stem):
            x = ConvNorm(features, kernel, strides, self.norm, name=f"stem{index + 1}")(x, train)
        if self.pool and self.pool_strides:
            x = max_pool(x, self.pool, self.pool_strides)
        for number, stage in enumerate(self.stages):
            block = nn.remat(stage.block, static_argnums=(2,)) if self.remat else stage.block
            for index in range(stage.depth):
                strides = stage.strides if index == 0 else (1, 1, 1)
                name = f"stage{number + 1}_block{index + 1}"
                x = block(self.width * 2**number, strides, self.norm, **stage.options, name=name)(x, train)
        return global_pool(x) if pool else x


def r3d_18(width: int, **options) -> ResNet:
    """R3D-18 of torchvision: 33,371,472 parameters with a 400-class head."""
    return ResNet(((width, (3, 7, 7), (1, 2, 2)),), _stages((2, 2, 2, 2), Basic), width=width, **options)


def mc3_18(width: int, **options) -> ResNet:
    """MC3-18 of torchvision: R3D-18 whose last three stages see single frames. 11,695,440 parameters with a 400-class head."""
    flat = tuple(Stage(2, Basic, (1, 2, 2), {"kernel": (1, 3, 3)}) for _ in range(3))
    stages = (Stage(2, Basic, (1, 1, 1)), *flat)
    return ResNet(((width, (3, 7, 7), (1, 2, 2)),), stages, width=width, **options)


def r2plus1d_18(width: int, **options) -> ResNet:
    """R(2+1)D-18 of torchvision: 31,505,325 parameters with a 400-class head."""
    return _r2plus1d((2, 2, 2, 2), width, **options)


def r2plus1d_10(width: int, **options) -> ResNet:
    """R(2+1)D with one block per stage, for CPUs; not a published structure."""
    return _r2plus1d((1, 1, 1, 1), width, **options)


def r3d_34(width: int, **options) -> ResNet:
    """R3D-34 of 3D-ResNets-PyTorch: 7x7x7 stem, max-pool 3x3x3 with stride 2, shortcuts of type B."""
    return _r3d_hara(_stages((3, 4, 6, 3), Basic), width, **options)


def r3d_50(width: int, **options) -> ResNet:
    """R3D-50 of 3D-ResNets-PyTorch: 7x7x7 stem, max-pool 3x3x3 with stride 2, shortcuts of type B."""
    return _r3d_hara(_stages((3, 4, 6, 3), Bottleneck), width, **options)


def slow_r50(width: int, **options) -> ResNet:
    """Slow R50 8x8 of PySlowFast: no stride in time, temporal kernels 1, 1, 3, 3. 32,454,096 parameters with a head."""
    stages = tuple(
        Stage(depth, Bottleneck, (1, step, step), {"kernels": ((time, 1, 1), (1, 3, 3))})
        for depth, step, time in ((3, 1, 1), (4, 2, 1), (6, 2, 3), (3, 2, 3))
    )
    stem = ((width, (1, 7, 7), (1, 2, 2)),)
    return ResNet(stem, stages, width=width, pool=(1, 3, 3), pool_strides=(1, 2, 2), **options)


def _r2plus1d(depths, width, **options):
    stem = ((45 * width // 64, (1, 7, 7), (1, 2, 2)), (width, (3, 1, 1), (1, 1, 1)))
    return ResNet(stem, _stages(depths, Basic, {"factorized": True}), width=width, **options)


def _r3d_hara(stages, width, **options):
    stem = ((width, (7, 7, 7), (1, 2, 2)),)
    return ResNet(stem, stages, width=width, pool=(3, 3, 3), pool_strides=(2, 2, 2), **options)


def _stages(depths, block, options=None):
    """Stages that halve time and space, but for the first one."""
    steps = (1, 2, 2, 2)
    return tuple(Stage(depth, block, (step, step, step), options or {}) for depth, step in zip(depths, steps, strict=True))
