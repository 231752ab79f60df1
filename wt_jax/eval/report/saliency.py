"""Saliency: how much each position of the last feature map adds to the feature of the clip.

The pooled feature f is the mean of the map x over its positions p, so its length is a sum over positions too:
|f| = mean_p <x_p, f / |f|>. With the mean feature m of many clips taken off both, which is what retrieval compares, a
position's part is <x_p - m, (f - m) / |f - m|>. The same idea as class activation maps (Zhou et al. 2016, arXiv 1512.04150),
with the direction of the feature in place of a class's weights. The choice is ours.
"""

import cv2
import jax
import numpy as np


def contributions(maps: np.ndarray, mean: np.ndarray | None) -> np.ndarray:
    """Each position's part of the length of the clip's feature, less `mean`.

    Args:
      maps: (B, t, h, w, C) last feature maps.
      mean: (C,) mean feature to take off; None: nothing is taken off.

    Returns:
      (B, t, h, w) float64; the mean over positions is the length of the (centered) feature.
    """
    maps = maps.astype(np.float64) - (0 if mean is None else mean)
    feature = maps.mean(axis=(1, 2, 3))
    length = np.linalg.norm(feature, axis=1, keepdims=True)
    return np.einsum("bthwc,bc->bthw", maps, feature / np.where(length > 0, length, 1))


def heat(parts: np.ndarray, frames: int, size: int) -> np.ndarray:
    """(B, t, h, w) contributions -> (B, frames, size, size) in [0, 1]: enlarged, nothing below 0, 1 for the top 5 %."""
    large = np.array(jax.image.resize(parts.astype(np.float32), (len(parts), frames, size, size), "linear"))
    top = np.quantile(large, 0.95, axis=(1, 2, 3), keepdims=True)
    return np.clip(large / np.where(top > 0, top, np.inf), 0, 1)


def overlay(clip: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The (T, S, S, 3) uint8 clip in gray with (T, S, S) heat in [0, 1] as color over it, uint8."""
    gray = np.repeat(clip.mean(axis=-1, keepdims=True), 3, axis=-1)
    shades = np.stack([cv2.applyColorMap((255 * frame).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1] for frame in heat])
    weight = 0.75 * heat[..., None]
    return ((1 - weight) * gray + weight * shades).round().astype(np.uint8)


def motion(clip: np.ndarray) -> np.ndarray:
    """How much each pixel of a (T, S, S, 3) uint8 clip differs from the frame before, (T, S, S) float64 in [0, 1].

    The first frame is compared with the second.
    """
    clip = clip.astype(np.float64) / 255
    steps = np.abs(np.diff(clip, axis=0)).max(axis=-1)
    return np.concatenate([steps[:1], steps]) if len(steps) else np.zeros(clip.shape[:3])


def focus(heat: np.ndarray, motion: np.ndarray) -> float | None:
    """How many times as much of the heat lies on moving pixels as if it were spread evenly; None where nothing moves."""
    spread = heat.sum() * motion.mean()
    return float((heat * motion).sum() / spread) if spread > 0 else None
