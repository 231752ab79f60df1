"""Packs a data set on one machine, and keeps one pack for all runs that ask for it (`config.data.pack`).

Work is handed out by videos, so that workers are busy alike and an interrupted call loses no more than the videos under way:
the pack of each is a shard of one video, in a hidden folder beside its shard, until that has all of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]  # in C++
from etils import epath

from wt_jax.data.packing import (
    NOTE,
    PackSettings,
    Row,
    Shard,
    draft_of,
    finish,
    list_hash,
    open_writer,
    pack_shard,
    plan_shards,
    publish,
    rows_of_whole,
)
from wt_jax.data.parallel import run_parallel
from wt_jax.data.records import TIME, VideoList
from wt_jax.data.sources.index import INDEX, rows_of
from wt_jax.data.sources.lists import OK
from wt_jax.data.sources.open import open_source
from wt_jax.data.video.reader import is_remote, pack_record, unpack_record
from wt_jax.errors import SourceError, VideoError
from wt_jax.progress import Progress
from wt_jax.specs import Choice, ClipView, View

log = logging.getLogger(__name__)


def short_side_for(views: Iterable[View]) -> int:
    """Pixels of the shorter side of videos that are packed for these views: 8/7 of the largest clip's, and even.

    These are the field's 256 for clips of 224 pixels and 128 for 112.

    Raises:
      ValueError: a view reads what a pack does not keep, such as sound.
    """
    sizes = [16]
    for view in views:
        if not isinstance(view, ClipView | Choice):
            raise ValueError(f"a pack keeps pictures alone, and {type(view).__name__} reads something else")
        sizes += [clip.size for clip in (view.views if isinstance(view, Choice) else (view,))]
    return 2 * math.ceil(max(sizes) * 4 / 7)


def make_pack(videos: VideoList, folder: str, short_side: int, workers: int) -> None:
    """Packs a list into a folder, unless its pack is there; one that is whole stays as it is, however it was made.

    Args:
      videos: the list.
      folder: the folder of the pack.
      short_side: least pixels of the shorter side; larger videos become as small where the pack is made here.
      workers: processes that pack; 0: none but this one.

    Raises:
      SourceError: the list is a mixture or one of moments; the folder has a pack of other or of smaller videos.
      VideoError: a video kills the process that packs it.
    """
    if videos.parts or TIME in videos.columns:
        kind = "a mixture: its parts are packed one by one" if videos.parts else "a list of moments, which repeats videos"
        raise SourceError(f"{folder}: config.data.pack does not pack {kind}; use `wt-jax pack` and train on its folders")
    rows = rows_of(videos)
    settings = _settings(folder, rows, short_side)
    if not (epath.Path(folder) / INDEX).exists():
        pixels = settings.short_side
        log.info("packing %d videos into %s, shorter side %d, once for all runs that name it", len(rows), folder, pixels)
        pack(plan_shards(rows, folder, settings), folder, workers)


def open_pack(videos: VideoList, folder: str, max_bad_fraction: float) -> VideoList:
    """The videos of a list from their pack, without those that are broken.

    Raises:
      SourceError: more than this fraction of the list is broken.
    """
    found = open_source(folder)
    sources = set(found.columns["source"])
    bad = [path for row in rows_of(videos) if (path := str(row["path"])) not in sources]
    if len(bad) > max_bad_fraction * len(videos):
        raise SourceError(
            f"{len(bad)} of {len(videos)} videos cannot be packed, the first: {bad[0]} ({folder}/{INDEX} says why); "
            f"config.data.max_bad_fraction is {max_bad_fraction:g}"
        )
    return found


def _settings(folder: str, rows: list[Row], short_side: int) -> PackSettings:
    """How the folder's pack was or is to be made."""
    note = epath.Path(folder) / NOTE
    if not note.exists():
        return PackSettings(short_side=short_side)
    made = json.loads(note.read_text())
    if made["videos"] != list_hash(rows):
        raise SourceError(f"{folder} holds a pack of other videos; name another folder in config.data.pack")
    if made["short_side"] < short_side:
        raise SourceError(
            f"{folder} holds videos with a shorter side of {made['short_side']} pixels, these clips need {short_side}; "
            "name another folder in config.data.pack"
        )
    return PackSettings(**{field.name: made[field.name] for field in fields(PackSettings)})


