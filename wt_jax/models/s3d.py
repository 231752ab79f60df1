"""S3D: Inception with convolutions separated into space and time, and S3D-G, which adds self-gating.

Structure of https://arxiv.org/abs/1712.04851 as in torchvision's `s3d`: 8,320,048 parameters with a 400-class head (the
paper reports 8.77 M). S3D-G has a gate on each branch of each Inception block, as in MIL-NCE and CoCLR: 9,508,000 with the
head (the paper reports 11.56 M, without naming all places of its gates). BatchNorm's epsilon is 1e-3 as published.
CoCLR's code has PyTorch's 1e-5, and a last max-pool that leaves out what does not fill its window: `s3d_coclr`.
`width` scales all channels; 64 is the published value.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from wt_jax.config import IMAGENET_MEAN, IMAGENET_STD, RGB
from wt_jax.models.layers import ConvNorm, Size3, global_pool, normalize_input
from wt_jax.ops.max_pool import max_pool

# Channels of the published blocks: 1x1; 1x1 -> 3x3x3; 1x1 -> 3x3x3; max-pool -> 1x1.
BLOCKS = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


class Separable(nn.Module):
    """(1, k, k) and then (k, 1, 1) convolution, each with norm and ReLU; the stride is the same along all axes."""

    features: int
    kernel: int
    stride: int
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, T, H, W, Cin) -> (B, T', H', W', features)."""
        k, s = self.kernel, self.stride
        x = ConvNorm(self.features, (1, k, k), (1, s, s), self.norm, name="space")(x, train)
        return ConvNorm(self.features, (k, 1, 1), (s, 1, 1), self.norm, name="time")(x, train)


class SelfGate(nn.Module):
    """Weights each channel by the sigmoid of a linear map of the clip's mean feature."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, T, H, W, C) -> the same shape and dtype."""
        gate = nn.sigmoid(nn.Dense(x.shape[-1], name="dense")(global_pool(x)))
        return x * gate[:, None, None, None].astype(x.dtype)


class Inception(nn.Module):
    """Four branches side by side, from `channels` as in `BLOCKS`."""

    channels: tuple[int, ...]
    norm: Callable[..., nn.Module]
    gate: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, T, H, W, Cin) -> (B, T', H', W', features)."""
        point, reduce1, full1, reduce2, full2, pooled = self.channels
        pointwise = partial(ConvNorm, kernel_size=(1, 1, 1), strides=(1, 1, 1), norm=self.norm)
        branch1 = pointwise(reduce1, name="branch1_reduce")(x, train)
        branch2 = pointwise(reduce2, name="branch2_reduce")(x, train)
        branches = [
            pointwise(point, name="branch0")(x, train),
            Separable(full1, 3, 1, self.norm, name="branch1")(branch1, train),
            Separable(full2, 3, 1, self.norm, name="branch2")(branch2, train),
            pointwise(pooled, name="branch3")(max_pool(x, (3, 3, 3), (1, 1, 1)), train),
        ]
        if self.gate:
            branches = [SelfGate(name=f"gate{index}")(branch) for index, branch in enumerate(branches)]
        return jnp.concatenate(branches, axis=-1)


class S3D(nn.Module):
    """Stem, nine Inception blocks, average over time and space.

    `remat` recomputes each Inception block in the backward pass instead of keeping its activations. The last max-pool takes
    2 x 2 x 2 windows; at the edge of an odd size there is a partial window, as in TensorFlow, or none with `whole_windows`, as
    in PyTorch.
    """

    unit = "clip"
    norm: Callable[..., nn.Module]
    width: int = 64
    gate: bool = False
    whole_windows: bool = False
    remat: bool = False
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD

    def _scaled(self, channels: int) -> int:
        return max(1, channels * self.width // 64)

    @property
    def feature_dim(self) -> int:
        """Number of channels of the features."""
        point, _, full1, _, full2, pooled = BLOCKS["5c"]
        return sum(map(self._scaled, (point, full1, full2, pooled)))

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the parts, from input to output."""
        return ("stem1", "stem2", "stem3", *(f"block{name}" for name in BLOCKS))

    @nn.compact
    def __call__(self, clips: jax.Array, train: bool, pool: bool = True) -> jax.Array:
        """(B, T, H, W, 3) in [0, 1] -> features (B, `feature_dim`) float32, or without `pool` the last map (B, t, h, w, C)."""
        # Windows and strides of the max-pools, before the layer that they are named for.
        pools: dict[str, tuple[Size3, Size3]] = {
            "3b": ((1, 3, 3), (1, 2, 2)),
            "4b": ((3, 3, 3), (2, 2, 2)),
            "5b": ((2, 2, 2), (2, 2, 2)),
        }
        block = nn.remat(Inception, static_argnums=(2,)) if self.remat else Inception
        x = Separable(self._scaled(64), 7, 2, self.norm, name="stem1")(normalize_input(clips, self.mean, self.std), train)
        x = max_pool(x, (1, 3, 3), (1, 2, 2))
        x = ConvNorm(self._scaled(64), (1, 1, 1), (1, 1, 1), self.norm, name="stem2")(x, train)
        x = Separable(self._scaled(192), 3, 1, self.norm, name="stem3")(x, train)
        for name, channels in BLOCKS.items():
            if name in pools:
                if name == "5b" and self.whole_windows:
                    t, h, w = (max(1, size // 2 * 2) for size in x.shape[1:4])
                    x = x[:, :t, :h, :w]
                x = max_pool(x, *pools[name])
            x = block(tuple(map(self._scaled, channels)), self.norm, self.gate, name=f"block{name}")(x, train)
        return global_pool(x) if pool else x


def s3d(norm: Callable[..., nn.Module], **options) -> S3D:
    """S3D without gates."""
    return S3D(partial(norm, epsilon=1e-3), **options)


def s3d_coclr(**options) -> S3D:
    """S3D as in CoCLR's code, for its weights; see the top of this file."""
    return S3D(whole_windows=True, **options)


def s3dg(norm: Callable[..., nn.Module], **options) -> S3D:
    """S3D with a gate on each Inception branch."""
    return S3D(partial(norm, epsilon=1e-3), gate=True, **options)
