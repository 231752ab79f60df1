"""Decoded videos that stay in memory: what fits is decoded once per process, not once per epoch.

Which videos these are does not change what is read: a kept frame is the one that decoding yields.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from wt_jax.data.video.decode import VideoInfo
from wt_jax.data.video.reader import Readable, Reader, find_video
from wt_jax.data.video.yuv420 import Planes, compact
from wt_jax.errors import VideoError

_RGB_BYTES = 3  # per pixel: the most that a frame takes


class VideoCache:
    """Finds videos by name, as `find_video`, and keeps their frames while there is room; for several threads.

    The first videos that fit stay until the end: epochs show all videos equally often, so none is worth more than another. A
    damaged video is not kept, and a file that is replaced later is not read again.

    A copy that is sent to another process is empty, and as large.

    Args:
      gib: GiB of frames to keep; 0: none.
    """

    def __init__(self, gib: float):
        self._gib, self._room = gib, int(gib * 2**30)
        self._kept: dict[str, KeptReader] = {}
        self._refused: set[str] = set()  # those being read for the first time, too
        self._lock = threading.Lock()

    def __reduce__(self):
        return VideoCache, (self._gib,)

    def find(self, name: str) -> Readable:
        """The video of this name.

        Raises:
          VideoError: there is none, or it cannot be read.
        """
        if name in self._kept:
            return _KeptVideo(name, self._kept[name])
        video = find_video(name)
        return video if not self._room or name in self._refused else _NewVideo(name, video, self)

    def keep(self, name: str, reader: Reader) -> Reader | None:
        """Decodes all of a video that has just been opened and keeps it; None, and nothing is read, where there is no room.

        Raises:
          VideoError: a frame cannot be decoded.
        """
        info = reader.info
        most = _RGB_BYTES * info.width * info.height * info.num_frames
        with self._lock:
            if name in self._refused or most > self._room:
                self._refused.add(name)
                return None
            self._refused.add(name)
            self._room -= most
        size = 0
        try:
            found = reader.frames(np.arange(info.num_frames), planes=True)
            pictures = {index: compact(picture) if isinstance(picture, Planes) else picture for index, picture in found}
            size = sum(map(_bytes_of, pictures.values()))
            kept = self._kept[name] = KeptReader(info, pictures)
        finally:
            with self._lock:
                self._room += most - size
        return kept


def _bytes_of(picture: np.ndarray | Planes) -> int:
    return sum(np.asarray(plane).nbytes for plane in picture.planes) if isinstance(picture, Planes) else picture.nbytes


@dataclass(frozen=True)
class KeptReader:
    """A video of which frames are in memory, by their indices, as `wt_jax.data.video.decode.Reader` yields them with planes."""

    info: VideoInfo
    pictures: Mapping[int, np.ndarray | Planes]

    def frames(self, indices: np.ndarray, planes: bool = False) -> Iterator[tuple[int, np.ndarray | Planes]]:
        """As `wt_jax.data.video.reader.Reader.frames`, with `planes` alone; raises ValueError without."""
        if not planes:
            raise ValueError("kept frames are in the form of the decoder; request them with planes=True")
        return ((index, self.pictures[index]) for index in indices.tolist())


@dataclass(frozen=True)
class _KeptVideo:
    """A video whose frames are in memory; its audio track is read from where it lies."""

    name: str
    reader: KeptReader

    def open(self) -> AbstractContextManager[Reader]:
        return nullcontext(self.reader)

    def audio(self, start: Fraction, count: int, rate: int) -> np.ndarray:
        return find_video(self.name).audio(start, count, rate)


@dataclass(frozen=True)
class _NewVideo:
    """A video that is kept when it is opened, if there is room."""

    name: str
    video: Readable
    cache: VideoCache

    @contextmanager
    def open(self) -> Iterator[Reader]:
        with self.video.open() as reader:
            try:
                kept = self.cache.keep(self.name, reader)
            except VideoError:
                pass  # Damaged: the wanted frames may still be readable, of a file that is opened anew.
            else:
                yield kept or reader
                return
        with self.video.open() as reader:
            yield reader

    def audio(self, start: Fraction, count: int, rate: int) -> np.ndarray:
        return self.video.audio(start, count, rate)
