"""From what the pipeline yields to what a network reads: one function per kind of view, on whole batches.

Each clip draws from a key folded from the step's key and the video's index, so a clip looks the same wherever in the
global batch it is; the views of a video draw one after the other.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from wt_jax.augment.color import between, color_map
from wt_jax.augment.color_blur import color_blur
from wt_jax.augment.log_mel import log_mel
from wt_jax.specs import AudioView, BoxView, Choice, ClipView, FeatureView, PixelSpec, View


def _sigma_of(draws: Array, spec: PixelSpec) -> Array:
    """The blur of one clip, by two draws from [0, 1): of one sigma, or none at all."""
    blurred, width = draws
    return jnp.where(blurred < spec.blur_probability, between(width, *spec.blur_sigma), 1e-3)  # which is the identity


def _finish(clips: Array, draws: Array, spec: PixelSpec) -> Array:
    blurs, recolors = spec.blur_probability > 0, spec.jitter_probability > 0 or spec.gray_probability > 0
    if not (blurs or recolors):
        return clips.astype(jnp.float32) / 255.0
    sigma = jax.vmap(_sigma_of, in_axes=(0, None))(draws[:, 6:], spec)
    of_pixel, of_mean = jax.vmap(color_map, in_axes=(0, None))(draws[:, :6], spec)
    return color_blur(clips, sigma, of_pixel, of_mean, blur=blurs, recolor=recolors)


def _draws(key: Array, videos: Array, views: int) -> Array:
    """All that the clips of so many views draw, (B, views, 8) in [0, 1).

    At once: on a CPU each call of the generator takes as long as a large array's change of color.
    """
    return jax.vmap(lambda video: jax.random.uniform(jax.random.fold_in(key, video), (views, 8), jnp.float32))(videos)


def finish_view(clips: Array, videos: Array, key: Array, spec: PixelSpec) -> Array:
    """Finish the pixels of one view.

    Args:
      clips: (B, T, H, W, 3) uint8.
      videos: (B,) int32, indices of the videos; they choose each clip's random draw.
      key: PRNG key of the step.
      spec: what may happen to the pixels; everything is drawn once per clip.

    Returns:
      (B, T, H, W, 3) float32 in [0, 1]; an encoder normalizes by the mean and deviation that belong to it.
    """
    return _finish(clips, _draws(key, videos, 1)[:, 0], spec)


def finish_views(batch: Mapping[str, Array], views: Mapping[str, View], key: Array) -> dict[str, Array]:
    """`batch` with the array of each view finished, by draws of its own; all other arrays pass through.

    Clips become (B, T, S, S, 3) float32 in [0, 1], sound its log-mel spectrogram (B, columns, bands) float32, stored features
    float32; boxes stay as they are.
    """
    draws = _draws(key, batch["video"], len(views))
    finished = {
        name: VIEW_FINISHERS[type(view)](batch[name], draws[:, index], view) for index, (name, view) in enumerate(views.items())
    }
    return dict(batch) | finished


def _finish_clips(clips: Array, draws: Array, view: ClipView | Choice) -> Array:
    return _finish(clips, draws, view.pixels)


def _finish_audio(samples: Array, draws: Array, view: AudioView) -> Array:
    return log_mel(samples, view)


def _finish_features(features: Array, draws: Array, view: FeatureView) -> Array:
    return features.astype(jnp.float32)


def _finish_boxes(boxes: Array, draws: Array, view: BoxView) -> Array:
    return boxes


# What finishes the array of each kind of view, whose suffix is "", by draws (B, 8) in [0, 1).
VIEW_FINISHERS: Mapping[type, Callable[[Array, Array, Any], Array]] = {
    ClipView: _finish_clips,
    Choice: _finish_clips,
    AudioView: _finish_audio,
    FeatureView: _finish_features,
    BoxView: _finish_boxes,
}


def to_uint8(clips: Array) -> np.ndarray:
    """Finished clips (B, T, H, W, 3) as pictures again, uint8."""
    return np.clip(255 * np.asarray(clips) + 0.5, 0, 255).astype(np.uint8)
