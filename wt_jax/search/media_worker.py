"""A process that reads one video at a time for the page, under limits: `wt_jax.search.media` starts and ends it.

Videos come from people; decoders have faults. So this process may not use more memory or time than it needs, write any file, or
open anything but a video file: no playlist and no script of other files, whatever the name says.

A job is one line of JSON on stdin. The answer is lines of JSON on stdout, each followed by `size` bytes; the last has "done".
"""

import io
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import wt_jax.data.workers.worker_main  # noqa: F401  first: keeps JAX out of this process

import av  # isort: skip
import av.error  # isort: skip
import cv2  # isort: skip
import numpy as np  # isort: skip

from wt_jax.data.video.reader import Reader, file_of, is_remote, open_video  # isort: skip
from wt_jax.errors import VideoError  # isort: skip
from wt_jax.search.clips import Windows, duration_of, frame_at, read_moments  # isort: skip
from wt_jax.specs import ClipView  # isort: skip

# FFmpeg's readers of files that hold pictures themselves; none of them opens another file.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "flv", "ogg", "asf",
    "mpegvideo", "h264", "hevc", "m4v",
)  # fmt: skip
_PLAYED_BY_BROWSERS = {"mov,mp4,m4a,3gp,3g2,mj2": ("h264", "av1"), "matroska,webm": ("vp8", "vp9", "av1")}
_HEARD_IN_BROWSERS = ("aac", "mp3", "opus", "vorbis")
_THUMB_SIDE, _THUMB_RATE, _THUMB_FRAMES = 128, 8, 16
_CHUNK_FRAMES = 24
_MOST_PIXELS = 8192 * 8192


def main() -> None:
    """Answer jobs until nobody asks any more."""
    memory, files = int(sys.argv[1]), 64
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_NOFILE, files)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    _answer(answers, {"ready": True})
    for line in sys.stdin.buffer:
        job = json.loads(line)
        try:
            _check_container(job["path"])
            for content in JOBS[job.pop("kind")](**job):
                _answer(answers, content if isinstance(content, dict) else {}, b"" if isinstance(content, dict) else content)
            _answer(answers, {"done": True})
        except MemoryError:  # FFmpeg's too
            _answer(answers, {"done": True, "reason": "decoding it needs too much memory"})
        except (VideoError, IndexError, ValueError, av.error.FFmpegError, cv2.error) as error:
            reason = str(error).removeprefix(f"{job['path']}: ") if isinstance(error, VideoError) else "it cannot be decoded"
            _answer(answers, {"done": True, "reason": reason.replace(job["path"], "the file")})


def _answer(answers: BinaryIO, fields: dict[str, Any], content: bytes = b"") -> None:
    answers.write(json.dumps(fields | {"size": len(content)}).encode() + b"\n" + content)
    answers.flush()


def _limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


def _check_container(path: str) -> None:
    """Raise VideoError unless the content of a file, whatever its name, is one of `CONTAINERS`."""
    if is_remote(path) or file_of(path) != path:
        return  # a record or object is read as a whole, by its own reader
    whitelist = ",".join(CONTAINERS)
    try:
        with av.open(
            f"file:{path}", container_options={"protocol_whitelist": "file", "format_whitelist": whitelist}
        ) as container:
            name = container.format.name
            pixels = max((stream.width * stream.height for stream in container.streams.video), default=0)
    except av.error.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        raise VideoError(f"{path}: it is no video of a kind that is read here") from None
    if name not in CONTAINERS:
        raise VideoError(f"{path}: it is no video of a kind that is read here")
    if pixels > _MOST_PIXELS:
        raise VideoError(f"{path}: its pictures are too large")


def facts(path: str) -> Iterator[dict[str, Any]]:
    """Duration, size, rate, codec, and whether browsers play the file as it is."""
    with open_video(path) as reader:
        info = reader.info
        found = {"duration": duration_of(info), "width": info.width, "height": info.height, "frames": info.num_frames}
    found["playable"] = False
    if not is_remote(path) and file_of(path) == path:
        with av.open(f"file:{path}") as container:
            video, sound = container.streams.video, container.streams.audio
            codecs = _PLAYED_BY_BROWSERS.get(container.format.name, ())
            plain = all(stream.codec_context and stream.codec_context.name in codecs for stream in video)
            heard = all(stream.codec_context and stream.codec_context.name in _HEARD_IN_BROWSERS for stream in sound)
            found["playable"] = plain and heard and video[0].codec_context.pix_fmt == "yuv420p"
    yield found


def clips(path: str, view: dict[str, Any], windows: dict[str, Any], times: list[tuple[float, float]]) -> Iterator[Any]:
    """The clips of moments, uint8 (n, clips, T, S, S, 3): the shape, then the bytes."""
    with open_video(path) as reader:
        found = read_moments(reader, Windows(ClipView(**view), **windows), np.asarray(times, np.float32).reshape(-1, 2))
    yield {"shape": found.shape}
    yield found.tobytes()