def pack(shards: Sequence[Shard], out: str, workers: int = 0) -> list[Row]:
    """Packs shards on this machine and writes the index; returns its rows.

    Args:
      shards: all of `plan_shards`.
      out: their folder.
      workers: processes, each of which packs a video at a time; 0: none but this one.

    Raises:
      VideoError: a video killed its process, or a shard could not be written as it should. What is packed stays, and the next
        call goes on from there.
    """
    with _alone(out), _beside(out) as folder:
        packed = {shard.number: rows for shard in shards if (rows := rows_of_whole(shard)) is not None}
        open_shards = {f"{folder}/.{shard.name}": shard for shard in shards if shard.number not in packed}
        done = {place: _rows_of_parts(shard, place) for place, shard in open_shards.items()}
        parts = [part for place, shard in open_shards.items() for part in _parts(shard, place)]
        left = [part for part in parts if part.number not in done[part.out]]
        count = sum(len(shard.rows) for shard in shards)
        progress = Progress("packed", count, "video", done=count - len(left))
        for part, rows in run_parallel(pack_shard, left, min(workers, len(left))):
            if rows is None:
                path = part.rows[0]["path"]
                raise VideoError(
                    f"{path}: decoding it kills its process; `wt-jax check-videos --decode` makes an index without it"
                )
            done[part.out][part.number] = rows
            progress.advance()
            if len(done[part.out]) == part.count:
                shard = open_shards[part.out]
                packed[shard.number] = _join(shard, part.out, done.pop(part.out))
        for place, rows_of_parts in done.items():  # had all their parts, when a call before this one was killed
            shard = open_shards[place]
            packed[shard.number] = _join(shard, place, rows_of_parts)
        return finish(out, packed)


def _parts(shard: Shard, folder: str) -> list[Shard]:
    """The shard's videos as shards of their own, in a folder."""
    return [Shard(folder, number, len(shard.rows), (row,), shard.settings) for number, row in enumerate(shard.rows)]


def _rows_of_parts(shard: Shard, folder: str) -> dict[int, list[Row]]:
    """The rows of those parts that an earlier call has left."""
    if not Path(folder).is_dir():
        return {}
    return {part.number: rows for part in _parts(shard, folder) if (rows := rows_of_whole(part)) is not None}


def _join(shard: Shard, folder: str, rows_of_parts: Mapping[int, list[Row]]) -> list[Row]:
    """Writes a shard of its parts, which are whole and verified, and removes them; returns its rows.

    Raises:
      VideoError: what was written does not read back as it should.
    """
    entries, hashes = [], []
    with draft_of(shard) as draft:
        writer = open_writer(draft)
        for part in _parts(shard, folder):
            rows = rows_of_parts[part.number]
            good = [row for row in rows if row["status"] == OK]
            entries += [row for row in rows if row["status"] != OK]
            reader = array_record_module.ArrayRecordReader(str(Path(folder) / part.name))
            for place, row in enumerate(good):
                _, info, content = unpack_record(reader.read([place])[0])
                entries.append(row | {"path": f"{shard.name}#{len(hashes)}"})
                record = pack_record(entries[-1], info, content)
                writer.write(record)
                hashes.append(hashlib.sha256(record).digest())
            reader.close()
        writer.close()
        reader = array_record_module.ArrayRecordReader(draft)
        same = reader.num_records() == len(hashes)
        same = same and all(hashlib.sha256(reader.read([i])[0]).digest() == known for i, known in enumerate(hashes))
        reader.close()
        if not same:
            raise VideoError(f"{draft} does not read back as it was written; is the disk full?")
        publish(shard, draft, entries)
    shutil.rmtree(folder)
    return entries


@contextmanager
def _alone(out: str) -> Iterator[None]:
    """Inside, no other process of this machine packs into the folder; waits for one that does."""
    if is_remote(out):
        yield
        return
    handle = os.open(out, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("%s: another process packs into it; waiting until it ends", out)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks
    try:
        for left in Path(out).glob(".clips-*.array_record.*"):  # drafts of a call that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(handle)


@contextmanager
def _beside(out: str) -> Iterator[str]:
    """A folder of this machine for what is not whole yet: the pack's own where that is local, so that a next call finds it."""
    if is_remote(out):
        with tempfile.TemporaryDirectory() as folder:
            yield folder
    else:
        yield out
