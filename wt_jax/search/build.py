"""Fills an index: what is new or has changed is read, what has moved is recognized, what is gone is dropped.

Videos are read by the loader's worker processes in pieces of some moments, encoded in this process, and committed in batches.
Killed at any moment, the same command goes on behind the last commit.
"""

import collections
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from wt_jax.data.parallel import run_parallel
from wt_jax.data.records import VideoList
from wt_jax.data.video.reader import is_remote
from wt_jax.errors import SearchError, VideoError, WorkerError
from wt_jax.progress import Progress
from wt_jax.search.clips import Segments, Windows, content_of, default_windows, moment_times, read_segments, state_of
from wt_jax.search.exported import BATCH, ExportedEncoder, load_exported
from wt_jax.search.store import DATABASE, ENCODER, Failure, Store, VideoEntry, create_store, open_store

log = logging.getLogger(__name__)

_COMMIT_SECONDS, _COMMIT_VIDEOS = 2.0, 512
_PIECE_BYTES = 16 << 20  # of clips
_GROUP = 4096  # videos whose first pieces are read before the rest of the long ones
_NAMED = 10


@dataclass
class Report:
    """What a call of `build` did, in videos."""

    kept: int = 0
    added: int = 0
    changed: int = 0
    moved: int = 0
    deleted: int = 0
    failed: list[Failure] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        counts = {"added": self.added, "changed": self.changed, "moved": self.moved, "deleted": self.deleted}
        text = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "nothing new"
        lines = [f"{text}; {self.kept:,} unchanged; {len(self.failed):,} could not be indexed"]
        lines += [f"  {failure.path}: {failure.reason}" for failure in self.failed[:_NAMED]]
        if len(self.failed) > _NAMED:
            lines.append(f"  and {len(self.failed) - _NAMED:,} more, which the page names")
        return lines


@dataclass(frozen=True)
class _Plan:
    """What to do: entries to read, to update, to delete."""

    read: list[VideoEntry]
    update: list[VideoEntry]
    delete: list[int]
    delete_failures: list[str]
    report: Report


def build(
    store: Store,
    videos: VideoList,
    encoder: ExportedEncoder,
    windows: Windows,
    *,
    workers: int = 0,
    threads: int = 2,
    retry: bool = False,
) -> Report:
    """Bring an index up to date with a list of videos. The caller holds `store.lock()`.

    Args:
      store: the index.
      videos: all that it shall hold; what it holds beyond is dropped.
      encoder: must be the index's own.
      windows: as the index was made with.
      workers, threads: of the loader.
      retry: read again what could not be read, even where the file has not changed.

    Raises:
      SearchError: the index was made by another encoder, or the disk is full.
    """
    check_encoder(store.folder, encoder, store.settings()["fingerprint"])
    plan = _plan(store, videos, retry)
    # In this order: what has moved may now be where another was.
    if plan.delete or plan.delete_failures:
        store.delete(plan.delete, plan.delete_failures)
    if plan.update:
        store.update(plan.update)
    report, progress = plan.report, Progress("indexed", len(plan.read), "video")
    known = {entry.path for entry in store.videos()}
    ready: list[tuple[VideoEntry, np.ndarray, np.ndarray]] = []
    failed: list[Failure] = []
    last = time.monotonic()

    def commit() -> None:
        if ready:
            store.add(ready)
        if failed:
            store.fail(failed)
        report.failed.extend(failed)
        ready.clear()
        failed.clear()

    for result in encoded_videos(plan.read, encoder, windows, workers, threads):
        if isinstance(result, Failure):
            failed.append(result)
            log.warning("not indexed: %s: %s", result.path, result.reason)
        else:
            ready.append(result)
            if result[0].path in known:
                report.changed += 1
            else:
                report.added += 1
        if time.monotonic() - last > _COMMIT_SECONDS or len(ready) >= _COMMIT_VIDEOS:
            commit()
            last = time.monotonic()
        progress.advance(note=f"{len(report.failed) + len(failed):,} failed")
    commit()
    store.compact()
    return report


