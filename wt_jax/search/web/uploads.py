"""Clips that people drop on the page: counted while they arrive, read in a process with limits, forgotten after a while."""

import collections
import fcntl
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from starlette.concurrency import run_in_threadpool

from wt_jax.search.clips import Windows, chosen_times, phased_times
from wt_jax.search.engine import Engine
from wt_jax.search.exported import VIEW_FIELDS
from wt_jax.search.media import MediaError, MediaPool
from wt_jax.search.web.errors import Refused

_PER_SESSION, _IN_ALL = 8, 64
_FACTS_SECONDS, _CLIPS_SECONDS = 15.0, 30.0
_MOST_SECONDS = 600.0  # of a clip that are encoded for one query
_KEPT_FEATURES = 256
_PREFIX, _LOCK = "wt_jax-clips-", "lock"


@dataclass(frozen=True)
class Clip:
    """An uploaded file: its session, where it lies, and what is in it."""

    session: str
    path: Path
    duration: float


class Uploads:
    """The clips of all sessions; any number of threads may ask. `close` removes them."""

    def __init__(self, engine: Engine, pool: MediaPool, most_bytes: int):
        self._engine, self._pool, self._most_bytes = engine, pool, most_bytes
        _remove_leftovers()
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._held = _locked(self._folder / _LOCK)
        self._clips: collections.OrderedDict[str, Clip] = collections.OrderedDict()
        self._features: collections.OrderedDict[tuple[str, bytes], list[np.ndarray]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Remove all clips."""
        if self._held:
            self._held.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def receive(self, session: str, stream: AsyncIterator[bytes]) -> tuple[str, dict]:
        """Keep the bytes of a request; returns the clip's key and its facts.

        Raises:
          Refused: it is too large, or no video that is read here, or there is no room for it.
        """
        key = secrets.token_urlsafe(12)
        path, count = self._folder / key, 0
        try:
            with path.open("xb") as file:
                async for part in stream:
                    count += len(part)  # what a request declares is not believed
                    if count > self._most_bytes:
                        raise Refused(413, f"The clip is larger than {self._most_bytes >> 20} MiB, the most that is taken.")
                    await run_in_threadpool(file.write, part)
            facts, _ = await run_in_threadpool(self._pool.run, "facts", str(path), seconds=_FACTS_SECONDS)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, MediaError):
                raise Refused(415, f"This clip cannot be used: {error}.") from None
            if isinstance(error, OSError):
                raise Refused(507, "The server has no room for the clip.") from None
            raise
        with self._lock:
            self._clips[key] = Clip(session, path, float(facts["duration"]))
            mine = [name for name, clip in self._clips.items() if clip.session == session]
            for name in mine[:-_PER_SESSION] + list(self._clips)[:-_IN_ALL]:
                if clip := self._clips.pop(name, None):
                    clip.path.unlink(missing_ok=True)
        return key, facts

    def find(self, session: str, key: str) -> Clip:
        """A clip of this session; Refused where there is none."""
        with self._lock:
            clip = self._clips.get(key)
        if clip is None or clip.session != session:
            raise Refused(410, "That clip is not here any more; drop it again.")
        return clip

    def features(self, session: str, key: str, start: float, end: float) -> np.ndarray:
        """Features (n, D) of the windows of a clip between two times; Refused where it cannot be read."""
        (features,) = self._rows(session, key, start, end, lambda *times: [chosen_times(*times)])
        return features

    def phases(self, session: str, key: str, start: float, end: float) -> list[np.ndarray]:
        """Features (n, D) of the rows of windows of `phased_times`; Refused where the clip cannot be read."""
        return self._rows(session, key, start, end, phased_times)

    def _rows(
        self, session: str, key: str, start: float, end: float, rows: Callable[[float, float, Windows], list[np.ndarray]]
    ) -> list[np.ndarray]:
        clip = self.find(session, key)
        end = min(end, clip.duration)
        if not 0 <= start < end or end - start > _MOST_SECONDS:
            raise Refused(400, f"Choose some seconds of the clip, at most {_MOST_SECONDS:.0f}.")
        times = rows(start, end, self._engine.windows)
        place = key, np.concatenate(times).tobytes()
        with self._lock:
            if place in self._features:
                self._features.move_to_end(place)
                return self._features[place]
        clips = read_clips(self._pool, str(clip.path), np.concatenate(times), self._engine.windows)
        features = np.split(self._engine.encode(clips), np.cumsum([len(row) for row in times])[:-1])
        with self._lock:
            self._features[place] = features
            while len(self._features) > _KEPT_FEATURES:
                self._features.popitem(last=False)
        return features


def read_clips(pool: MediaPool, path: str, times: np.ndarray, windows: Windows) -> np.ndarray:
    """Clips of windows, times (n, 2): uint8 (n, clips, T, S, S, 3), read in a process with limits.

    Raises:
      Refused: the file cannot be read there.
    """
    view = {name: getattr(windows.view, name) for name in VIEW_FIELDS}
    division = {"length": windows.length, "every": windows.every, "clips": windows.clips}
    try:
        fields, content = pool.run("clips", path, seconds=_CLIPS_SECONDS, view=view, windows=division, times=times.tolist())
    except MediaError as error:
        raise Refused(415, f"This clip cannot be used: {error}.") from None
    return np.frombuffer(content, np.uint8).reshape(fields["shape"])


def _remove_leftovers() -> None:
    """Remove the clips of servers that were killed: nobody holds the locks of their folders."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError):
            if path.parent.lstat().st_uid == os.getuid() and (lock := _locked(path)):
                shutil.rmtree(path.parent, ignore_errors=True)
                lock.close()


def _locked(path: Path) -> IO[bytes] | None:
    """An open file with a lock that ends with this process; None where another process has it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
