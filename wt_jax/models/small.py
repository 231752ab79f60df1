"""A small encoder for CPUs and small frames: three factorized (2+1)D convolutions in a row, no shortcuts.

Each is the pair of R(2+1)D (Tran et al. 2018, https://arxiv.org/abs/1711.11248), first space, then time. Not a published
structure.
"""

from collections.abc import Callable

import flax.linen as nn
import jax

from wt_jax.config import IMAGENET_MEAN, IMAGENET_STD, RGB
from wt_jax.models.layers import ConvNorm, global_pool, normalize_input


class SmallR2Plus1D(nn.Module):
    """Stages of a (1, 3, 3) convolution with stride 2 in space and a (3, 1, 1) convolution; the width doubles with each."""

    unit = "clip"
    norm: Callable[..., nn.Module]
    width: int = 64
    stages: int = 3
    remat: bool = False
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD

    @property
    def feature_dim(self) -> int:
        """Number of channels of the features."""
        return self.width * 2 ** (self.stages - 1)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the parts, from input to output."""
        return tuple(f"{part}{stage + 1}" for stage in range(self.stages) for part in ("space", "time"))

    @nn.compact
    def __call__(self, clips: jax.Array, train: bool, pool: bool = True) -> jax.Array:
        """(B, T, H, W, 3) in [0, 1] -> features (B, `feature_dim`) float32, or without `pool` the last map (B, T, h, w, C)."""
        conv = nn.remat(ConvNorm, static_argnums=(2,)) if self.remat else ConvNorm
        x = normalize_input(clips, self.mean, self.std)
        for stage in range(self.stages):
            features = self.width * 2**stage
            x = conv(features, (1, 3, 3), (1, 2, 2), self.norm, name=f"space{stage + 1}")(x, train)
            x = conv(features, (3, 1, 1), (1, 1, 1), self.norm, name=f"time{stage + 1}")(x, train)
        return global_pool(x) if pool else x
