"""Moments of a video as clips for an encoder: the only module here that reads frames.

A moment is a window of a fixed length; an encoder may take a shorter clip, and then several clips, evenly spread over the
window, show it. Nothing here imports JAX: worker processes do this.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from wt_jax.data.pipeline import crop_clips
from wt_jax.data.sampling import frame_indices, spread_windows
from wt_jax.data.video.decode import VideoInfo
from wt_jax.data.video.reader import Reader, file_of, is_remote, open_video
from wt_jax.errors import VideoError
from wt_jax.specs import ClipView

_SUPPOSED_RATE = 25  # frames per second, to choose a default length by
_MOST_CLIPS = 2  # per window by default
_PHASES, _PHASED_SECONDS = 4, 30.0  # of a clip whose place is asked for
_HASHED_BLOCK, _HASHED_BLOCKS = 1 << 16, 16


@dataclass(frozen=True)
class Windows:
    """How videos are divided into moments.

    Attributes:
      view: the encoder's clip.
      length: seconds of a moment.
      every: seconds from one start to the next.
      clips: clips per moment, whose features are averaged.
    """

    view: ClipView
    length: float
    every: float
    clips: int


def default_windows(view: ClipView, length: float = 0.0, every: float = 0.0) -> Windows:
    """Windows as long as the encoder's clip but at least a second, each starting in the middle of the one before.

    `length` and `every` in seconds override that where they are above 0.
    """
    span = view.num_frames * float(view.stride) / (1 if view.unit == "seconds" else _SUPPOSED_RATE)
    length = length or max(span, 1.0)
    clips = min(max(math.ceil(length / span - 1e-6), 1), _MOST_CLIPS)
    return Windows(view, length, every or length / 2, clips)


def moment_times(duration: float, windows: Windows) -> np.ndarray:
    """Start and end of each moment in seconds, float32 (n, 2), n at least 1; a video shorter than a window is one moment."""
    count = 1 + max(math.floor((duration - windows.length) / windows.every + 1e-6), 0)
    starts = np.arange(count) * windows.every
    return np.stack([starts, np.minimum(starts + windows.length, duration)], axis=1).astype(np.float32)


def chosen_times(start: float, end: float, windows: Windows) -> np.ndarray:
    """Windows that cover the seconds from `start` to `end` of a query: (n, 2); a short stretch is one window."""
    times = moment_times(end - start, windows) + np.float32(start)
    if end - times[-1, 1] > windows.every / 4:
        times = np.concatenate([times, [[end - windows.length, end]]])
    return times.astype(np.float32)


def phased_times(start: float, end: float, windows: Windows) -> list[np.ndarray]:
    """Windows in a row from `start` to `end`, and the same begun a quarter, a half and three quarters of a step later.

    An excerpt of a video begins anywhere between two of its moments; of features that change quickly, only windows that begin
    near those of the index are like them. A long stretch has one row.
    """
    shifts = windows.every * np.arange(_PHASES) / _PHASES
    room = 0.0 if end - start > _PHASED_SECONDS else max(end - start - windows.length, 0.0)
    return [moment_times(end - start - shift, windows) + np.float32(start + shift) for shift in shifts[shifts <= room].tolist()]


def read_moments(reader: Reader, windows: Windows, times: np.ndarray) -> np.ndarray:
    """The clips of moments.

    Args:
      reader: the open video.
      windows: length, view and clips per moment.
      times: (n, 2), start and end in seconds from the first frame.

    Returns:
      uint8 (n, clips, T, S, S, 3).

    Raises:
      VideoError: a frame cannot be decoded.
    """
    view, info = windows.view, reader.info
    last = int(spread_windows(info, view, 2)[1][0])
    span = _span(info, view)
    frames = []
    for start, end in times.tolist():
        room = max(end - start - span, 0.0)
        for place in range(windows.clips):
            first = frame_at(info, start + room * (place + 0.5) / windows.clips)
            frames.append(frame_indices(info, view, min(first, last)))
    frames = np.stack(frames)
    clips = crop_clips(reader, {"clip": frames.ravel()}, {"clip": view}, None)["clip"]
    return clips.reshape(len(times), windows.clips, *frames.shape[1:], *clips.shape[1:])


def duration_of(info: VideoInfo) -> float:
    """Seconds."""
    return float(info.duration)


def _span(info: VideoInfo, view: ClipView) -> float:
    """Seconds that one clip shows of a video."""
    return view.num_frames * float(view.stride) * (1 if view.unit == "seconds" else float(info.duration) / info.num_frames)


def frame_at(info: VideoInfo, seconds: float) -> int:
    """The frame on show at a time."""
    after = math.floor(seconds / float(info.time_base) + 1e-6)
    return max(int(np.searchsorted(info.pts - info.pts[0], after, side="right")) - 1, 0)


def state_of(path: str) -> str:
    """What changes with a file: its size and time of change; empty for remote files, which count as unchanging.

    Raises:
      VideoError: there is no such file.
    """
    if is_remote(path):
        return ""
    try:
        status = os.stat(file_of(path))
    except (OSError, ValueError) as error:
        raise VideoError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return f"{status.st_size}:{status.st_mtime_ns}"


def content_of(path: str) -> str:
    """A hash by which a file is recognized after it has moved: of its size and of blocks spread over it; empty if remote.

    Raises:
      VideoError: the file cannot be read.
    """
    if is_remote(path):
        return ""
    file_name = file_of(path)
    try:
        with open(file_name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(f"{size} {path[len(file_name) :]}".encode())
            for place in range(_HASHED_BLOCKS):
                file.seek(max(size - _HASHED_BLOCK, 0) * place // (_HASHED_BLOCKS - 1))
                digest.update(file.read(_HASHED_BLOCK))
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror or error}") from error
    return digest.hexdigest()[:32]


class Segments:
    """What a worker makes of one piece of work (path, first moment): up to `most` moments of a video, by place.

    A dictionary: "clips" uint8 (n, clips, T, S, S, 3), "total" moments of the video, "duration" in seconds, "state" and
    "content" of the file before and "state_after" it was read; or "reason", why the video cannot be read.
    """

    def __init__(self, work: list[tuple[str, int]], windows: Windows, most: int):
        self.work, self.windows, self.most = work, windows, most

    def __call__(self, place: int) -> dict[str, Any]:
        """Never raises for a bad video."""
        path, first = self.work[place]
        try:
            state, content = state_of(path), content_of(path) if first == 0 else ""
            with open_video(path) as reader:
                times = moment_times(duration_of(reader.info), self.windows)
                clips = read_moments(reader, self.windows, times[first : first + self.most])
                found: dict[str, Any] = {"clips": clips, "total": len(times), "duration": duration_of(reader.info)}
            return found | {"state": state, "content": content, "state_after": state_of(path)}
        except VideoError as error:
            return {"reason": " ".join(str(error).removeprefix(f"{path}: ").split())}


def read_segments(work: list[tuple[str, int]], windows: Windows, most: int, workers: int, threads: int) -> Iterator[dict]:
    """The pieces of work in order, read ahead by the loader's worker processes; see `Segments`."""
    import grain

    from wt_jax.data.workers.pool import iterate

    return iterate(grain.MapDataset.range(len(work)).map(Segments(work, windows, most)), workers, threads)