def _plan(store: Store, videos: VideoList, retry: bool) -> _Plan:
    stored = {entry.path: entry for entry in store.videos()}
    failures = {failure.path: failure for failure in store.failures()}
    wanted = entries_of(videos)
    report, read, update, fresh = Report(), [], [], []
    for path, entry in wanted.items():
        try:
            state = state_of(path)
        except VideoError:
            state = "missing"  # reading it tells why
        known = stored.get(path)
        if known and known.state == state:
            report.kept += 1
            if (known.label, dict(known.columns)) != (entry.label, dict(entry.columns)):
                update.append(replace(known, label=entry.label, columns=entry.columns))
        elif path in failures and failures[path].state == state and state != "missing" and not retry:
            report.failed.append(failures[path])
        else:
            fresh.append(replace(entry, state=state))
    missing = {path: entry for path, entry in stored.items() if path not in wanted}
    by_size: dict[str, list[VideoEntry]] = {}
    for entry in missing.values():
        by_size.setdefault(_size(entry.state), []).append(entry)
    for entry in fresh:
        found = _moved_from(entry, by_size)
        if found is None:
            read.append(entry)
            continue
        by_size[_size(found.state)].remove(found)
        del missing[found.path]
        report.moved += 1
        update.append(replace(found, path=entry.path, state=entry.state, label=entry.label, columns=entry.columns))
    taken = [stored[entry.path].id for entry in update if entry.path in stored and stored[entry.path].id != entry.id]
    report.deleted = len(missing)
    delete = [entry.id for entry in missing.values()] + taken
    # A path whose old content has moved elsewhere is deleted with its own row; what moved there keeps its moments.
    return _Plan(read, update, delete, [path for path in failures if path not in wanted], report)


def _moved_from(entry: VideoEntry, by_size: dict[str, list[VideoEntry]]) -> VideoEntry | None:
    """The stored video of the same content that is no longer where it was."""
    candidates = by_size.get(_size(entry.state), [])
    if not candidates:
        return None
    try:
        content = content_of(entry.path)
    except VideoError:
        return None
    return next((candidate for candidate in candidates if content and candidate.content == content), None)


def _size(state: str) -> str:
    return state.partition(":")[0]


def entries_of(videos: VideoList) -> dict[str, VideoEntry]:
    """What is known of the videos of a list before they are read, by path."""
    entries = {}
    for place, record in enumerate(videos):
        path = record.path if is_remote(record.path) else os.path.abspath(record.path)
        label = videos.classes[record.label] if record.label >= 0 else ""
        columns = {name: values[place] for name, values in videos.columns.items()}
        entries[path] = VideoEntry(path, "", "", 0.0, label, columns)
    return entries


def encoded_videos(
    entries: Sequence[VideoEntry], encoder: ExportedEncoder, windows: Windows, workers: int, threads: int
) -> Iterator[tuple[VideoEntry, np.ndarray, np.ndarray] | Failure]:
    """Each entry with its features and times, or its failure, in the order in which they are complete."""
    most = moments_per_piece(windows)
    for start in range(0, len(entries), _GROUP):
        group = entries[start : start + _GROUP]
        partial: list[tuple[VideoEntry, list[np.ndarray], int]] = []
        first = _encoded([(entry.path, 0) for entry in group], encoder, windows, most, workers, threads)
        for entry, (found, features) in zip(group, first, strict=True):
            if failure := _failure(entry, found):
                yield failure
                continue
            entry = replace(entry, state=found["state"], content=found["content"], duration=found["duration"])
            if len(features) == found["total"]:
                yield entry, features, moment_times(entry.duration, windows)
            else:
                partial.append((entry, [features], found["total"]))
        work = [(entry.path, place) for entry, _, total in partial for place in range(most, total, most)]
        rest = _encoded(work, encoder, windows, most, workers, threads)
        for entry, parts, total in partial:
            failure = None
            for _ in range(most, total, most):
                found, features = next(rest)
                failure = failure or _failure(entry, found)
                parts.append(features)
            yield failure or (entry, np.concatenate(parts), moment_times(entry.duration, windows))


