"""Opens one video by its name, wherever it lies: a file, an object of a remote store, a record of a shard.

A record `FILE.array_record#NUMBER` holds either what `wt_jax.tools.pack` wrote, a line of JSON followed by a video file, or a
TFDS example, whose video is a list of images or a video file.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import cv2
import numpy as np
from array_record.python import array_record_module

from wt_jax.data import decode
from wt_jax.data.decode import VideoError, VideoInfo

EXTENSIONS = (
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv",
)  # fmt: skip
_RECORD = re.compile(r"(?P<file>.+\.array_record[^#/]*)#(?P<place>\d+)")
_IMAGES = {b"\x89PNG": "png", b"\xff\xd8\xff": "mjpeg"}  # how the files of these codecs start
_IMAGE_RATE = 25  # frames per second of a video that is stored as images: TFDS keeps no rate, so this one is supposed
_OPEN_SHARDS = 256


class Video(Protocol):
    """A video at hand. All methods raise VideoError, with the name of the video and the cause, where it is broken."""

    def probe(self) -> VideoInfo:
        """What `wt_jax.data.decode.probe` says."""

    def decode(self, indices: Sequence[int] | np.ndarray, info: VideoInfo | None = None) -> np.ndarray:
        """Frames as `wt_jax.data.decode.decode` gives them: uint8 [n, height, width, 3]."""

    def read_all(self) -> Iterator[np.ndarray]:
        """Every frame, uint8 [height, width, 3], in order, one at a time."""

    def check(self) -> VideoInfo:
        """Decodes each frame once."""

    def describe(self) -> tuple[str, int]:
        """Codec and rotation, as `wt_jax.data.decode.describe` says."""


def open_video(name: str) -> Video:
    """The video of this name: a path, an address such as gs://bucket/a.mp4, or FILE.array_record#NUMBER.

    Remote objects and records are read as a whole, files only as far as they are needed.

    Raises:
      VideoError: there is none, or it cannot be read.
    """
    if _RECORD.fullmatch(name):
        record = read_record(name)
        if record.startswith(b"{"):
            return _Encoded(name, record[record.index(b"\n") + 1 :])
        return _from_example(name, record)
    return _Encoded(name, _read_remote(name) if is_remote(name) else name)


def open_content(name: str, content: bytes) -> Video:
    """The video in the content of a video file; errors call it `name`."""
    return _Encoded(name, content)


def is_remote(name: str) -> bool:
    """Whether a name is an address such as gs://bucket/a.mp4."""
    return "://" in name


def file_of(name: str) -> str:
    """The file that holds a video: the shard of a record, else the video itself."""
    match = _RECORD.fullmatch(name)
    return match["file"] if match else name


def read_record(name: str) -> bytes:
    """The content of the record FILE.array_record#NUMBER.

    Raises:
      VideoError: there is no such file or record, or it is damaged.
    """
    match = _RECORD.fullmatch(name)
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


def _read_remote(name: str) -> bytes:
    from etils import epath

    try:
        return epath.Path(name).read_bytes()
    except ImportError:
        raise  # Not a fault of this video.
    except Exception as error:  # Each store has errors of its own.
        raise VideoError(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _from_example(name: str, record: bytes) -> Video:
    """The video of a TFDS example: of its byte features the longest list of images, else the largest value."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        features = tf_example_pb2.Example.FromString(record).features.feature
    except DecodeError as error:
        raise VideoError(f"{name}: the record is neither of pack's nor a TFDS example") from error
    values = [list(feature.bytes_list.value) for feature in features.values() if feature.bytes_list.value]
    images = [value for value in values if _image_codec(value[0])]
    if images:
        return _Images(name, tuple(max(images, key=len)))
    if not values:
        raise VideoError(f"{name}: the example holds no video")
    return _Encoded(name, max((value[0] for value in values), key=len))


def _image_codec(content: bytes) -> str | None:
    return next((codec for start, codec in _IMAGES.items() if content.startswith(start)), None)


@dataclass(frozen=True)
class _Encoded:
    """A video file: a path, or its content."""

    name: str
    source: str | bytes

    def probe(self) -> VideoInfo:
        with self._named():
            return decode.probe(self.source)

    def decode(self, indices: Sequence[int] | np.ndarray, info: VideoInfo | None = None) -> np.ndarray:
        with self._named():
            return decode.decode(self.source, indices, info)

    def read_all(self) -> Iterator[np.ndarray]:
        with self._named():
            yield from decode.read_all(self.source)

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
    """A video as a list of image files, of which only those asked for are decoded."""

    name: str
    images: tuple[bytes, ...]

    def probe(self) -> VideoInfo:
        height, width = self._image(0).shape[:2]
        times = np.arange(len(self.images))
        return VideoInfo(times, len(times), Fraction(1, _IMAGE_RATE), times, width, height)

    def decode(self, indices: Sequence[int] | np.ndarray, info: VideoInfo | None = None) -> np.ndarray:
        wanted, order = np.unique(np.asarray(indices, np.int64), return_inverse=True)
        if not len(wanted) or wanted[0] < 0 or wanted[-1] >= len(self.images):
            raise IndexError(f"{self.name}: frames {list(indices)} of a video with {len(self.images)} frames")
        frames = [self._image(index) for index in wanted.tolist()]
        if len({frame.shape for frame in frames}) > 1:
            raise VideoError(f"{self.name}: the frame size changes within the video")
        return np.stack(frames)[order]

    def read_all(self) -> Iterator[np.ndarray]:
        return map(self._image, range(len(self.images)))

    def check(self) -> VideoInfo:
        for _ in self.read_all():
            pass
        return self.probe()

    def describe(self) -> tuple[str, int]:
        return _image_codec(self.images[0]) or "unknown", 0

    def _image(self, index: int) -> np.ndarray:
        image = cv2.imdecode(np.frombuffer(self.images[index], np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise VideoError(f"{self.name}: frame {index} of {len(self.images)} cannot be decoded")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
