"""What masked models predict: pixels of tubelets (VideoMAE, MAE-ST), gradients (MaskFeat), features (V-JEPA); and the losses.

B: clips, N: tokens of the grid (t, h, w), numbered row-major, time first.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

Size3 = tuple[int, int, int]


def pixel_targets(clips: Array, tubelet: Size3, *, normalize: str = "color", first: bool = False) -> Array:
    """The pixels of each tubelet less their mean, divided by their deviation.

    VideoMAE (Tong et al. 2022, arXiv 2203.12602, and its code) normalizes each "color" by itself, with the unbiased deviation
    plus 1e-6; MAE-ST (Feichtenhofer et al. 2022, arXiv 2205.09113, and its code) all values of a "token", with the root of
    the unbiased variance plus 1e-6.

    Args:
      clips: (B, T, H, W, 3) float in [0, 1], of whole tubelets.
      tubelet: frames, height and width.
      normalize: "color", "token", or "" for the pixels as they are.
      first: only the first frame of each tubelet.

    Returns:
      (B, N, frames * height * width * 3) float32; color fastest.
    """
    t, h, w = tubelet
    x = rearrange(clips, "b (t i) (h j) (w k) c -> b (t h w) i j k c", i=t, j=h, k=w).astype(jnp.float32)
    x = rearrange(x[:, :, :1] if first else x, "b n i j k c -> b n (i j k) c")
    if normalize == "color":
        x = (x - jnp.mean(x, 2, keepdims=True)) / (jnp.std(x, 2, keepdims=True, ddof=1) + 1e-6)
    if normalize == "token":
        mean, variance = jnp.mean(x, (2, 3), keepdims=True), jnp.var(x, (2, 3), keepdims=True, ddof=1)
        x = (x - mean) * jax.lax.rsqrt(variance + 1e-6)
    return rearrange(x, "b n p c -> b n (p c)")


def hog_targets(clips: Array, tubelet: Size3, *, cell: int = 8, bins: int = 9) -> Array:
    """Histograms of oriented gradients of the first frame of each tubelet (MaskFeat: Wei et al. 2022, arXiv 2112.09133).

    Sobel gradients of each color with a reflected edge; the magnitudes of a cell's pixels are summed by the direction of their
    gradient, without its sign, and each histogram is scaled to length 1. As in the public code.

    Args:
      clips: (B, T, H, W, 3) float in [0, 1], of whole tubelets, whose sides are whole cells.
      tubelet: frames, height and width.
      cell: side of a cell in pixels.
      bins: of a histogram.

    Returns:
      (B, N, cells * 3 * bins) float32: 108 of 2 x 2 cells. By row and column of cells, color, bin.
    """
    frames = clips[:, :: tubelet[0]].astype(jnp.float32)
    x = jnp.pad(frames, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")

    def smooth(x: Array, axis: int) -> Array:
        low, middle, high = (jax.lax.slice_in_dim(x, i, x.shape[axis] - 2 + i, axis=axis) for i in range(3))
        return low + 2 * middle + high

    def slope(x: Array, axis: int) -> Array:
        return jax.lax.slice_in_dim(x, 0, x.shape[axis] - 2, axis=axis) - jax.lax.slice_in_dim(x, 2, x.shape[axis], axis=axis)

    along, down = slope(smooth(x, 2), 3), slope(smooth(x, 3), 2)
    angle = jnp.arctan2(along, down) / jnp.pi * bins
    number = jnp.floor(angle).astype(jnp.int32) % bins
    length = jnp.sqrt(jnp.square(along) + jnp.square(down))
    votes = jax.nn.one_hot(number, bins) * length[..., None]
    cells = rearrange(votes, "b t (h i) (w j) c n -> b t h i w j c n", i=cell, j=cell).sum(axis=(3, 5))
    norm = jnp.linalg.norm(cells, axis=-1, keepdims=True)
    cells = cells / jnp.maximum(norm, 1e-12)
    rows, columns = tubelet[1] // cell, tubelet[2] // cell
    return rearrange(cells, "b t (h i) (w j) c n -> b (t h w) (i j c n)", i=rows, j=columns)


def reconstruction_loss(predicted: Array, target: Array) -> Array:
    """Mean squared error over tokens and channels: two (B, M, D) -> (B,) float32. Gradient flows into `predicted` alone."""
    return jnp.mean(jnp.square(predicted.astype(jnp.float32) - jax.lax.stop_gradient(target)), axis=(1, 2))


def normalize_tokens(tokens: Array, epsilon: float = 1e-5) -> Array:
    """LayerNorm over the channels without gain and bias: (B, N, C) -> the same, float32."""
    x = tokens.astype(jnp.float32)
    mean, variance = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + epsilon)


def latent_loss(predicted: Array, target: Array, weights: Array) -> Array:
    """Mean absolute error over targets of weight 1 and channels (V-JEPA: Bardes et al. 2024, arXiv 2404.08471).

    Args:
      predicted: (B, P, C) float; gradient flows into it alone.
      target: (B, P, C) float, the teacher's tokens by `normalize_tokens`.
      weights: (B, P) float, 1 or 0.

    Returns:
      (B,) float32; 0 where all weights are 0.
    """
    error = jnp.mean(jnp.abs(predicted.astype(jnp.float32) - jax.lax.stop_gradient(target)), axis=-1)
    return jnp.sum(error * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1.0)