def moments_per_piece(windows: Windows) -> int:
    """How many moments of a video a worker reads at once."""
    view = windows.view
    bytes_each = windows.clips * view.num_frames * view.size * view.size * 3
    return int(np.clip(_PIECE_BYTES // bytes_each, 4, 256))


def _failure(entry: VideoEntry, found: dict) -> Failure | None:
    """Why a piece of a video cannot be kept; `entry.duration` is 0 until its first piece is read."""
    if "reason" in found:
        return Failure(entry.path, entry.state, str(found["reason"]))
    before = entry.state if entry.duration else found["state"]
    if not before == found["state"] == found["state_after"]:
        return Failure(entry.path, "", "the file changed while it was read; the next call reads it again")
    return None


def _encoded(
    work: list[tuple[str, int]], encoder: ExportedEncoder, windows: Windows, most: int, workers: int, threads: int
) -> Iterator[tuple[dict, np.ndarray]]:
    """What was read of each piece of work, and the features (n, D) of its moments, in order.

    Clips of several pieces fill a batch: one call per piece would mostly encode padding where videos are short.
    """
    waiting: collections.deque[tuple[dict, int]] = collections.deque()
    clips: list[np.ndarray] = []
    features, num_clips = np.zeros((0, encoder.facts.dim), np.float32), 0

    def encode(count: int) -> None:
        nonlocal clips, features, num_clips
        joined = np.concatenate(clips)
        features = np.concatenate([features, encoder(joined[:count])])
        clips, num_clips = [joined[count:]], num_clips - count

    def complete() -> Iterator[tuple[dict, np.ndarray]]:
        nonlocal features
        while waiting and waiting[0][1] * windows.clips <= len(features):
            found, count = waiting.popleft()
            rows, features = np.split(features, [count * windows.clips])
            yield found, rows.reshape(count, windows.clips, encoder.facts.dim).mean(axis=1)

    for found in _pieces(work, windows, most, workers, threads):
        read = found.pop("clips", np.zeros((0, 0, 0, 0, 0, 0), np.uint8))
        waiting.append((found, len(read)))
        if len(read):
            clips.append(read.reshape(-1, *read.shape[2:]))
            num_clips += len(clips[-1])
        if num_clips >= BATCH:
            encode(num_clips // BATCH * BATCH)
        yield from complete()
    if num_clips:
        encode(num_clips)
    yield from complete()


def _pieces(work: list[tuple[str, int]], windows: Windows, most: int, workers: int, threads: int) -> Iterator[dict]:
    """The pieces in order. Where worker processes die again and again, those under way are tried one by one, each alone."""
    done = 0
    while done < len(work):
        try:
            for found in read_segments(work[done:], windows, most, min(workers, len(work) - done), threads):
                done += 1
                yield found
        except WorkerError:
            suspects = list(range(done, min(done + max(workers, 1) * (threads + 2), len(work))))
            results = dict(run_parallel(Segments(work, windows, most), suspects, 1))
            for place in suspects:
                done += 1
                yield results[place] or {"reason": "decoding it killed a worker process"}


@contextmanager
def opened_for_writing(
    folder: Path,
    export: Callable[[Path], None],
    named: bool,
    source: str,
    roots: Sequence[str],
    *,
    length: float = 0.0,
    every: float = 0.0,
) -> Iterator[tuple[Store, ExportedEncoder, Windows]]:
    """The index in a folder, locked for writing and made where there is none; with its encoder and windows.

    Args:
      folder: of the index.
      export: writes the encoder that is asked for to a file.
      named: whether one is asked for; if not, an index keeps its own.
      source: where the videos come from, for people.
      roots: see `roots_of`.
      length, every: seconds, see `default_windows`; 0 leaves an index's own.

    Raises:
      SearchError: they contradict those that the index was made with, or another process writes to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ENCODER
    fresh = not (folder / DATABASE).exists()
    if fresh:
        export(file)
        encoder = load_exported(file)
        windows = default_windows(encoder.facts.view, length, every)
        create_store(folder, encoder.facts.dim, _settings(encoder, windows, source, roots))
    with open_store(folder) as store, store.lock():
        settings = store.settings()
        if named and not fresh:
            draft = folder / f".given-{ENCODER}"
            try:
                export(draft)
                check_encoder(folder, load_exported(draft), settings["fingerprint"])
            finally:
                draft.unlink(missing_ok=True)
        encoder = load_exported(file)
        windows = windows_of(settings, encoder)
        for name, wanted in {"length": length, "every": every}.items():
            if wanted and wanted != settings[name]:
                raise SearchError(f"{folder} was made with --{name}={settings[name]:g}; keep that, or make another --index")
        if roots != settings["roots"]:
            store.set_setting("roots", list(roots))
        yield store, encoder, windows


def check_encoder(folder: Path, encoder: ExportedEncoder, made_by: str) -> None:
    """Raises SearchError unless an encoder is the one that an index was made by."""
    if made_by != encoder.facts.fingerprint:
        raise SearchError(
            f"{folder} was made by another encoder (the hash of its weights is {made_by[:12]}, here it is "
            f"{encoder.facts.fingerprint[:12]}); give its own, or make another --index"
        )


def _settings(encoder: ExportedEncoder, windows: Windows, source: str, roots: Sequence[str]) -> dict[str, object]:
    """What an index keeps of how it was made; `windows_of` reads it."""
    return {
        "fingerprint": encoder.facts.fingerprint,
        "length": windows.length,
        "every": windows.every,
        "clips": windows.clips,
        "source": source,
        "roots": list(roots),
    }


def windows_of(settings: dict[str, Any], encoder: ExportedEncoder) -> Windows:
    """How the videos of an index are divided."""
    return Windows(encoder.facts.view, settings["length"], settings["every"], settings["clips"])


def roots_of(location: str, videos: VideoList, root: str = "") -> list[str]:
    """The folders that the videos may be read from: the source itself, or the nearest folder that holds all it lists."""
    local = [os.path.abspath(path) for path in videos.paths if not is_remote(path)]
    if not local:
        return []
    if Path(location).is_dir():
        return [os.path.abspath(location)]
    return [os.path.commonpath([os.path.dirname(path) for path in local])]
