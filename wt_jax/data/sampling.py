"""Which frames a view shows: integers and fractions only, so that no rounding depends on the machine.

A window is named by the index of its first frame, also where samples are spaced in seconds; from there a view steps in
frames or along the presentation times, which honours a variable frame rate. A video that is too short for a window is
shown from its first frame and looped.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise

import numpy as np

from wt_jax.data.video.decode import VideoInfo
from wt_jax.specs import ClipView

_GAP_TRIES = 64


def frame_indices(info: VideoInfo, view: ClipView, start: int) -> np.ndarray:
    """The frames of one clip.

    In frames, sample i is frame `start + round(i * stride)`, halves rounded up, modulo the number of frames. In
    seconds, it is the frame on show `i * stride` after the start frame appears, modulo the duration of the video.

    Args:
      info: the video.
      view: num_frames, stride and unit.
      start: index of the first frame, in [0, info.num_frames).

    Returns:
      int64 [num_frames], indices in presentation order.
    """
    steps = _steps(info, view)
    if view.unit == "frames":
        return (start + steps) % info.num_frames
    first = info.pts[0]
    times = (info.pts[start] - first + steps) % (info.end - first)
    return np.searchsorted(info.pts - first, times, side="right") - 1


def random_windows(info: VideoInfo, views: Mapping[str, ClipView], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a start for each window and lists the frames of each view.

    Each start is uniform over the frames from which the longest view of its window fits into the video. The starts of two
    windows are drawn anew until they lie as far apart as the views' largest `gap`; a video too short for that shows the
    last of 64 draws.

    Returns:
      For each view, int64 [num_frames], indices in presentation order.
    """
    last = {}
    for view in views.values():
        last[view.window] = min(_last_start(info, view), last.get(view.window, info.num_frames))
    for _ in range(_GAP_TRIES):
        starts = {window: int(rng.integers(last[window] + 1)) for window in sorted(last)}
        if all(_apart(info, view, sorted(starts.values())) for view in views.values() if view.gap):
            break
    return {name: frame_indices(info, view, starts[view.window]) for name, view in views.items()}


def spread_windows(info: VideoInfo, view: ClipView, count: int) -> list[np.ndarray]:
    """Evenly spread windows for evaluation: the first at the start of the video, the last at its end.

    Args:
      info: the video.
      view: num_frames, stride and unit.
      count: number of windows, 1 or more; a single window lies in the middle.

    Returns:
      `count` arrays int64 [num_frames], indices in presentation order.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    last = _last_start(info, view)
    if count == 1:
        return [frame_indices(info, view, last // 2)]
    return [frame_indices(info, view, _round(Fraction(last * place, count - 1))) for place in range(count)]


def _apart(info: VideoInfo, view: ClipView, starts: list[int]) -> bool:
    """Whether ascending starts keep the view's gap."""
    gap = Fraction(str(view.gap))
    places = starts if view.unit == "frames" else [int(info.pts[start]) * info.time_base for start in starts]
    return all(later - earlier >= gap for earlier, later in pairwise(places))


def _last_start(info: VideoInfo, view: ClipView) -> int:
    """The last frame from which the window fits without looping; 0 where none does."""
    span = int(_steps(info, view)[-1])
    if view.unit == "frames":
        return max(info.num_frames - 1 - span, 0)
    return max(int(np.searchsorted(info.pts, info.end - span, side="left")) - 1, 0)


def _steps(info: VideoInfo, view: ClipView) -> np.ndarray:
    """Distances int64 [num_frames] of the samples from the start, in frames or in units of the time base."""
    return _multiples(str(view.stride), view.num_frames, None if view.unit == "frames" else info.time_base)


@functools.lru_cache(maxsize=256)
def _multiples(stride: str, count: int, time_base: Fraction | None) -> np.ndarray:
    step = Fraction(stride)  # By way of the text, so that 0.1 is one tenth.
    if time_base is None:
        return np.array([_round(place * step) for place in range(count)], np.int64)
    # Time stamps are integers, so the frame on show at a time is the one on show at the last whole unit before it.
    return np.array([int(place * step / time_base) for place in range(count)], np.int64)


def _round(value: Fraction) -> int:
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)
