"""What a view of a video is, and its spatial part: crop, resize and flip, drawn once per clip.

A method names its views and describes each with a `ViewSpec`. The frames are chosen in `sampling`, cropped and resized
here or, where they come as planes, in `planes`, and the costly pixel part (`PixelSpec`) is finished on the device by
`wt_jax.augment`.
The random crop is the "random resized crop" of Szegedy et al., "Going Deeper with Convolutions" (2015).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np

from wt_jax.data.optical_flow import KINDS, LEAST_SIZE, encode_motion
from wt_jax.data.video.yuv420 import Crop, halved, halvings_of

# The pipeline works on several clips at once; OpenCV's own threads would only fight with it over the same cores.
cv2.setNumThreads(0)

UNITS = ("frames", "seconds")
CROPS = ("random", "center", "resize")
CONTENTS = ("rgb", *KINDS)
CROP_COUNTS = (1, 3)
_CROP_TRIES = 10


def _check(condition: bool, name: str, rule: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{name} {rule}, got {value!r}")


def _check_probability(name: str, value: float) -> None:
    _check(0 <= value <= 1, name, "must lie in [0, 1]", value)


def _check_range(name: str, value: tuple[float, float]) -> None:
    _check(len(value) == 2 and 0 < value[0] <= value[1], name, "must be (low, high) with 0 < low <= high", value)


@dataclass(frozen=True)
class PixelSpec:
    """Color and blur of a view, drawn once per clip on the device.

    Probabilities are in [0, 1]. `brightness`, `contrast` and `saturation` are the largest relative change (0.4: a
    factor in [0.6, 1.4]), `hue` the largest turn of the color wheel in [0, 0.5], `blur_sigma` a range in pixels.
    """

    jitter_probability: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    gray_probability: float = 0.0
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self):
        for name in ("jitter_probability", "gray_probability", "blur_probability"):
            _check_probability(name, getattr(self, name))
        for name in ("brightness", "contrast", "saturation"):
            _check(getattr(self, name) >= 0, name, "must be 0 or more", getattr(self, name))
        _check(0 <= self.hue <= 0.5, "hue", "must lie in [0, 0.5]", self.hue)
        _check_range("blur_sigma", self.blur_sigma)


@dataclass(frozen=True)
class ViewSpec:
    """One view of a video: which frames, at which size, cropped how.

    Attributes:
      window: views with the same window name start at the same frame of the video.
      num_frames: frames in the clip.
      stride: distance between two samples, in frames or in seconds (see `unit`); fractions are welcome.
      unit: "frames" or "seconds".
      gap: least distance between the starts of two windows of a video, in `unit`s. Windows that overlap share what they
        show, which is the cheapest thing for two views to agree on (MaCLR takes 0.5 to 10 s).
      size: height and width of the clip in pixels.
      crop: "random": a random box of the frame; "center": the largest centered square; "resize": the whole frame,
        squeezed to a square.
      area: least and largest share of the frame area in a random crop.
      aspect: least and largest width / height of a random crop.
      flip_probability: chance of a mirror image.
      content: "rgb", or the clip's motion as a picture, "flow" or "flow_edges": see `wt_jax.data.optical_flow`.
      pixels: the part that is finished on the device; nothing where the content is motion.
    """

    window: str = "a"
    num_frames: int = 16
    stride: float | int | Fraction = 1
    unit: str = "frames"
    gap: float | int | Fraction = 0
    size: int = 112
    crop: str = "random"
    area: tuple[float, float] = (0.2, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.0
    content: str = "rgb"
    pixels: PixelSpec = PixelSpec()

    def __post_init__(self):
        _check(bool(self.window), "window", "must not be empty", self.window)
        _check(self.num_frames >= 1, "num_frames", "must be 1 or more", self.num_frames)
        _check(0 < self.stride < math.inf, "stride", "must be above 0 and finite", self.stride)
        _check(self.unit in UNITS, "unit", f"must be one of {UNITS}", self.unit)
        _check(0 <= self.gap < math.inf, "gap", "must be 0 or more and finite", self.gap)
        _check(self.size >= 1, "size", "must be 1 or more", self.size)
        _check(self.crop in CROPS, "crop", f"must be one of {CROPS}", self.crop)
        _check_range("area", self.area)
        _check(self.area[1] <= 1, "area", "must not pass 1, the whole frame", self.area)
        _check_range("aspect", self.aspect)
        _check_probability("flip_probability", self.flip_probability)
        _check(self.content in CONTENTS, "content", f"must be one of {CONTENTS}", self.content)
        if self.content != "rgb":
            _check(self.size >= LEAST_SIZE, "size", f"must be {LEAST_SIZE} or more for optical flow", self.size)
            _check(self.pixels == PixelSpec(), "pixels", "must do nothing to optical flow", self.pixels)


def draw_crop(height: int, width: int, view: ViewSpec, rng: np.random.Generator | None, half: int = 1) -> Crop:
    """Draws the crop and the flip of one clip of frames of this size.

    None as rng is for a view without randomness. `half` is where the square of crop "center" lies, in half ways along the
    longer side: 0, 1 (the center) or 2.
    """
    box = _box(height, width, view, rng, half)
    return Crop(*box, view.flip_probability > 0 and rng.random() < view.flip_probability)


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


def apply_view(frames: np.ndarray, view: ViewSpec, rng: np.random.Generator | None, half: int = 1) -> np.ndarray:
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
    cut = draw_crop(*frames.shape[1:3], view, rng, half)
    clip = np.empty((len(frames), view.size, view.size, 3), np.uint8)
    for target, frame in zip(clip, frames, strict=True):
        crop_frame(frame, cut, target)
    return clip if view.content == "rgb" else encode_motion(clip, view.content)


def check_crops(view: ViewSpec, count: int) -> None:
    """Raises ValueError where a view cannot have that many test crops per clip.

    Three are squares spread along the longer side, left or top, middle, right or bottom. A square is as large as the shorter
    side, which shows what scaling that side to `view.size` and then cutting shows; three of them cover a frame up to three
    times as long as it is short: Wang et al., "Non-local Neural Networks" (2018).
    """
    _check(count in CROP_COUNTS, "crops", f"must be one of {CROP_COUNTS}", count)
    _check(count == 1 or view.crop == "center", "crop", "must be 'center' for 3 test crops", view.crop)


@functools.cache
def _logarithms(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(np.log(values).tolist())


def _box(height: int, width: int, view: ViewSpec, rng: np.random.Generator | None, half: int) -> tuple[int, int, int, int]:
    """The crop as (top, left, rows, columns) in pixels of the source frame."""
    if view.crop == "resize":
        return 0, 0, height, width
    if view.crop == "random":
        low, high = _logarithms(view.aspect)
        for _ in range(_CROP_TRIES):
            # As `rng.uniform` draws, which takes some times as long.
            area = height * width * (view.area[0] + (view.area[1] - view.area[0]) * rng.random())
            aspect = math.exp(low + (high - low) * rng.random())
            rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < rows <= height and 0 < columns <= width:
                return int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1)), rows, columns
    # The largest square, centered but for test crops: also what is left when no random box fits, as in a very wide frame.
    side = min(height, width)
    return (height - side) * half // 2, (width - side) * half // 2, side, side
