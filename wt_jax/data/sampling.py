"""Which frames a view shows: integers and fractions only, so that no rounding depends on the machine.

A window is named by the index of its first frame, also where samples are spaced in seconds; from there a view steps in
frames or along the presentation times, which honours a variable frame rate. A video that is too short for a window is
shown from its first frame and looped; with units "video" and "segments" nothing loops, as the steps shrink with the video.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise

import numpy as np

from wt_jax.data.video.decode import VideoInfo
from wt_jax.specs import AudioView, ClipView

_GAP_TRIES = 64


def frame_indices(info: VideoInfo, view: ClipView | AudioView, start: int) -> np.ndarray:
    """The frames of one clip.

    In frames, sample i is frame `start + round(i * stride)`, halves rounded up, modulo the number of frames. In
    seconds, it is the frame on show `i * stride` after the start frame appears, modulo the duration of the video. With unit
    "video" the first and the last sample are `stride * num_frames - 1` frames apart (of the video, 0 at least), and the others
    evenly between. A `ramp` moves all but these two: the step from sample i to the next is proportional to
    1 + (ramp - 1) * i / (number of steps - 1). With unit "segments" it is the middle frame of segment i: see `segments`.

    Args:
      info: the video.
      view: num_frames, stride, unit, ramp and reverse; of sound only the frame is known with which it begins.
      start: index of the first frame, in [0, info.num_frames).

    Returns:
      int64 [num_frames], indices in presentation order; of sound int64 [1].
    """
    if isinstance(view, AudioView):
        return np.array([start], np.int64)
    if view.unit == "segments":
        indices = segments(info.num_frames, view.num_frames)
        return indices[::-1] if view.reverse else indices
    steps = _steps(info, view)
    if view.unit == "seconds":
        first = info.pts[0]
        times = (info.pts[start] - first + steps) % (info.end - first)
        indices = np.searchsorted(info.pts - first, times, side="right") - 1
    else:
        indices = (start + steps) % info.num_frames
    return indices[::-1] if view.reverse else indices


def random_windows(
    info: VideoInfo, views: Mapping[str, ClipView | AudioView], rng: np.random.Generator, time: float | None = None
) -> dict[str, np.ndarray]:
    """Draws a start for each window and lists the frames of each view.

    Each start is uniform over the frames from which the longest view of its window fits into the video. The starts of two
    windows are drawn anew until neighbors lie as far apart as each view's `gap` and `most_gap` ask for; a video too short for
    that shows the last of 64 draws. With unit "segments" the frames are drawn, for each view its own. With a `time` nothing
    is drawn: see `centered_start`.

    Returns:
      For each view, int64 [num_frames], indices in presentation order; see `frame_indices`.
    """
    longest: dict[str, tuple[int, ClipView | AudioView]] = {}
    for view in views.values():
        last = _last_start(info, view)
        if view.window not in longest or last < longest[view.window][0]:
            longest[view.window] = last, view
    if time is not None:
        starts = {window: centered_start(info, view, time) for window, (_, view) in longest.items()}
    else:
        for _ in range(_GAP_TRIES):
            starts = {window: int(rng.integers(longest[window][0] + 1)) for window in sorted(longest)}
            gapped = [view for view in views.values() if isinstance(view, ClipView) and (view.gap or view.most_gap)]
            if all(_apart(info, view, sorted(starts.values())) for view in gapped):
                break
    found = {name: frame_indices(info, view, starts[view.window]) for name, view in views.items()}
    for name, view in views.items():
        if isinstance(view, ClipView) and view.unit == "segments" and time is None:
            drawn = segments(info.num_frames, view.num_frames, rng)
            found[name] = drawn[::-1] if view.reverse else drawn
    return found


def segments(length: int, count: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """One frame of each of `count` equal parts of a video of `length` frames: drawn, or without `rng` the middle one.

    Part i is from frame round((length - 1) * i / count) to frame round((length - 1) * (i + 1) / count), both included and
    halves to the even one, and a middle between two frames is the earlier: PySlowFast's `get_seq_frames` of
    Something-Something.

    Returns:
      int64 [count], ascending.
    """
    edges = np.array([round(Fraction((length - 1) * place, count)) for place in range(count + 1)], np.int64)
    if rng is None:
        return (edges[:-1] + edges[1:]) // 2
    return rng.integers(edges[:-1], edges[1:], endpoint=True)


def centered_start(info: VideoInfo, view: ClipView | AudioView, time: float) -> int:
    """The first frame of the window whose middle is `time` seconds after the first frame of the video appears.

    Near the ends of the video the window is moved until it fits.
    """
    ticks = int(Fraction(str(time)) / info.time_base)
    half = int(_steps(info, view)[-1]) // 2
    in_seconds = _in_seconds(view)
    frame = int(np.searchsorted(info.pts - info.pts[0], ticks - half if in_seconds else ticks, side="right")) - 1
    return min(max(frame if in_seconds else frame - half, 0), _last_start(info, view))


def spread_windows(info: VideoInfo, view: ClipView, count: int) -> list[np.ndarray]:
    """Evenly spread windows for evaluation: the first at the start of the video, the last at its end.

    With unit "segments" all are the same one, of the whole video. A window ends with its last sample; PySlowFast counts the
    step after it too, so that its last window starts a stride earlier. CoCLR has a window every 15 frames of 32 instead.

    Args:
      info: the video.
      view: num_frames, stride, unit, ramp and reverse.
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


