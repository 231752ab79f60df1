"""What a view of a video is, as pure data: no array library, no decoder, nothing of a device.

A method names its views and describes each with one of these. The pipeline reads them (`wt_jax.data.pipeline.VIEW_READERS`),
the device finishes them (`wt_jax.augment.finish.VIEW_FINISHERS`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

# Of the arrays of one video, without the batch axis: suffix -> (shape, name of the dtype).
Arrays = Mapping[str, tuple[tuple[int, ...], str]]

GEOMETRY = ("flip", "top", "left", "bottom", "right", "start", "end")
UNITS = ("frames", "seconds", "video", "segments")
CROPS = ("random", "center", "resize")
MOTIONS = ("flow", "flow_edges")
LEAST_FLOW_SIZE = 12  # pixels; DIS fails below
CONTENTS = ("rgb", *MOTIONS)


def _check(condition: bool, name: str, rule: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{name} {rule}, got {value!r}")


def _check_probability(name: str, value: float) -> None:
    _check(0 <= value <= 1, name, "must lie in [0, 1]", value)


def _check_range(name: str, value: tuple[float, float]) -> None:
    _check(len(value) == 2 and 0 < value[0] <= value[1], name, "must be (low, high) with 0 < low <= high", value)


class View(Protocol):
    """One kind of data that a video yields: frozen, hashable, compared by value.

    Views of the same window start at the same moment of the video, whatever their kind.
    """

    @property
    def window(self) -> str:
        """Name of the window."""
        ...

    @property
    def arrays(self) -> Arrays:
        """What the pipeline yields for one video; the batch holds suffix "" as `name`, any other as `name.suffix`."""
        ...


def batch_arrays(views: Mapping[str, View]) -> dict[str, tuple[tuple[int, ...], str]]:
    """What the pipeline yields for one video, by the names of the batch: (shape, name of the dtype)."""
    return {
        f"{name}.{suffix}" if suffix else name: array for name, view in views.items() for suffix, array in view.arrays.items()
    }


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
    """A clip of a video: which frames, at which size, cropped how. uint8 (num_frames, size, size, 3).

    Attributes:
      window: views with the same window name start at the same frame of the video.
      num_frames: frames in the clip.
      stride: distance between two samples, in frames or in seconds; with unit "video" the fraction of the video's frames that
        the clip covers, in (0, 1]: 1 covers all of them, from the first to the last. Fractions are allowed.
      unit: "frames", "seconds", "video" or "segments": the whole video in `num_frames` equal parts and one frame of each, drawn
        in training and the middle one in a test (Wang et al. 2016, arXiv 1608.00859; PySlowFast's data set of
        Something-Something). All windows of such a video are the whole of it; `stride` and `ramp` are 1, both gaps 0.
      gap: least distance between the starts of two windows of a video, in `unit`s. Windows that overlap share what they
        show, which is the cheapest thing for two views to agree on.
      most_gap: largest such distance; 0: any. MaCLR takes 0.5 to 10 s.
      size: height and width of the clip in pixels.
      crop: "random": a random box of the frame; "center": the largest centered square; "resize": the whole frame,
        squeezed to a square.
      area: least and largest fraction of the frame area in a random crop.
      aspect: least and largest width / height of a random crop.
      flip_probability: chance of a mirror image.
      content: "rgb", or the clip's motion as a picture, "flow" or "flow_edges": see `wt_jax.data.optical_flow`.
      pixels: the part that is finished on the device; nothing where the content is motion.
      ramp: last step / first step between samples, which grow or shrink linearly; 1: uniform. The first and the last sample
        are where they are without it.
      reverse: the frames are shown in the reverse order.
      loop: whether a video that is too short for the clip is looped; otherwise it is a bad video. In a `Choice` a video must be
        long enough for every view that does not loop: what is shown would name the view if the long ones were missing.
      record: adds "geometry" float32 (7,), how the clip was cut, in the order of `GEOMETRY`: flip 0 or 1; the edges of the
        crop, relative to the height and width of the frame; when the earliest of its frames appears and the latest ends,
        relative to the duration of the video.
    """

    window: str = "a"
    num_frames: int = 16
    stride: float | int | Fraction = 1
    unit: str = "frames"
    gap: float | int | Fraction = 0
    most_gap: float | int | Fraction = 0
    size: int = 112
    crop: str = "random"
    area: tuple[float, float] = (0.2, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.0
    content: str = "rgb"
    pixels: PixelSpec = PixelSpec()
    ramp: float | int | Fraction = 1
    reverse: bool = False
    loop: bool = True
    record: bool = False

    def __post_init__(self):
        _check(bool(self.window), "window", "must not be empty", self.window)
        _check(self.num_frames >= 1, "num_frames", "must be 1 or more", self.num_frames)
        _check(0 < self.stride < math.inf, "stride", "must be above 0 and finite", self.stride)
        _check(self.unit in UNITS, "unit", f"must be one of {UNITS}", self.unit)
        _check(self.unit != "video" or self.stride <= 1, "stride", "must not pass 1, the whole video", self.stride)
        if self.unit == "segments":
            _check(self.stride == 1, "stride", "must be 1 with unit 'segments'", self.stride)
            _check(self.ramp == 1, "ramp", "must be 1 with unit 'segments'", self.ramp)
            for name in ("gap", "most_gap"):
                _check(getattr(self, name) == 0, name, "must be 0 with unit 'segments'", getattr(self, name))
        _check(0 < self.ramp < math.inf, "ramp", "must be above 0 and finite", self.ramp)
        _check(0 <= self.gap < math.inf, "gap", "must be 0 or more and finite", self.gap)
        in_order = self.most_gap == 0 or self.gap <= self.most_gap < math.inf
        _check(in_order, "most_gap", "must be 0 or at least gap, and finite", self.most_gap)
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

    @property
    def arrays(self) -> Arrays:
        """The clip, and its geometry where that is recorded."""
        arrays = {"": ((self.num_frames, self.size, self.size, 3), "uint8")}
        return arrays | ({"geometry": ((len(GEOMETRY),), "float32")} if self.record else {})


@dataclass(frozen=True)
class Choice:
    """One of several clip views, drawn per video with equal probabilities: their arrays, and "choice" int32 ().

    Where several properties vary, `views` is their product in row-major order, and `choice` is taken apart by position. The
    variant is drawn before its window, so that a long variant does not narrow the starts of a short one.

    Attributes:
      views: at least one, equal in window, arrays and pixels.
    """

    views: tuple[ClipView, ...]

    def __post_init__(self):
        _check(len(self.views) > 0, "views", "must name at least one view", self.views)
        for name in ("window", "arrays", "pixels"):
            values = [getattr(view, name) for view in self.views]
            _check(all(value == values[0] for value in values), "views", f"must have equal {name}", values)

    @property
    def window(self) -> str:
        """The window of its views."""
        return self.views[0].window

    @property
    def pixels(self) -> PixelSpec:
        """What is finished on the device, alike for all."""
        return self.views[0].pixels

    @property
    def arrays(self) -> Arrays:
        """Those of one view, and the index of the view that was drawn."""
        return {**self.views[0].arrays, "choice": ((), "int32")}


@dataclass(frozen=True)
class AudioView:
    """The sound of a video from the start of a window: int16 (rate * seconds,), mono; log-mel on the device. And "voiced"
    float32 (): the fraction of its hundredths of a second that are louder than `voice_level`.

    The samples begin when the window's first frame appears. Where the track has none, before its start or after its end, they
    are 0. A video without an audio track is a bad video.

    Attributes:
      window: as in `ClipView`.
      seconds: duration; rate * seconds must be a whole number.
      rate: samples per second.
      bands: mel bands of the spectrogram.
      hop, span: seconds between two columns of the spectrogram, and seconds that each covers.
      voice_level: decibels relative to full scale, of the root mean square.
    """

    window: str = "a"
    seconds: float | int | Fraction = 1
    rate: int = 16000
    bands: int = 64
    hop: float = 0.010
    span: float = 0.025
    voice_level: float = -40.0

    def __post_init__(self):
        _check(bool(self.window), "window", "must not be empty", self.window)
        _check(self.rate >= 1, "rate", "must be 1 or more", self.rate)
        _check(0 < self.seconds < math.inf, "seconds", "must be above 0 and finite", self.seconds)
        samples = Fraction(str(self.seconds)) * self.rate
        _check(samples.denominator == 1, "seconds", f"must hold a whole number of samples at rate {self.rate}", self.seconds)
        _check(self.bands >= 1, "bands", "must be 1 or more", self.bands)
        _check(round(self.hop * self.rate) >= 1, "hop", "must be one sample or more", self.hop)
        _check(round(self.span * self.rate) >= 2, "span", "must be two samples or more", self.span)
        _check(round(self.span * self.rate) <= samples, "span", f"must not pass {self.seconds} seconds", self.span)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(Fraction(str(self.seconds)) * self.rate)

    @property
    def columns(self) -> int:
        """Columns of the spectrogram, each within the samples."""
        return 1 + (self.samples - round(self.span * self.rate)) // round(self.hop * self.rate)

    @property
    def arrays(self) -> Arrays:
        """The samples, and how much of them is voiced."""
        return {"": ((self.samples,), "int16"), "voiced": ((), "float32")}


FEATURE_DRAWS = ("random", "spread")


@dataclass(frozen=True)
class FeatureView:
    """Stored features of some clips of a video: float16 (count, dim) and "geometry" float32 (count, 7), see `ClipView`.

    No video is opened. A video that the store has no row for is a bad video.

    Attributes:
      store: path of the store, NAME.npz, as `wt_jax.eval.features.store` writes it with clips.
      count: clips per video, at most as many as are stored.
      dim: width of a feature.
      draw: "random": different clips, in random order; "spread": evenly spread over those that are stored.
      window: has no meaning here, as the clips are where they were cut.
    """

    store: str
    count: int
    dim: int
    draw: str = "random"
    window: str = "a"

    def __post_init__(self):
        _check(bool(self.store), "store", "must not be empty", self.store)
        _check(self.count >= 1, "count", "must be 1 or more", self.count)
        _check(self.dim >= 1, "dim", "must be 1 or more", self.dim)
        _check(self.draw in FEATURE_DRAWS, "draw", f"must be one of {FEATURE_DRAWS}", self.draw)

    @property
    def arrays(self) -> Arrays:
        """The features, and how their clips were cut."""
        return {"": ((self.count, self.dim), "float16"), "geometry": ((self.count, len(GEOMETRY)), "float32")}


@dataclass(frozen=True)
class BoxView:
    """Labelled boxes of a key frame: float32 (most, 4), "labels" bool (most, classes), "valid" bool (most,).

    A box is (left, top, right, bottom) relative to the clip of the same window, which must be one `ClipView` with `record`:
    boxes are cropped and mirrored as it is. The key frame is the record's `time`.

    Attributes:
      table: path of the annotations, CSV in AVA's columns; see `wt_jax.data.boxes`.
      most: boxes that are kept; where there are more, the first of the table.
      classes: number of classes; class c of the table, from 1, is column c - 1.
      window: that of the clip.
    """

    table: str
    most: int
    classes: int
    window: str = "a"

    def __post_init__(self):
        _check(bool(self.table), "table", "must not be empty", self.table)
        _check(bool(self.window), "window", "must not be empty", self.window)
        _check(self.most >= 1, "most", "must be 1 or more", self.most)
        _check(self.classes >= 1, "classes", "must be 1 or more", self.classes)

    @property
    def arrays(self) -> Arrays:
        """The boxes, their classes, and which of the rows hold a box."""
        return {
            "": ((self.most, 4), "float32"),
            "labels": ((self.most, self.classes), "bool"),
            "valid": ((self.most,), "bool"),
        }
