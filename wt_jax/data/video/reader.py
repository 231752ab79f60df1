"""Opens one video by its name, wherever it lies: a file, an object of a remote store, a record of a shard.

A record `FILE.array_record#NUMBER` holds either what `wt_jax.tools.pack` wrote, a line of JSON and an MP4 file, or a
TFDS example, whose video is a list of images or a video file. A member `FILE.tar#NAME@OFFSET+SIZE` is a video file.
"""

from __future__ import annotations

import functools
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol, cast

import cv2
import numpy as np
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]  # in C++

from wt_jax.data.video import decode
from wt_jax.data.video.audio import read_audio
from wt_jax.data.video.decode import VideoInfo
from wt_jax.data.video.yuv420 import Planes
from wt_jax.errors import VideoError

EXTENSIONS = (
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv",
)  # fmt: skip
_RECORD = re.compile(r"(?P<file>.+\.array_record[^#/]*)#(?P<place>\d+)")
_MEMBER = re.compile(r"(?P<file>.+\.tar)#.*@(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)
_IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
_FRAME = re.compile(
    rf"(?P<prefix>(?!\.).*?)(?P<number>\d+)(?P<suffix>{'|'.join(map(re.escape, _IMAGE_EXTENSIONS))})", re.IGNORECASE
)
_IMAGES = {b"\x89PNG": "png", b"\xff\xd8\xff": "mjpeg"}  # how the files of these codecs start
_IMAGE_RATE = 25  # frames per second of a video that is stored as images: TFDS keeps no rate, so this one is supposed
_OPEN_SHARDS = 256


class Reader(Protocol):
    """A video that is open; of a video file it is a `wt_jax.data.video.decode.Reader`."""

    @property
    def info(self) -> VideoInfo:
        """What is in the video."""
        ...

    def frames(self, indices: np.ndarray, planes: bool = False) -> Iterator[tuple[int, np.ndarray | Planes]]:
        """Yields (index, uint8 [height, width, 3]) for increasing indices, in no promised order, each once.

        With `planes` a frame may come as `Planes` instead.
        """
        ...


class Readable(Protocol):
    """The frames and the audio track of a video. Both raise VideoError, with its name and the cause, where it is broken."""

    def open(self) -> AbstractContextManager[Reader]:
        """Opens it, to look at it and to read frames."""
        ...

    def audio(self, start: Fraction, count: int, rate: int) -> np.ndarray:
        """A stretch of its audio track, as `wt_jax.data.video.audio.read_audio` reads it."""
        ...


class Video(Readable, Protocol):
    """A video at hand. Everything raises VideoError, with the name of the video and the cause, where it is broken."""

    def read_all(self) -> Iterator[np.ndarray]:
        """Every frame that `check` finds, uint8 [height, width, 3], in order, one at a time."""
        ...

    def check(self) -> VideoInfo:
        """Decodes each frame once; what is in the video without the frames that cannot be decoded, of which few may be lost."""
        ...

    def describe(self) -> tuple[str, int]:
        """Codec and rotation, as `wt_jax.data.video.decode.describe` says."""
        ...


@contextmanager
def open_video(name: str) -> Iterator[Reader]:
    """The open video of this name: a path, an address such as gs://bucket/a.mp4, or FILE.array_record#NUMBER.

    Raises:
      VideoError: there is none, or it cannot be read; also for what goes wrong while it is open.
    """
    with find_video(name).open() as reader:
        yield reader


def find_video(name: str) -> Video:
    """The video of this name, as for `open_video`. Remote objects and records are read as a whole.

    Raises:
      VideoError: there is none, or it cannot be read.
    """
    if _RECORD.fullmatch(name):
        record = read_record(name)
        return _from_pack(name, record) if record.startswith(b"{") else _from_example(name, record)
    if match := _MEMBER.fullmatch(name):
        return _Encoded(name, _read_remote(match["file"], int(match["offset"]), int(match["size"])))
    if not name.lower().endswith(EXTENSIONS) and os.path.isdir(name):
        frames = frame_files(name)
        if not frames:
            raise VideoError(f"{name}: a folder without numbered images ({' '.join(_IMAGE_EXTENSIONS)})")
        return _Images(name, tuple(frames.values()), tuple(frames))
    return _Encoded(name, _read_remote(name) if is_remote(name) else name)


def frame_files(folder: str) -> dict[int, str]:
    """The images of a folder of frames by their numbers, in order, such as img_00001.jpg; of several series the largest."""
    series: dict[tuple[str, str], dict[int, str]] = {}
    for name in os.listdir(folder):
        match = _FRAME.fullmatch(name)
        if match:
            series.setdefault((match["prefix"], match["suffix"].lower()), {})[int(match["number"])] = os.path.join(folder, name)
    return dict(sorted(max(series.values(), key=len).items())) if series else {}


def is_remote(name: str) -> bool:
    """Whether a name is an address such as gs://bucket/a.mp4."""
    return "://" in name


def file_of(name: str) -> str:
    """The file that holds a video: the shard of a record or a member, else the video itself."""
    match = _RECORD.fullmatch(name) or _MEMBER.fullmatch(name)
    return match["file"] if match else name


def read_record(name: str) -> bytes:
    """The content of the record FILE.array_record#NUMBER.

    Raises:
      VideoError: there is no such file or record, or it is damaged.
    """
    match = _RECORD.fullmatch(name)
    if match is None:
        raise VideoError(f"{name}: this is not the name of a record")
    try:
        record = _shard(match["file"]).read([int(match["place"])])[0]
    except (ValueError, RuntimeError, IndexError, OSError) as error:
        raise VideoError(f"{name}: the record cannot be read ({' '.join(str(error).split())})") from error
    if not record:  # What a damaged record reads as.
        raise VideoError(f"{name}: the record is empty or damaged")
    return record


@functools.lru_cache(maxsize=_OPEN_SHARDS)
def _shard(path: str) -> array_record_module.ArrayRecordReader:
    """A reader for random access, which may be shared by threads."""
    reader = array_record_module.ArrayRecordReader(path, options="readahead_buffer_size:0", file_reader_buffer_size=32768)
    if not reader.num_records():
        raise ValueError("the file is missing, empty or truncated")
    return reader


def _read_remote(name: str, offset: int = 0, size: int = -1) -> bytes:
    """The bytes of a file, wherever it is, or so many of them; -1: to its end."""
    from etils import epath

    try:
        with epath.Path(name).open("rb") as file:
            file.seek(offset)
            content = file.read(size)
    except ImportError:
        raise  # Not a fault of this video.
    except Exception as error:  # Each store has errors of its own.
        raise VideoError(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if len(content) < size:
        raise VideoError(f"{name}: it ends within the video at byte {offset}")
    return content


def pack_record(fields: Mapping[str, Any], info: VideoInfo, content: bytes) -> bytes:
    """A record: what is known of a clip, what probing it gives, so that readers need not probe, and its file."""
    probed = {
        "pts": info.pts.tolist(),
        "end": info.end,
        "time_base": str(info.time_base),
        "keyframes": info.keyframes.tolist(),
        "width": info.width,
        "height": info.height,
    }
    return json.dumps({"fields": dict(fields), "info": probed}).encode() + b"\n" + content


def unpack_record(record: bytes) -> tuple[dict[str, Any], VideoInfo, bytes]:
    """The inverse of `pack_record`; raises ValueError or KeyError for anything else."""
    header, _, content = record.partition(b"\n")
    entry = json.loads(header)
    probed = entry["info"]
    times = {name: np.array(probed[name], np.int64) for name in ("pts", "keyframes")}
    return entry["fields"], VideoInfo(**probed | times | {"time_base": Fraction(probed["time_base"])}), content


def _from_pack(name: str, record: bytes) -> Video:
    try:
        _, info, content = unpack_record(record)
    except (ValueError, KeyError, TypeError) as error:
        raise VideoError(f"{name}: the record is none of pack's") from error
    return _Encoded(name, content, info)


def _from_example(name: str, record: bytes) -> Video:
    """The video of a TFDS example: of its byte features the longest list of images, else the largest value."""
    try:
        features = example_features(record)
    except ValueError as error:
        raise VideoError(f"{name}: the record is neither of pack's nor a TFDS example") from error
    values = [list(feature.bytes_list.value) for feature in features.values() if feature.bytes_list.value]
    images = [value for value in values if _image_codec(value[0])]
    if images:
        return _Images(name, tuple(max(images, key=len)))
    if not values:
        raise VideoError(f"{name}: the example holds no video")
    return _Encoded(name, max((value[0] for value in values), key=len))


def example_features(record: bytes) -> Mapping[str, Any]:
    """The features of a TFDS example by name, as protocol buffers; raises ValueError for anything else."""
    # While TFDS is imported it makes imports lazy, those of other threads too, and two can wait for each other for ever.
    with _importing:
        from google.protobuf.message import DecodeError
        from tensorflow_datasets.proto import tf_example_pb2

        example = tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]  # made at import
    try:
        example.ParseFromString(record)
    except DecodeError as error:
        raise ValueError("the record is no TFDS example") from error
    return example.features.feature


_importing = threading.Lock()


def _image_codec(content: bytes) -> str | None:
    return next((codec for start, codec in _IMAGES.items() if content.startswith(start)), None)


@dataclass(frozen=True)
class _Encoded:
    """A video file: a path, or its content."""

    name: str
    source: str | bytes
    info: VideoInfo | None = None

    @contextmanager
    def open(self) -> Iterator[Reader]:
        with self._named(), decode.open_reader(self.source, self.info) as reader:
            yield reader

    def read_all(self) -> Iterator[np.ndarray]:
        with self._named():
            yield from decode.read_all(self.source)

    def audio(self, start: Fraction, count: int, rate: int) -> np.ndarray:
        with self._named():
            return read_audio(self.source, start, count, rate)

    def check(self) -> VideoInfo:
        with self._named():
            return decode.check(self.source)

    def describe(self) -> tuple[str, int]:
        with self._named():
            return decode.describe(self.source)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors name the video instead of the number of its bytes."""
        try:
            yield
        except VideoError as error:
            if isinstance(self.source, str):
                raise
            raise VideoError(f"{self.name}: {str(error).partition(': ')[2]}") from error


@dataclass(frozen=True)
class _Images:
    """A video as a list of image files, of which only those asked for are decoded.

    Attributes:
      name: of the video.
      images: contents of files, or paths.
      numbers: the numbers of the frames, which count from 0 where there are none; a gap between two is a gap in time.
    """

    name: str
    images: tuple[bytes | str, ...]
    numbers: tuple[int, ...] = ()

    @functools.cached_property
    def info(self) -> VideoInfo:
        height, width = self._image(0).shape[:2]
        numbers = np.array(self.numbers or range(len(self.images)), np.int64)
        times = numbers - numbers[0]
        return VideoInfo(times, int(times[-1]) + 1, Fraction(1, _IMAGE_RATE), times, width, height)

    def open(self) -> AbstractContextManager[Reader]:
        return nullcontext(cast(Reader, self))  # pyright does not take a cached property for an attribute

    def frames(self, indices: np.ndarray, planes: bool = False) -> Iterator[tuple[int, np.ndarray]]:
        shape = None
        for index in indices.tolist():
            image = self._image(index)
            if image.shape != (shape or image.shape):
                raise VideoError(f"{self.name}: the frame size changes within the video")
            shape = image.shape
            yield index, image

    def read_all(self) -> Iterator[np.ndarray]:
        for _, image in self._sound():
            yield image

    def audio(self, start: Fraction, count: int, rate: int) -> np.ndarray:
        raise VideoError(f"{self.name}: it is a list of images, without an audio track")

    def check(self) -> VideoInfo:
        return replace(self.info, pts=self.info.pts[[index for index, _ in self._sound()]])

    def describe(self) -> tuple[str, int]:
        return _image_codec(self._content(0)) or "unknown", 0

    def _sound(self) -> Iterator[tuple[int, np.ndarray]]:
        """As for video files: the frames that can be decoded, unless too many cannot, or the size changes."""
        shape, lost = None, []
        for index in range(len(self.images)):
            try:
                image = self._image(index)
            except VideoError:
                lost.append(index)
                continue
            if image.shape != (shape or image.shape):
                raise VideoError(f"{self.name}: the frame size changes within the video")
            shape = image.shape
            yield index, image
        if len(lost) > decode.MAX_LOST_FRACTION * len(self.images):
            raise VideoError(f"{self.name}: {len(lost)} of {len(self.images)} frames cannot be decoded, first: {lost[0]}")

    def _content(self, index: int) -> bytes:
        image = self.images[index]
        if isinstance(image, bytes):
            return image
        try:
            with open(image, "rb") as file:
                return file.read()
        except OSError as error:
            raise VideoError(f"{image}: {error.strerror}") from error

    def _image(self, index: int) -> np.ndarray:
        content = np.frombuffer(self._content(index), np.uint8)
        image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
        if image is None:
            raise VideoError(f"{self.name}: frame {index} of {len(self.images)} cannot be decoded")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