def extent(info: VideoInfo, indices: np.ndarray) -> tuple[float, float]:
    """When the earliest of these frames appears and the latest ends, relative to the duration of the video."""
    first, last = int(indices.min()), int(indices.max())
    begin, duration = int(info.pts[0]), info.end - int(info.pts[0])
    end = int(info.pts[last + 1]) if last + 1 < info.num_frames else info.end
    return (int(info.pts[first]) - begin) / duration, (end - begin) / duration


def fits(info: VideoInfo, view: ClipView) -> bool:
    """Whether the video is long enough for a clip that does not loop."""
    span, length = int(_steps(info, view)[-1]), info.num_frames
    return span < (info.end - int(info.pts[0]) if _in_seconds(view) else length)


def _in_seconds(view: ClipView | AudioView) -> bool:
    return isinstance(view, AudioView) or view.unit == "seconds"


def _apart(info: VideoInfo, view: ClipView, starts: list[int]) -> bool:
    """Whether ascending starts keep the view's gaps."""
    least, most = Fraction(str(view.gap)), Fraction(str(view.most_gap))
    if view.unit == "seconds":
        places = [int(info.pts[start]) * info.time_base for start in starts]
    else:
        scale = info.num_frames if view.unit == "video" else 1
        places, least, most = starts, least * scale, most * scale
    return all(later - earlier >= least and (not most or later - earlier <= most) for earlier, later in pairwise(places))


def _last_start(info: VideoInfo, view: ClipView | AudioView) -> int:
    """The last frame from which the window fits without looping; 0 where none does."""
    span = int(_steps(info, view)[-1])
    if _in_seconds(view):
        return max(int(np.searchsorted(info.pts, info.end - span, side="left")) - 1, 0)
    return max(info.num_frames - 1 - span, 0)


def _steps(info: VideoInfo, view: ClipView | AudioView) -> np.ndarray:
    """Distances int64 [num_frames] of the samples from the start, in frames or in units of the time base.

    Of sound: those of its start and its end.
    """
    if isinstance(view, AudioView):
        return _distances(view.seconds, "seconds", 2, 1.0, info.time_base)
    unit = "video" if view.unit == "segments" else view.unit
    scale = {"frames": 1, "seconds": info.time_base, "video": info.num_frames}[unit]
    return _distances(view.stride, unit, view.num_frames, view.ramp, scale)


@functools.lru_cache(maxsize=256)
def _distances(stride: float, unit: str, count: int, ramp: float, scale: Fraction | int) -> np.ndarray:
    step, ratio, last = Fraction(str(stride)), Fraction(str(ramp)), count - 1  # By way of the text, so that 0.1 is one tenth.
    if unit == "video":
        step = max(step * scale - 1, Fraction(0)) / max(last, 1)
    # Place i in steps, of which there are as many whatever the ramp: sums of 1 + (ramp - 1) j / (last - 1), scaled.
    places = [Fraction(place) for place in range(count)]
    if last > 1:
        slope = (ratio - 1) / (last - 1)
        places = [(place + slope * place * (place - 1) / 2) * 2 / (1 + ratio) for place in places]
    if unit == "seconds":
        # Time stamps are integers, so the frame on show at a time is the one on show at the last whole unit before it.
        return np.array([int(place * step / scale) for place in places], np.int64)
    return np.array([_round(place * step) for place in places], np.int64)


def _round(value: Fraction) -> int:
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)
