"""Reads chosen frames of a video file; the only module that knows about containers, codecs and time stamps.

A frame has one number, its place in presentation order, and that number always means the same picture: whether it is
reached by a seek or by decoding everything before it. Frames are never invented: what cannot be decoded is an error.
Built on PyAV (https://pyav.basswood-io.com), one thread per call, because the pipeline is parallel over videos.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

# Codecs with packets that show no picture (vp8: hidden references; mpeg4: "not coded" frames). Only decoding tells.
_HIDDEN_PACKETS = ("mpeg4", "vp8")
# Frames that must lie between two wanted ones before a seek costs less than decoding them.
_WORTH_A_SEEK = 6
_CACHED_VIDEOS = 1024
# A title that is not UTF-8 must not make a video unreadable. PyAV 19 has no such setting any more.
_TOLERANT = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}


class VideoError(Exception):
    """A video that cannot be read as asked; the message names the path and the cause in one line."""


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """What is in a video file.

    Attributes:
      pts: int64 [n], presentation times of the frames, strictly increasing, in units of `time_base`.
      end: the time at which the last frame ends, in units of `time_base`.
      time_base: seconds per unit.
      keyframes: int64 [k], increasing times of the frames where decoding can start. Empty when the time stamps do not
        identify the frames (B-frames in AVI, for one): then frames are counted from the start of the file.
      width: width in pixels as stored, before any rotation.
      height: height in pixels as stored, before any rotation.
    """

    pts: np.ndarray
    end: int
    time_base: Fraction
    keyframes: np.ndarray
    width: int
    height: int

    @property
    def num_frames(self) -> int:
        """Number of frames that can be asked for."""
        return len(self.pts)

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last."""
        return (self.end - int(self.pts[0])) * self.time_base


def probe(source: str | bytes) -> VideoInfo:
    """Lists the frames of a video from its packets, decoding only where packets do not tell.

    What the header declares is not believed: a file that declares 444 frames and holds 68 has 68. Results for files
    are remembered per process, until size or modification time change.

    Args:
      source: a path, or the content of a video file.

    Raises:
      VideoError: the file is missing, is no video, has no video stream, or holds no frame.
    """
    if isinstance(source, bytes):
        return _probe(source)
    try:
        status = os.stat(source)
    except OSError as error:
        raise VideoError(f"{source}: {error.strerror}") from error
    return _probe_file(source, status.st_size, status.st_mtime_ns)


def decode(source: str | bytes, indices: Sequence[int] | np.ndarray, info: VideoInfo | None = None) -> np.ndarray:
    """Decodes frames in one pass over the file, from keyframe to keyframe where frames between are not asked for.

    Args:
      source: a path, or the content of a video file.
      indices: integers [n] in [0, info.num_frames), places in presentation order; any order, repeats allowed.
      info: result of `probe` for this source, where it is at hand.

    Returns:
      uint8 [n, height, width, 3], RGB, upright: a rotation stored in the file is applied.

    Raises:
      VideoError: one of the frames cannot be decoded.
      IndexError: an index is out of range.
    """
    info = probe(source) if info is None else info
    wanted, order = np.unique(np.asarray(indices, np.int64), return_inverse=True)
    if not len(wanted) or wanted[0] < 0 or wanted[-1] >= info.num_frames:
        raise IndexError(f"{_name(source)}: frames {list(indices)} of a video with {info.num_frames} frames")
    frames, runs, everything = {}, _runs(info, wanted), [(None, wanted)]
    if len(runs) > 1 or runs[0][0] is not None:
        with suppress(VideoError):
            frames = _read(source, info, runs)
    if len(frames) < len(wanted):  # No seek was made, or one failed or overshot, as it does in some containers.
        frames = _read(source, info, everything)
    missing = [index for index in wanted.tolist() if index not in frames]
    if missing:
        raise VideoError(f"{_name(source)}: frame {missing[0]} of {info.num_frames} cannot be decoded")
    if len({frame.shape for frame in frames.values()}) > 1:
        raise VideoError(f"{_name(source)}: the frame size changes within the video")
    return np.stack([frames[index] for index in wanted[order].tolist()])


def check(source: str | bytes) -> VideoInfo:
    """Decodes each frame once, keeping none.

    Raises:
      VideoError: as `decode` would for the first frame that cannot be decoded.
    """
    info = probe(source)
    with _opened(source) as (container, stream):
        found = {_index(info, place, frame) for place, frame in enumerate(_decoded(container, stream))}
    missing = sorted(set(range(info.num_frames)) - found)
    if missing:
        raise VideoError(f"{_name(source)}: {len(missing)} of {info.num_frames} frames cannot be decoded, first: {missing[0]}")
    return info


@functools.lru_cache(maxsize=_CACHED_VIDEOS)
def _probe_file(path: str, size: int, modified: int) -> VideoInfo:
    return _probe(path)


