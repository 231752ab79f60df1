"""Classes of boxes: the feature map of a clip, averaged over time, pooled within each box, and a linear classifier.

The head is that of PySlowFast's models on AVA (slowfast/models/head_helper.py, `ResNetRoIHead`): mean over time, RoIAlign (He
et al., "Mask R-CNN", https://arxiv.org/abs/1703.06870, in the aligned form of detectron2), maximum over the bins, dropout,
linear.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from wt_jax.models.classifier import LinearHead

SAMPLES = 2  # points per bin and axis; the source has as many as the box has pixels of the map, which no static shape can


def roi_align(maps: Array, boxes: Array, bins: int, samples: int = SAMPLES) -> Array:
    """Bilinear samples of a map on a grid within each box, averaged over each bin.

    As torchvision's `roi_align(aligned=True, sampling_ratio=samples)`. Points form a grid, so that the weights of rows and
    columns are products: two matrix products, no gathers.

    Args:
      maps: (B, H, W, C) float.
      boxes: (B, M, 4) float32: left, top, right, bottom, relative to the map.
      bins: rows and columns of the result.
      samples: points per bin and axis.

    Returns:
      (B, M, bins, bins, C) in the dtype of `maps`; 0 where a point is more than a pixel outside the map.
    """
    height, width = maps.shape[1:3]
    columns = _weights(boxes[..., 0], boxes[..., 2], width, bins, samples).astype(maps.dtype)
    rows = _weights(boxes[..., 1], boxes[..., 3], height, bins, samples).astype(maps.dtype)
    return jnp.einsum("bmph,bmqw,bhwc->bmpqc", rows, columns, maps)


def _weights(low: Array, high: Array, size: int, bins: int, samples: int) -> Array:
    """Weights (B, M, bins, size) of a map's pixels along one axis, for boxes from `low` to `high` (B, M)."""
    points = (jnp.arange(bins * samples, dtype=jnp.float32)[None, None] + 0.5) / (bins * samples)
    at = (low[..., None] + (high - low)[..., None] * points) * size - 0.5  # a pixel's value is that of its center
    inside = (at >= -1) & (at <= size)
    pixels = jnp.arange(size, dtype=jnp.float32)[None, None, None]
    near = jnp.maximum(1 - jnp.abs(jnp.clip(at, 0, size - 1)[..., None] - pixels), 0)
    near = jnp.where(inside[..., None], near, 0)
    return jnp.mean(near.reshape(*low.shape, bins, samples, size), axis=-2)


class Detector(nn.Module):
    """Clips (B, T, S, S, 3) and boxes (B, M, 4) -> logits (B, M, C) float32; a `frozen` encoder runs as in evaluation."""

    encoder: nn.Module
    head: LinearHead
    bins: int = 7
    frozen: bool = False

    def __call__(self, clips: Array, boxes: Array, train: bool, keep: Array | None = None) -> Array:
        """Logits; `train` needs `mutable=["batch_stats"]`, `keep` (B, M, F) are the factors of a dropout on the feature."""
        maps = self.encoder(clips, train and not self.frozen, pool=False)
        maps = jnp.mean(jax.lax.stop_gradient(maps) if self.frozen else maps, axis=1, dtype=jnp.float32)
        return self.head(jnp.max(roi_align(maps, boxes, self.bins), axis=(2, 3)), train, keep)
