"""An index on disk: the truth in SQLite, the features in a file that only grows.

    index.sqlite   settings; videos with their state, content and columns; the moments of each; failures
    features-N.f32 one row of D float32 per moment, N rises when dead rows are dropped
    encoder.wtx    the exported encoder, see `wt_jax.search.exported`
    cache/         thumbnails, of the page

A batch is first written behind the committed rows of the file, which is then synced, and only then committed to SQLite: what is
committed is always whole, what a killed process left behind is written over by the next. A moment is named by its row. Rows of
deleted videos are dead until `compact` drops them. One process writes at a time; any number read, each from a snapshot.

SQLite's log needs a local disk: not a network file system.
"""

import errno
import fcntl
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wt_jax.errors import SearchError
from wt_jax.files import atomic_path

DATABASE, ENCODER, CACHE = "index.sqlite", "encoder.wtx", "cache"
FORMAT = 1
_LEAST_DEAD = 1024  # rows that are worth a rewriting
_LEAST_FREE = 1 << 20  # bytes that SQLite needs to open a file

_SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE videos (
  id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL UNIQUE, state TEXT NOT NULL, content TEXT NOT NULL,
  duration REAL NOT NULL, label TEXT NOT NULL, added REAL NOT NULL
);
CREATE TABLE moments (
  video INTEGER PRIMARY KEY REFERENCES videos ON DELETE CASCADE,
  first INTEGER NOT NULL, count INTEGER NOT NULL, times BLOB NOT NULL
);
CREATE TABLE columns (
  video INTEGER NOT NULL REFERENCES videos ON DELETE CASCADE, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (video, name)
) WITHOUT ROWID;
CREATE TABLE failures (path BLOB PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class VideoEntry:
    """One indexed video.

    Attributes:
      path: as the source names it, absolute where it is local.
      state: size and time of change, see `wt_jax.search.clips.state_of`.
      content: hash by which it is recognized after a move.
      duration: seconds.
      label: name of its class; empty without one.
      columns: further columns of a CSV list.
      id: its row; 0 for one that is not stored yet.
    """

    path: str
    state: str
    content: str
    duration: float
    label: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    id: int = 0


@dataclass(frozen=True)
class Failure:
    """A video that is not in the index, and why; `state` is that of the file then, empty where there was none."""

    path: str
    state: str
    reason: str
    at: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """What was committed at one time.

    Attributes:
      version: grows with every commit.
      settings: the index's own.
      videos: by id.
      failures: what could not be indexed.
      rows: (N,) int64, increasing: the live moments.
      video_ids: (N,) int32, whose they are.
      times: (N, 2) float32, start and end in seconds.
      features: (rows in the file, D) float32, mapped from disk; dead rows too.
    """

    version: int
    settings: Mapping[str, Any]
    videos: Mapping[int, VideoEntry]
    failures: tuple[Failure, ...]
    rows: np.ndarray
    video_ids: np.ndarray
    times: np.ndarray
    features: np.ndarray


class Store:
    """An open index. `create_store` and `open_store` make it; close it after use."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._db = _connect(folder)
        self._dim = int(self.settings()["dim"])

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def settings(self) -> dict[str, Any]:
        """All settings by name."""
        return {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM settings")}

    def set_setting(self, name: str, value: Any) -> None:
        """Keep a setting, in a commit of its own."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, json.dumps(value)))

    def version(self) -> int:
        """Grows with every commit of this process or another."""
        return int(self._db.execute("SELECT value FROM settings WHERE name = 'version'").fetchone()[0])

    def videos(self) -> list[VideoEntry]:
        """All indexed videos, by id."""
        columns: dict[int, dict[str, str]] = {}
        for video, name, value in self._db.execute("SELECT video, name, value FROM columns"):
            columns.setdefault(video, {})[name] = value
        query = "SELECT path, state, content, duration, label, id FROM videos ORDER BY id"
        return [
            VideoEntry(os.fsdecode(path), state, content, duration, label, columns.get(video, {}), video)
            for path, state, content, duration, label, video in self._db.execute(query)
        ]

    def failures(self) -> list[Failure]:
        """Videos that could not be indexed, by path."""
        query = self._db.execute("SELECT path, state, reason, at FROM failures ORDER BY path")
        return [Failure(os.fsdecode(path), *rest) for path, *rest in query]

    def num_videos(self) -> int:
        """Videos in the index."""
        return self._db.execute("SELECT COUNT(*) FROM videos").fetchone()[0]

    def num_moments(self) -> int:
        """Live moments."""
        return self._db.execute("SELECT COALESCE(SUM(count), 0) FROM moments").fetchone()[0]

    def num_rows(self) -> int:
        """Rows of the file of features that are committed, dead ones too."""
        return int(self._setting("rows"))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the right to write.

        Raises:
          SearchError: another process has it.
        """
        with (self.folder / "writer.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SearchError(f"{self.folder}: another process is writing this index; wait until it is done") from None
            yield

    def add(self, entries: Sequence[tuple[VideoEntry, np.ndarray, np.ndarray]]) -> None:
        """Commit videos with their moments; one that is there already, by its path, is replaced.

        Args:
          entries: each a video, its features (n, D) float32, and start and end of each moment (n, 2) float32.

        Raises:
          SearchError: the disk is full or cannot be written; nothing of this batch is committed, all before it stays.
        """
        first = self.num_rows()
        rows = np.concatenate([features for _, features, _ in entries]) if entries else np.zeros((0, self._dim))
        rows = np.ascontiguousarray(rows, "<f4")
        if rows.shape[1:] != (self._dim,):
            raise ValueError(f"features have shape {rows.shape}, the index holds {self._dim} numbers per moment")
        with self._disk_faults():
            _append(self._features_path(), first * self._dim * 4, rows)
        with self._writing():
            now = time.time()
            for entry, features, times in entries:
                self._db.execute("DELETE FROM videos WHERE path = ?", (os.fsencode(entry.path),))
                values = os.fsencode(entry.path), entry.state, entry.content, entry.duration, entry.label, now
                fields = "(path, state, content, duration, label, added)"
                video = self._db.execute(f"INSERT INTO videos {fields} VALUES (?, ?, ?, ?, ?, ?)", values).lastrowid
                assert video is not None  # a row was inserted
                self._set_columns(video, entry.columns)
                times = np.ascontiguousarray(times, "<f4").tobytes()
                self._db.execute("INSERT INTO moments VALUES (?, ?, ?, ?)", (video, first, len(features), times))
                self._db.execute("DELETE FROM failures WHERE path = ?", (os.fsencode(entry.path),))
                first += len(features)
            self._set("rows", first)

    def fail(self, failures: Sequence[Failure]) -> None:
        """Commit failures; what these paths held before goes."""
        with self._writing():
            for failure in failures:
                path = os.fsencode(failure.path)
                self._db.execute("DELETE FROM videos WHERE path = ?", (path,))
                self._db.execute(
                    "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)", (path, failure.state, failure.reason, time.time())
                )

    def update(self, entries: Sequence[VideoEntry]) -> None:
        """Commit a new path, state, label or columns of stored videos; their moments stay."""
        with self._writing():
            # By way of names that no file has, as two videos may have changed places.
            for entry in entries:
                self._db.execute("UPDATE videos SET path = ? WHERE id = ?", (b"\0%d" % entry.id, entry.id))
            for entry in entries:
                self._db.execute(
                    "UPDATE videos SET path = ?, state = ?, label = ? WHERE id = ?",
                    (os.fsencode(entry.path), entry.state, entry.label, entry.id),
                )
                self._db.execute("DELETE FROM columns WHERE video = ?", (entry.id,))
                self._set_columns(entry.id, entry.columns)

    def delete(self, ids: Sequence[int], failed_paths: Sequence[str] = ()) -> None:
        """Commit that these videos, and the failures of these paths, are no longer of the index."""
        with self._writing():
            self._db.executemany("DELETE FROM videos WHERE id = ?", [(video,) for video in ids])
            self._db.executemany("DELETE FROM failures WHERE path = ?", [(os.fsencode(path),) for path in failed_paths])

    def compact(self) -> bool:
        """Drop dead rows where they are more than the live ones; moments get new names then. Returns whether it did."""
        rows = self.num_rows()
        live = self.num_moments()
        if rows - live < max(live, _LEAST_DEAD):
            return False
        before = self._features_path()
        generation = self._setting("generation") + 1
        after, old = self.folder / f"features-{generation}.f32", _mapped(before, rows, self._dim)
        runs, first = [], 0
        with self._disk_faults(), after.open("wb") as file:
            for video, start, count in self._db.execute("SELECT video, first, count FROM moments ORDER BY first").fetchall():
                file.write(np.ascontiguousarray(old[start : start + count]).data)
                runs.append((first, video))
                first += count
            file.flush()
            os.fsync(file.fileno())
            _sync_folder(self.folder)
        with self._writing():
            self._db.executemany("UPDATE moments SET first = ? WHERE video = ?", runs)
            self._set("rows", first)
            self._set("generation", generation)
        before.unlink(missing_ok=True)  # who has it open reads on
        return True

    def snapshot(self) -> Snapshot:
        """What is committed now, consistent whatever other processes write."""
        self._db.execute("BEGIN")
        try:
            settings = self.settings()
            rows = int(settings["rows"])
            videos = {entry.id: entry for entry in self.videos()}
            failures = tuple(self.failures())
            runs = self._db.execute("SELECT video, first, count, times FROM moments ORDER BY first").fetchall()
            features = _mapped(self._features_path(), rows, self._dim)
        finally:
            self._db.execute("COMMIT")
        counts = np.array([run[2] for run in runs], np.int64)
        starts = np.array([run[1] for run in runs], np.int64)
        offsets = np.cumsum(counts) - counts
        live = np.repeat(starts - offsets, counts) + np.arange(counts.sum())
        times = np.frombuffer(b"".join(run[3] for run in runs), "<f4").reshape(-1, 2)
        ids = np.repeat(np.array([run[0] for run in runs], np.int32), counts)
        return Snapshot(int(settings["version"]), settings, videos, failures, live, ids, times, features)

    def _features_path(self) -> Path:
        return self.folder / f"features-{self._setting('generation')}.f32"

    def _setting(self, name: str) -> Any:
        return json.loads(self._db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()[0])

    def _set(self, name: str, value: Any) -> None:
        self._db.execute("UPDATE settings SET value = ? WHERE name = ?", (json.dumps(value), name))

    def _set_columns(self, video: int, columns: Mapping[str, str]) -> None:
        rows = [(video, name, value) for name, value in columns.items()]
        self._db.executemany("INSERT INTO columns VALUES (?, ?, ?)", rows)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction, which also raises the version."""
        with self._disk_faults():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("UPDATE settings SET value = CAST(value AS INTEGER) + 1 WHERE name = 'version'")
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _disk_faults(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            full = getattr(error, "errno", None) == errno.ENOSPC or "disk is full" in str(error)
            reason = "the disk is full; make room" if full else f"it cannot be written ({error}); mend that"
            raise SearchError(f"{self.folder}: {reason}. What is indexed is kept, and the same command goes on") from None


def create_store(folder: Path, dim: int, settings: Mapping[str, Any]) -> None:
    """Make an empty index; `settings` are kept beside `dim`.

    Raises:
      SearchError: there is one already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / DATABASE).exists():
        raise SearchError(f"{folder} holds an index already")
    own = {"format": FORMAT, "version": 1, "dim": dim, "rows": 0, "generation": 0}
    with atomic_path(folder / DATABASE, sync=True) as draft:
        draft.unlink(missing_ok=True)  # left by a kill
        with sqlite3.connect(draft) as db:
            db.executescript(_SCHEMA)
            db.executemany("INSERT INTO settings VALUES (?, ?)", [(k, json.dumps(v)) for k, v in {**settings, **own}.items()])
        db.close()
    _sync_folder(folder)


def open_store(folder: Path) -> Store:
    """Open an index.

    Raises:
      SearchError: there is none, it is damaged, or it is of another version.
    """
    if not (folder / DATABASE).exists():
        raise SearchError(f"{folder} holds no index; make one: wt-jax search-index VIDEOS --index={folder}")
    try:
        store = Store(folder)
        settings = store.settings()
        if settings["format"] != FORMAT:
            raise SearchError(f"{folder} has format {settings['format']}, this version reads {FORMAT}; index it anew")
        _mapped(store._features_path(), settings["rows"], settings["dim"])
    except sqlite3.OperationalError as error:  # the file is whole, as far as is known
        reason = "its disk is full; make room" if shutil.disk_usage(folder).free < _LEAST_FREE else f"{error}; mend that"
        raise SearchError(f"{folder}: the index cannot be read now: {reason}. Nothing of it is lost") from None
    except (sqlite3.DatabaseError, KeyError) as error:
        raise SearchError(f"{folder}: the index is damaged ({error}); remove the folder and index anew") from None
    return store


def _connect(folder: Path) -> sqlite3.Connection:
    db = sqlite3.connect(folder / DATABASE, timeout=30, isolation_level=None, check_same_thread=False)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        db.execute(f"PRAGMA {pragma}")
    return db


def _sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _append(path: Path, offset: int, rows: np.ndarray) -> None:
    """Write rows at an offset in bytes, over what may be there, and sync them."""
    fresh = not path.exists()
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        file.truncate(offset)
        file.seek(offset)
        file.write(rows.data)
        file.flush()
        os.fsync(file.fileno())
    if fresh:
        _sync_folder(path.parent)


def _mapped(path: Path, rows: int, dim: int) -> np.ndarray:
    """The committed rows of a file of features, read-only.

    Raises:
      SearchError: the file is shorter than that.
    """
    if not rows:
        return np.zeros((0, dim), np.float32)
    if not path.exists() or path.stat().st_size < rows * dim * 4:
        raise SearchError(f"{path} is shorter than the index says: it was damaged; remove the folder and index anew")
    return np.memmap(path, "<f4", "r", shape=(rows, dim))