def _probe(source: str | bytes) -> VideoInfo:
    with _opened(source) as (container, stream):
        packets = [
            (packet.pts, packet.dts, packet.is_keyframe, packet.is_discard)
            for packet in container.demux(stream)
            if packet.size and not packet.is_corrupt
        ]
        codec, time_base, rate = stream.codec_context, stream.time_base, stream.average_rate
        name, width, height = codec.name, codec.width, codec.height
        guessed = container.format.name == "avi"  # AVI stores no presentation times: those of B-frames are guesses.
    keyframes = [pts for pts, _, is_keyframe, _ in packets if is_keyframe]
    times = [pts for pts, _, _, is_discard in packets if not is_discard]  # An edit list may discard some.
    timed = bool(keyframes) and all(pts is not None and (pts == dts or not guessed) for pts, dts, _, _ in packets)
    if timed:
        # What is shown before the first keyframe refers to frames that are not in the file.
        times = [time for time in times if time >= keyframes[0]]
    if not timed or name in _HIDDEN_PACKETS or len(set(times)) < len(times):
        with _opened(source) as (container, stream):
            times = [frame.pts for frame in _decoded(container, stream)]
        known = None not in times and len(set(times)) == len(times)
        timed = timed and known and times == sorted(times)
        if not known:
            step = max(1 / (rate * time_base), 1) if rate else 1
            times = [round(place * step) for place in range(len(times))]
    if not times:
        raise VideoError(f"{_name(source)}: it has a video stream without a single frame")
    pts = np.array(sorted(times), np.int64)
    last = int(np.median(np.diff(pts))) if len(pts) > 1 else round(1 / (rate * time_base)) if rate else 1
    return VideoInfo(
        pts=pts,
        end=int(pts[-1]) + max(last, 1),
        time_base=time_base,
        keyframes=np.array(sorted(keyframes) if timed else [], np.int64),
        width=width,
        height=height,
    )


def _runs(info: VideoInfo, wanted: np.ndarray) -> list[tuple[int | None, np.ndarray]]:
    """Wanted frames, increasing, as runs to read on end, each with the keyframe to seek to (None: no seek)."""
    if not info.keyframes.size:
        return [(None, wanted)]
    last_key = np.searchsorted(info.keyframes, info.pts[wanted], side="right") - 1
    keys = info.keyframes[np.maximum(last_key, 0)]
    skipped = np.searchsorted(info.pts, keys[1:]) - wanted[:-1]
    cuts = np.flatnonzero(skipped > _WORTH_A_SEEK) + 1
    starts = [None if keys[0] <= info.pts[0] else int(keys[0]), *(int(key) for key in keys[cuts])]
    return list(zip(starts, np.split(wanted, cuts), strict=True))


def _read(source: str | bytes, info: VideoInfo, runs: list[tuple[int | None, np.ndarray]]) -> dict[int, np.ndarray]:
    """The wanted frames that are found, by index; the file is opened once."""
    frames: dict[int, np.ndarray] = {}
    with _opened(source) as (container, stream):
        for seek, wanted in runs:
            left = set(wanted.tolist())
            if seek is not None:
                container.seek(seek, stream=stream)
            for place, frame in enumerate(_decoded(container, stream)):
                index = _index(info, place, frame)
                if index in left:
                    image = frame.to_ndarray(format="rgb24", threads=1)
                    frames[index] = np.rot90(image, round(frame.rotation / 90))
                    left.remove(index)
                if not left or (index is not None and index > wanted[-1]):
                    break
    return frames


def _index(info: VideoInfo, place: int, frame: av.VideoFrame) -> int | None:
    """The index of a decoded frame, None if it is damaged or not among the frames that were probed."""
    if frame.is_corrupt:
        return None
    if not info.keyframes.size:
        return place
    index = None if frame.pts is None else int(np.searchsorted(info.pts, frame.pts))
    return index if index is not None and index < len(info.pts) and info.pts[index] == frame.pts else None


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Frames in presentation order; a damaged packet yields none, and decoding goes on behind it."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            continue
        yield from frames


@contextmanager
def _opened(source: str | bytes) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The open container and its first real video stream; whatever goes wrong inside becomes a VideoError."""
    try:
        # "file:" keeps a colon in a name from being read as a protocol.
        target = io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
        with av.open(target, **_TOLERANT) as container:
            picture = av.stream.Disposition.attached_pic  # The cover of an audio file is no video.
            streams = [stream for stream in container.streams.video if not stream.disposition & picture]
            if not streams:
                raise VideoError(f"{_name(source)}: it has no video stream")
            if streams[0].codec_context is None:
                raise VideoError(f"{_name(source)}: there is no decoder for its video")
            streams[0].thread_type = "NONE"
            streams[0].thread_count = 1
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise VideoError(f"{_name(source)}: {error.strerror}") from error


def _name(source: str | bytes) -> str:
    return f"video of {len(source)} bytes" if isinstance(source, bytes) else source
