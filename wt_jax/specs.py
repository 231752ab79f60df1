"""What a view of a video is, as pure data: no array library, no decoder, nothing of a device.

A method names its views and describes each with one of these; the pipeline reads them, the device finishes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

UNITS = ("frames", "seconds")
CROPS = ("random", "center", "resize")
MOTIONS = ("flow", "flow_edges")
LEAST_FLOW_SIZE = 12  # pixels; DIS gives up below
CONTENTS = ("rgb", *MOTIONS)


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
class ClipView:
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
            _check(self.size >= LEAST_FLOW_SIZE, "size", f"must be {LEAST_FLOW_SIZE} or more for optical flow", self.size)
            _check(self.pixels == PixelSpec(), "pixels", "must do nothing to optical flow", self.pixels)
