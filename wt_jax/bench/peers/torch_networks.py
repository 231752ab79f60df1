"""The encoders of `wt_jax.models` and their head in PyTorch, for the comparison of whole steps (extra `bench`).

Written as PyTorch's users write them: NCDHW modules that take any memory format, PyTorch's own BatchNorm and GroupNorm,
attention by `scaled_dot_product_attention` after one matrix for query, key and value. Parts have the names that ours have, so
that `torch_variables` can fill them with our parameters: both then compute the same, with as many parameters for every width.
"""

import math
from functools import partial
from typing import Any

import torch  # pyright: ignore[reportMissingImports]  # of an extra
from torch import nn  # pyright: ignore[reportMissingImports]  # of an extra
from torch.nn import functional  # pyright: ignore[reportMissingImports]  # of an extra

from wt_jax.bench.peers.torch_vit import TUBELET, ViT
from wt_jax.config import ModelConfig, ViTConfig
from wt_jax.errors import ConfigError
from wt_jax.models import build_encoder
from wt_jax.models.resnet import ResNet
from wt_jax.models.s3d import BLOCKS, S3D
from wt_jax.models.small import SmallR2Plus1D
from wt_jax.models.vit import ViT as OurViT


class ConvNorm(nn.Module):
    """Convolution padded by kernel // 2, norm, ReLU."""

    def __init__(self, width_in, width, kernel, strides: int | tuple[int, ...] = 1, norm=nn.BatchNorm3d, relu=True):
        super().__init__()
        self.conv = nn.Conv3d(width_in, width, kernel, strides, tuple(size // 2 for size in kernel), bias=False)
        self.norm, self.relu = norm(width), relu

    def forward(self, x):
        """(B, C, T, H, W) -> (B, `width`, T', H', W')."""
        x = self.norm(self.conv(x))
        return functional.relu(x, inplace=True) if self.relu else x


class Pair(nn.Sequential):
    """A (1, k, k) and a (k, 1, 1) convolution: the unit of R(2+1)D and of S3D."""

    def __init__(self, width_in, middle, width, size=3, step=(1, 1), norm=nn.BatchNorm3d, relu=True):
        super().__init__()
        time, space = step
        self.space = ConvNorm(width_in, middle, (1, size, size), (1, space, space), norm)
        self.time = ConvNorm(middle, width, (size, 1, 1), (time, 1, 1), norm, relu)


class Basic(nn.Module):
    """Two 3x3x3 convolutions, or two factorized ones, beside the shortcut."""

    expansion = 1

    def __init__(self, width_in, width, strides, norm, factorized=False, kernel=(3, 3, 3)):
        super().__init__()
        if factorized:
            middle = 27 * width_in * width // (9 * width_in + 3 * width)
            self.conv1 = Pair(width_in, middle, width, step=strides[:2], norm=norm)
            self.conv2 = Pair(width, middle, width, norm=norm, relu=False)
        else:
            self.conv1 = ConvNorm(width_in, width, kernel, strides, norm)
            self.conv2 = ConvNorm(width, width, kernel, 1, norm, relu=False)
        self.shortcut = _shortcut(width_in, width, strides, norm)

    def forward(self, x):
        """(B, C, T, H, W) -> (B, `width`, T', H', W')."""
        y = self.conv2(self.conv1(x))
        return functional.relu(y + self.shortcut(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1x1 down, across, 1x1x1 up to four times the width, beside the shortcut."""

    expansion = 4

    def __init__(self, width_in, width, strides, norm, kernels=((1, 1, 1), (3, 3, 3))):
        super().__init__()
        self.conv1 = ConvNorm(width_in, width, kernels[0], 1, norm)
        self.conv2 = ConvNorm(width, width, kernels[1], strides, norm)
        self.conv3 = ConvNorm(width, 4 * width, (1, 1, 1), 1, norm, relu=False)
        self.shortcut = _shortcut(width_in, 4 * width, strides, norm)

    def forward(self, x):
        """(B, C, T, H, W) -> (B, 4 `width`, T', H', W')."""
        y = self.conv3(self.conv2(self.conv1(x)))
        return functional.relu(y + self.shortcut(x), inplace=True)


def _shortcut(width_in, width, strides, norm):
    if width_in == width and strides == (1, 1, 1):
        return nn.Identity()
    return ConvNorm(width_in, width, (1, 1, 1), strides, norm, relu=False)


def _resnet(ours, norm):
    parts, width_in = nn.Sequential(), 3
    for index, (features, kernel, strides) in enumerate(ours.stem):
        parts.add_module(f"stem{index + 1}", ConvNorm(width_in, features, kernel, strides, norm))
        width_in = features
    if ours.pool:
        parts.add_module("pool", nn.MaxPool3d(ours.pool, ours.pool_strides, tuple(size // 2 for size in ours.pool)))
    for number, stage in enumerate(ours.stages):
        block, width = {"Basic": Basic, "Bottleneck": Bottleneck}[stage.block.__name__], ours.width * 2**number
        for index in range(stage.depth):
            strides = stage.strides if index == 0 else (1, 1, 1)
            parts.add_module(f"stage{number + 1}_block{index + 1}", block(width_in, width, strides, norm, **stage.options))
            width_in = width * block.expansion
    return parts


def _small(ours, norm):
    parts, width_in = nn.Sequential(), 3
    for stage in range(ours.stages):
        width = ours.width * 2**stage
        parts.add_module(f"space{stage + 1}", ConvNorm(width_in, width, (1, 3, 3), (1, 2, 2), norm))
        parts.add_module(f"time{stage + 1}", ConvNorm(width, width, (3, 1, 1), 1, norm))
        width_in = width
    return parts


class Inception(nn.Module):
    """Four branches side by side."""

    def __init__(self, width_in, channels, norm):
        super().__init__()
        point, reduce1, full1, reduce2, full2, pooled = channels
        pointwise = partial(ConvNorm, kernel=(1, 1, 1), norm=norm)
        self.branch0 = pointwise(width_in, point)
        self.branch1_reduce, self.branch1 = pointwise(width_in, reduce1), Pair(reduce1, full1, full1, norm=norm)
        self.branch2_reduce, self.branch2 = pointwise(width_in, reduce2), Pair(reduce2, full2, full2, norm=norm)
        self.pool, self.branch3 = nn.MaxPool3d(3, 1, 1), pointwise(width_in, pooled)
        self.features = point + full1 + full2 + pooled

    def forward(self, x):
        """(B, C, T, H, W) -> (B, `features`, T, H, W)."""
        first, second = self.branch1(self.branch1_reduce(x)), self.branch2(self.branch2_reduce(x))
        return torch.cat([self.branch0(x), first, second, self.branch3(self.pool(x))], 1)


def _s3d(ours, norm):
    def scaled(*sizes):
        return [max(1, size * ours.width // 64) for size in sizes]

    norm, (first, width_in) = partial(norm, eps=1e-3), scaled(64, 192)
    pools = {"3b": ((1, 3, 3), (1, 2, 2), (0, 1, 1)), "4b": (3, 2, 1), "5b": (2, 2, 0)}
    parts = nn.Sequential()
    parts.add_module("stem1", Pair(3, first, first, 7, (2, 2), norm))
    parts.add_module("pool1", nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))
    parts.add_module("stem2", ConvNorm(first, first, (1, 1, 1), norm=norm))
    parts.add_module("stem3", Pair(first, width_in, width_in, norm=norm))
    for name, channels in BLOCKS.items():
        if name in pools:
            parts.add_module(f"pool{name}", nn.MaxPool3d(*pools[name], ceil_mode=name == "5b"))
        block = Inception(width_in, scaled(*channels), norm)
        parts.add_module(f"block{name}", block)
        width_in = block.features
    return parts


class Head(nn.Module):
    """The MLP of `wt_jax.models.heads`."""

    def __init__(self, width_in, hidden, out, layers, norm):
        super().__init__()
        kinds = {"batch": nn.BatchNorm1d, "group": lambda width: nn.GroupNorm(math.gcd(32, width), width)}
        self.parts = nn.ModuleDict()
        for index in range(1, layers):
            self.parts[f"dense{index}"] = nn.Linear(width_in, hidden, bias=not norm)
            if norm:
                self.parts[f"norm{index}"] = kinds[norm](hidden)
            self.parts[f"relu{index}"] = nn.ReLU(inplace=True)
            width_in = hidden
        self.parts[f"dense{layers}"] = nn.Linear(width_in, out)

    def forward(self, x):
        """(B, D) -> (B, `out`)."""
        for part in self.parts.values():
            x = part(x)
        return x


class Embedder(nn.Module):
    """Normalized clips (B, 3, T, H, W) -> embeddings (B, D) float32 of length 1, and pooled features."""

    def __init__(self, encoder, head):
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, clips):
        """Embedding and feature."""
        feature = self.encoder(clips).float().mean((2, 3, 4))
        return functional.normalize(self.head(feature).float(), dim=-1), feature


def make_embedder(model: ModelConfig, settings: Any, clip_shape: tuple[int, int, int]) -> Embedder:
    """Encoder and head of a configuration, with the sizes of our own modules, so that none is written twice.

    Raises:
      ConfigError: this file has no such encoder or norm.
    """
    norms = {"batch": nn.BatchNorm3d, "group": lambda width, eps=1e-5: nn.GroupNorm(math.gcd(32, width), width, eps)}
    if model.norm not in norms:
        raise ConfigError(f"config.model.norm {model.norm!r} has no peer in PyTorch; choose one of {', '.join(norms)}")
    match ours := build_encoder(model):
        case ResNet():
            encoder = _resnet(ours, norms[model.norm])
        case S3D(gate=False, whole_windows=False):
            encoder = _s3d(ours, norms[model.norm])
        case SmallR2Plus1D():
            encoder = _small(ours, norms[model.norm])
        case OurViT(fc_norm=False) if model.vit == ViTConfig() and not any(
            size % step for size, step in zip(clip_shape, TUBELET, strict=True)
        ):
            tokens = math.prod(clip_shape) // math.prod(TUBELET)
            encoder = ViT(ours.feature_dim, ours.heads, ours.depth, tokens)
        case _:
            raise ConfigError(f"config.model.name {model.name!r} has no peer in PyTorch for clips of {clip_shape}")
    head = settings.head
    return Embedder(encoder, Head(ours.feature_dim, head.hidden or ours.feature_dim, head.dim, head.layers, head.norm))
