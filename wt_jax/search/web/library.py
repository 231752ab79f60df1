"""The videos of an index as the page may show them: by ids, with names below their roots, and never a path."""

import collections
import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from wt_jax.data.video.reader import file_of, is_remote
from wt_jax.errors import VideoError
from wt_jax.files import write_atomic
from wt_jax.search.clips import state_of
from wt_jax.search.media import MediaError, MediaPool
from wt_jax.search.store import CACHE, Snapshot, VideoEntry
from wt_jax.search.web.errors import Refused

log = logging.getLogger(__name__)

_THUMB_SECONDS, _FACTS_SECONDS = 20.0, 20.0
_KEPT_TROUBLE = 100
_LEAST_FREE = 16 << 20  # bytes of the disk of the index


class Library:
    """Names, files and thumbnails of videos; any number of threads may ask."""

    def __init__(self, folder: Path, pool: MediaPool, cache_bytes: int):
        self._pool, self._cache = pool, _Cache(folder / CACHE, cache_bytes)
        self._facts: dict[tuple[str, str], dict] = {}
        self._lock = threading.Lock()
        self._trouble: collections.OrderedDict[str, str] = collections.OrderedDict()
        self._folder, self._disk = folder, ""

    def name(self, video: VideoEntry, snapshot: Snapshot) -> str:
        """Its path below the root that holds it, or its file name; text that any encoding takes."""
        return name_below(video.path, snapshot.settings["roots"])

    def file(self, video: VideoEntry, snapshot: Snapshot) -> str:
        """What to open for a video.

        Raises:
          Refused: its file is gone, has changed since it was indexed, or lies outside the roots, through a link for one.
        """
        if is_remote(video.path):
            return video.path
        real = os.path.realpath(file_of(video.path))
        if not any(real.startswith(os.path.realpath(root).rstrip("/") + "/") for root in snapshot.settings["roots"]):
            self._note(video, snapshot, "it lies outside the folders that are served")
            raise Refused(404, "This video lies outside the folders that are served.")
        try:
            state = state_of(video.path)
        except VideoError:
            self._note(video, snapshot, "the file is gone")
            raise Refused(404, "The file of this video is gone; index the archive again.") from None
        if state != video.state:
            self._note(video, snapshot, "the file has changed since it was indexed")
            raise Refused(409, "The file of this video has changed since it was indexed; index the archive again.")
        return real + video.path[len(file_of(video.path)) :]

    def facts(self, video: VideoEntry, snapshot: Snapshot) -> dict:
        """See `wt_jax.search.media_worker.facts`; Refused where it cannot be read."""
        key = video.path, video.state
        if key not in self._facts:
            try:
                found, _ = self._pool.run("facts", self.file(video, snapshot), seconds=_FACTS_SECONDS)
            except MediaError as error:
                self._note(video, snapshot, str(error))
                raise Refused(404, "This video cannot be read.") from None
            with self._lock:
                if len(self._facts) > 4096:
                    self._facts.clear()
                self._facts[key] = found
        return self._facts[key]

    def thumbnail(self, video: VideoEntry, snapshot: Snapshot, start: float, end: float) -> bytes:
        """A small moving picture of these seconds: an MP4 file; Refused where it cannot be made."""
        path = self.file(video, snapshot)
        key = hashlib.sha256(f"{video.content or video.path} {video.state} {start:.3f} {end:.3f}".encode(errors="replace"))
        name = key.hexdigest()[:32] + ".mp4"
        content = self._cache.read(name)
        if content is None:
            try:
                _, content = self._pool.run("thumb", path, seconds=_THUMB_SECONDS, start=start, end=end)
            except MediaError as error:
                self._note(video, snapshot, str(error))
                raise Refused(404, "No picture can be made of this moment.") from None
            self._cache.write(name, content)
        return content

    def trouble(self) -> list[tuple[str, str]]:
        """What could not be shown or kept, and why, the newest first."""
        with self._lock:
            found = list(reversed(self._trouble.items()))
        general = {"the disk of the index": self._disk, "the cache of thumbnails": self._cache.fault}
        return [(name, fault) for name, fault in general.items() if fault] + found

    def check_disk(self) -> None:
        """Note in the log and for the page when the disk of the index becomes full, or has room again."""
        free = shutil.disk_usage(self._folder).free
        left = f"it is full ({free >> 20} MiB are left): nothing more can be indexed until there is room"
        fault = left if free < _LEAST_FREE else ""
        if bool(fault) != bool(self._disk):
            log.warning("the disk of the index: %s", fault or "there is room again")
        self._disk = fault

    def _note(self, video: VideoEntry, snapshot: Snapshot, reason: str) -> None:
        name = self.name(video, snapshot)
        with self._lock:
            if self._trouble.get(name) == reason:
                return
            self._trouble[name] = reason
            self._trouble.move_to_end(name)
            while len(self._trouble) > _KEPT_TROUBLE:
                self._trouble.popitem(last=False)
        log.warning("%s: %s", printable(video.path), reason)


class _Cache:
    """Files in a folder, no more bytes than a bound; those not read for the longest go first."""

    def __init__(self, folder: Path, most: int):
        self._folder, self._most, self._lock = folder, most, threading.Lock()
        self._sizes: collections.OrderedDict[str, int] = collections.OrderedDict()
        self.fault = ""
        try:
            folder.mkdir(exist_ok=True)
            found = [(path.stat().st_mtime, path.name, path.stat().st_size) for path in folder.glob("*.mp4")]
        except OSError as error:
            found = []
            self._failed(error)
        for _, name, size in sorted(found):
            self._sizes[name] = size
        self._bound()

    def read(self, name: str) -> bytes | None:
        with self._lock:
            if name not in self._sizes:
                return None
            self._sizes.move_to_end(name)
        try:
            return (self._folder / name).read_bytes()
        except OSError:
            with self._lock:
                self._sizes.pop(name, None)
            return None

    def write(self, name: str, content: bytes) -> None:
        try:
            write_atomic(self._folder / name, content, shared=True)
        except OSError as error:  # a full disk: the page does without
            self._failed(error)
            return
        self.fault = ""
        with self._lock:
            self._sizes[name] = len(content)
        self._bound()

    def _bound(self) -> None:
        with self._lock:
            total = sum(self._sizes.values())
            while total > self._most and self._sizes:
                name, size = self._sizes.popitem(last=False)
                total -= size
                (self._folder / name).unlink(missing_ok=True)

    def _failed(self, error: OSError) -> None:
        if not self.fault:
            log.warning("thumbnails are not kept: %s", error)
        self.fault = f"thumbnails cannot be kept: {error.strerror}"


def name_below(path: str, roots: Sequence[str]) -> str:
    """What people see of a path: what comes after the root that holds it, else the file's name."""
    for root in roots:
        if path.startswith(root.rstrip("/") + "/"):
            return printable(path[len(root.rstrip("/")) + 1 :])
    return printable(os.path.basename(path))


def printable(path: str) -> str:
    """A path as text: bytes that are no UTF-8 become a sign for that."""
    return os.fsencode(path).decode("utf-8", "replace")
