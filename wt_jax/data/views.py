"""The spatial part of a view: crop, resize and flip, drawn once per clip.

The frames are chosen in `sampling`, cropped and resized here or, where they come as planes, in `video.yuv420`, and the
costly pixel part (`wt_jax.specs.PixelSpec`) is finished on the device by `wt_jax.augment`.
The random crop is the "random resized crop" of Szegedy et al., "Going Deeper with Convolutions" (2015).
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

from wt_jax.data.optical_flow import encode_motion
from wt_jax.data.video.yuv420 import Crop, halved, halvings_of
from wt_jax.specs import ClipView

# The pipeline works on several clips at once; OpenCV's own threads would only fight with it over the same cores.
cv2.setNumThreads(0)

_CROP_TRIES = 10
CROP_COUNTS = (1, 3)


def draw_crop(height: int, width: int, view: ClipView, rng: np.random.Generator | None, half: int = 1) -> Crop:
    """Draws the crop and the flip of one clip of frames of this size.

    None as rng is for a view without randomness. `half` is where the square of crop "center" lies, in half ways along the
    longer side: 0, 1 (the center) or 2.
    """
    box = _box(height, width, view, rng, half)
    flip = view.flip_probability > 0 and _needed(rng).random() < view.flip_probability
    return Crop(*box, flip)


def crop_geometry(cut: Crop, height: int, width: int) -> tuple[float, float, float, float, float]:
    """Flip 0 or 1, and top, left, bottom and right of a crop relative to a frame of this size: see `wt_jax.specs.GEOMETRY`."""
    bottom, right = cut.top + cut.rows, cut.left + cut.columns
    return float(cut.flip), cut.top / height, cut.left / width, bottom / height, right / width


def crop_frame(frame: np.ndarray, cut: Crop, out: np.ndarray) -> None:
    """Crops, resizes and mirrors one frame.

    A crop is halved, each pixel the mean of four, while both its sides are at least twice the target's: that keeps fine
    detail from turning into false patterns (an odd last row or column is left out). The rest, less than a factor of two on
    one side, is interpolated linearly.

    Args:
      frame: uint8 [H, W, 3].
      cut: the crop, within the frame.
      out: uint8 [size, size, 3], contiguous; written to.
    """
    size = len(out)
    box = frame[cut.top : cut.top + cut.rows, cut.left : cut.left + cut.columns]
    box = halved(box, halvings_of(cut.rows, cut.columns, size))
    cv2.resize(box, (size, size), out, interpolation=cv2.INTER_LINEAR)
    if cut.flip:
        cv2.flip(out, 1, out)


def apply_view(frames: np.ndarray, view: ClipView, rng: np.random.Generator | None, half: int = 1) -> np.ndarray:
    """Crops, resizes and flips a clip; one draw for the whole clip, so that nothing jumps between its frames.

    The pipeline does so without keeping all frames, and cuts most videos from their planes, within a level or two of this:
    `wt_jax.data.pipeline.crop_clips`, `wt_jax.data.video.yuv420.crop_planes`.

    Args:
      frames: uint8 [T, H, W, 3], T of any length.
      view: crop, size and flip to use.
      rng: where the draws come from; None is allowed for a view without randomness.
      half: as in `draw_crop`.

    Returns:
      uint8 [T, size, size, 3].
    """
    height, width = frames.shape[1:3]
    cut = draw_crop(height, width, view, rng, half)
    clip = np.empty((len(frames), view.size, view.size, 3), np.uint8)
    for target, frame in zip(clip, frames, strict=True):
        crop_frame(frame, cut, target)
    return clip if view.content == "rgb" else encode_motion(clip, view.content)


def check_crops(crop: str, count: int) -> None:
    """Raises ValueError where a view with this kind of crop cannot have that many test crops per clip.

    Three are squares spread along the longer side, left or top, middle, right or bottom. A square is as large as the shorter
    side, which shows what scaling that side to `view.size` and then cutting shows; three of them cover a frame up to three
    times as long as it is short: Wang et al., "Non-local Neural Networks" (2018).
    """
    if count not in CROP_COUNTS:
        raise ValueError(f"crops must be one of {CROP_COUNTS}, got {count!r}")
    if count > 1 and crop != "center":
        raise ValueError(f"crop must be 'center' for 3 test crops, got {crop!r}")


@functools.cache
def _logarithms(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(np.log(values).tolist())


def _needed(rng: np.random.Generator | None) -> np.random.Generator:
    assert rng is not None, "a view that draws needs a generator"
    return rng


def _box(height: int, width: int, view: ClipView, rng: np.random.Generator | None, half: int) -> tuple[int, int, int, int]:
    """The crop as (top, left, rows, columns) in pixels of the source frame."""
    if view.crop == "resize":
        return 0, 0, height, width
    if view.crop == "random":
        rng, (low, high) = _needed(rng), _logarithms(view.aspect)
        for _ in range(_CROP_TRIES):
            # As `rng.uniform` draws, which takes some times as long.
            area = height * width * (view.area[0] + (view.area[1] - view.area[0]) * rng.random())
            aspect = math.exp(low + (high - low) * rng.random())
            rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < rows <= height and 0 < columns <= width:
                return int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1)), rows, columns
        # No box fits, as in a very wide frame: the largest centered one within the aspects, as torchvision's RandomResizedCrop.
        low, high = view.aspect
        rows, columns = min(height, round(width / low)), min(width, round(height * high))
        return (height - rows) // 2, (width - columns) // 2, rows, columns
    # The largest square, centered but for test crops.
    side = min(height, width)
    return (height - side) * half // 2, (width - side) * half // 2, side, side