def thumb(path: str, start: float, end: float) -> Iterator[bytes]:
    """A small H.264 video of these seconds."""
    with open_video(path) as reader:
        count = int(np.clip(round((end - start) * _THUMB_RATE), 2, _THUMB_FRAMES))
        times = start + (end - start) * np.arange(count) / count
        wanted = np.unique([frame_at(reader.info, float(time)) for time in times])
        pictures = [_fitted(picture, _THUMB_SIDE) for _, picture in sorted(_pictures(reader, wanted), key=lambda pair: pair[0])]
        rate = Fraction(len(pictures)) / Fraction(max(end - start, 0.1)).limit_denominator(1000)
        options = {"crf": "33", "preset": "veryfast", "tune": "animation"}
        yield encoded(pictures, rate.limit_denominator(1000), options)


def cut(path: str, start: float, end: float) -> Iterator[bytes]:
    """These seconds as an H.264 video of the same size and rate."""
    with open_video(path) as reader:
        wanted = _frames_between(reader, start, end)
        rate = Fraction(reader.info.num_frames) / reader.info.duration
        pictures = (_even(picture) for picture in _in_order(reader, wanted))
        yield encoded(pictures, rate.limit_denominator(1000), {"crf": "20", "preset": "veryfast"})


def play(path: str, start: float, side: int) -> Iterator[bytes]:
    """The video from a time on, re-encoded for browsers while it is read: pieces of a fragmented MP4 file."""
    sink = _Sink()
    with open_video(path) as reader:
        info = reader.info
        wanted = _frames_between(reader, start, duration_of(info))
        with av.open(sink, "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}) as container:
            stream = None
            for index, picture in zip(wanted.tolist(), _in_order(reader, wanted), strict=True):
                picture = _fitted(picture, side)
                if stream is None:
                    stream = _stream(container, picture, info.num_frames / info.duration, {"crf": "26", "preset": "ultrafast"})
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = int(info.pts[index] - info.pts[wanted[0]]), info.time_base
                container.mux(stream.encode(frame))
                if content := sink.taken():
                    yield content
            if stream is not None:
                container.mux(stream.encode())
    yield sink.taken()


class _Sink:
    """A file that hands over what is written to it."""

    def __init__(self):
        self._parts: list[bytes] = []

    def write(self, content: bytes) -> int:
        self._parts.append(bytes(content))
        return len(content)

    def taken(self) -> bytes:
        content = b"".join(self._parts)
        self._parts.clear()
        return content


def encoded(pictures: Any, rate: Fraction, options: dict[str, str]) -> bytes:
    """An MP4 file of RGB pictures, uint8 [height, width, 3] with even sides."""
    file, stream = io.BytesIO(), None
    with av.open(file, "w", format="mp4") as container:
        for number, picture in enumerate(pictures):
            if stream is None:
                stream = _stream(container, picture, rate, options)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())
    return file.getvalue()


def _stream(container: Any, picture: np.ndarray, rate: Fraction, options: dict[str, str]) -> Any:
    stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000), options={"threads": "1"} | options)
    stream.height, stream.width = picture.shape[:2]
    stream.pix_fmt = "yuv420p"
    return stream


def _frames_between(reader: Reader, start: float, end: float) -> np.ndarray:
    info = reader.info
    first = frame_at(info, max(start, 0.0))
    return np.arange(first, max(frame_at(info, end - 1e-3), first) + 1)


def _pictures(reader: Reader, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for index, picture in reader.frames(wanted):
        assert isinstance(picture, np.ndarray)  # no YUV was asked for
        yield index, picture


def _in_order(reader: Reader, wanted: np.ndarray) -> Iterator[np.ndarray]:
    """The frames in their order, a few at a time."""
    for start in range(0, len(wanted), _CHUNK_FRAMES):
        for _, picture in sorted(_pictures(reader, wanted[start : start + _CHUNK_FRAMES]), key=lambda pair: pair[0]):
            yield picture


def _fitted(picture: np.ndarray, side: int) -> np.ndarray:
    """Scaled down to fit a square of `side`, with even sides."""
    height, width = picture.shape[:2]
    scale = min(side / max(height, width), 1.0)
    size = max(round(width * scale / 2) * 2, 2), max(round(height * scale / 2) * 2, 2)
    return picture if size == (width, height) else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _even(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    return np.ascontiguousarray(picture[: max(height // 2 * 2, 1), : max(width // 2 * 2, 1)])


JOBS: dict[str, Callable[..., Iterator[Any]]] = {"facts": facts, "clips": clips, "thumb": thumb, "cut": cut, "play": play}

if __name__ == "__main__":
    main()
