"""Packs videos into ArrayRecord shards: encoded anew once, small and with short groups of pictures, so that any frame is near.

What goes into a shard is a function of the list and the settings (its bytes are not: the encoder is not exactly repeatable).
It is written under another name, read back frame by frame and only then renamed: a shard that is there is whole. Each record
is a line of JSON, with what the index says of the clip, and an MP4 file.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]  # in C++
from etils import epath

from wt_jax.data.sources.index import INDEX, broken, facts_of, with_facts, write_index
from wt_jax.data.sources.lists import OK
from wt_jax.data.video import decode
from wt_jax.data.video.decode import VideoInfo
from wt_jax.data.video.reader import find_video, is_remote, pack_record, unpack_record
from wt_jax.errors import SourceError, VideoError

NOTE = "pack.json"  # settings of a pack, and which list it is of

Row = dict[str, Any]


@dataclass(frozen=True)
class PackSettings:
    """How videos are packed.

    Attributes:
      short_side: pixels of the shorter side; smaller videos keep their size. Sides are made even.
      gop: frames from one key frame to the next.
      seconds: longest clip; a longer video becomes several clips of about equal numbers of frames, which differ in length
        where the frame rate does. 0: videos stay whole.
      crf: x264's constant rate factor, 0 (lossless) to 51; lower is better and larger.
      per_shard: videos of the list in one shard.
    """

    short_side: int = 256
    gop: int = 16
    seconds: float = 0.0
    crf: int = 23
    per_shard: int = 64

    def __post_init__(self):
        for name, least in {"short_side": 16, "gop": 1, "seconds": 0, "crf": 0, "per_shard": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if self.crf > 51:
            raise ValueError(f"crf must be 51 or less, got {self.crf}")


@dataclass(frozen=True)
class Shard:
    """One piece of work: the rows of the list that go into shard `number` of `count`, in folder `out`."""

    out: str
    number: int
    count: int
    rows: tuple[Row, ...]
    settings: PackSettings

    @property
    def name(self) -> str:
        """The file name of the shard."""
        return f"clips-{self.number:05d}-of-{self.count:05d}.array_record"


def list_hash(rows: list[Row]) -> str:
    """What distinguishes a list from others: videos, labels, columns and their order."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def plan_shards(rows: list[Row], out: str, settings: PackSettings) -> list[Shard]:
    """Shares the rows of a list out over shards, in order, and prepares the folder.

    Raises:
      SourceError: the folder holds the pack of another list or of other settings.
    """
    folder = epath.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    identity = asdict(settings) | {"videos": list_hash(rows)}
    note = folder / NOTE
    if note.exists():
        before = json.loads(note.read_text())
        changed = [name for name in identity if before.get(name) != identity[name]]
        if changed:
            raise SourceError(f"{out} holds a pack with other {', '.join(changed)}; give an empty folder")
    note.write_text(json.dumps(identity, indent=1))
    size = settings.per_shard
    count = math.ceil(len(rows) / size)
    return [Shard(out, number, count, tuple(rows[number * size :][:size]), settings) for number in range(count)]


def finish(out: str, packed: Mapping[int, list[Row]]) -> list[Row]:
    """Writes the index of a pack from the rows of its shards by number; returns the rows in order."""
    rows = [row for number in sorted(packed) for row in packed[number]]
    write_index(epath.Path(out) / INDEX, rows)
    return rows


def pack_shard(shard: Shard) -> list[Row]:
    """Packs one shard, unless it is there; returns its rows for the index, broken videos among them.

    Raises:
      VideoError: what was written does not read back as it should; nothing is left behind.
    """
    if (there := rows_of_whole(shard)) is not None:
        return there
    with draft_of(shard) as draft:
        rows = _write(shard, draft)
        _verify(draft, rows)
        publish(shard, draft, rows)
    return rows


def encode_clip(frames: Iterator[np.ndarray], times: np.ndarray, time_base: Fraction, settings: PackSettings) -> bytes:
    """Encodes frames, uint8 [height, width, 3], as an MP4 file of H.264 with their presentation times.

    Decoding speed is bought with size: no arithmetic coding, no deblocking, and no picture that refers to a B-frame.

    Args:
      frames: as many as there are `times`, all of one size.
      times: int64 [n], increasing, in units of `time_base`.
      time_base: seconds per unit.
      settings: size and group of pictures.
    """
    ticks = (times - times[0]) * time_base.numerator
    scale = time_base.denominator
    step = int(np.median(np.diff(ticks))) if len(ticks) > 1 else max(scale // 25, 1)
    options = {
        "preset": "medium",
        "tune": "fastdecode",
        "crf": str(settings.crf),
        "g": str(settings.gop),
        "sc_threshold": "0",
        # A picture between P-frames may be left out by a reader that does not want it; with a stride most are not wanted.
        "bf": "7",
        "x264-params": "b-adapt=0:b-pyramid=none:weightb=0",
        "threads": "1",
    }
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"video_track_timescale": str(scale)}) as container:
        rate = Fraction(scale, step).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, scale)
        stream.codec_context.thread_count = 1
        for place, (tick, image) in enumerate(zip(ticks.tolist(), frames, strict=True)):
            image = _resize(image, settings.short_side)
            if place == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, scale)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _write(shard: Shard, draft: str) -> list[Row]:
    """Writes the shard; returns its rows for the index."""
    rows, place = [], 0
    writer = open_writer(draft)
    for row in shard.rows:
        try:
            clips = list(_clips(str(row["path"]), shard.settings))
        except (VideoError, av.error.FFmpegError) as error:  # Cannot be decoded, or cannot be encoded.
            rows.append(with_facts(row, broken(str(row["path"]), error)))
            continue
        for fields, info, content in clips:
            entry = row | {"path": f"{shard.name}#{place}", "source": row["path"]} | fields
            writer.write(pack_record(entry, info, content))
            rows.append(entry)
            place += 1
    writer.close()
    return rows


def _clips(path: str, settings: PackSettings) -> Iterator[tuple[Row, VideoInfo, bytes]]:
    """The clips of a video in order, each with its fields for the index and what probing it gives."""
    video = find_video(path)
    info, frames = video.check(), video.read_all()
    longest = Fraction(str(settings.seconds))
    pieces = min(math.ceil(info.duration / longest), info.num_frames) if longest else 1
    for part in np.array_split(np.arange(info.num_frames), pieces):
        content = encode_clip(itertools.islice(frames, len(part)), info.pts[part], info.time_base, settings)
        clip = decode.probe(content)
        if clip.num_frames != len(part):
            raise VideoError(f"{path}: {len(part)} frames became {clip.num_frames} when encoded")
        start = float(int(info.pts[part[0]] - info.pts[0]) * info.time_base)
        facts = facts_of(clip, *decode.describe(content))
        yield asdict(facts) | {"start": round(start, 3)}, clip, content


def _verify(draft: str, rows: list[Row]) -> None:
    """Reads the shard back: every record must carry its row and decode to the number of frames that its source has."""
    reader = array_record_module.ArrayRecordReader(draft)
    good = [row for row in rows if row["status"] == OK]
    if reader.num_records() != len(good):
        raise VideoError(f"{draft}: {len(good)} clips were written, {reader.num_records()} are there; is the disk full?")
    for place, row in enumerate(good):
        fields, info, content = unpack_record(reader.read([place])[0])
        if fields != row or not info.num_frames == decode.check(content).num_frames == row["frames"]:
            raise VideoError(f"{draft}: record {place}, from {row['source']}, does not read back as it was written")
    reader.close()


def rows_of_whole(shard: Shard) -> list[Row] | None:
    """The rows of a shard that is there; None: it is not. A shard counts when both of its files are there."""
    target, notes = _files(shard)
    if target.exists() and notes.exists():
        return [json.loads(line) for line in notes.read_text().splitlines()]
    return None


def _files(shard: Shard) -> tuple[epath.Path, epath.Path]:
    """The shard and the file of its rows."""
    return epath.Path(shard.out) / shard.name, epath.Path(shard.out) / f"{shard.name}.jsonl"


@contextmanager
def draft_of(shard: Shard) -> Iterator[str]:
    """A path to write the shard to: a local one, as ArrayRecord knows no other."""
    if not is_remote(shard.out):
        os.makedirs(shard.out, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=None if is_remote(shard.out) else shard.out, prefix=f".{shard.name}.") as scratch:
        yield os.path.join(scratch, shard.name)


def open_writer(draft: str) -> Any:
    """ArrayRecord's writer of a shard."""
    # One record per group: a record is read alone. Compressing MP4 files again would gain nothing.
    return array_record_module.ArrayRecordWriter(draft, "group_size:1,uncompressed")


def publish(shard: Shard, draft: str, rows: Sequence[Row]) -> None:
    """Puts a whole shard where it belongs, its rows first: each file appears at once."""
    target, notes = _files(shard)
    list_ = f"{draft}.jsonl"
    Path(list_).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for written, place in ((list_, notes), (draft, target)):
        if is_remote(shard.out):
            epath.Path(written).copy(place, overwrite=True)
        else:
            os.replace(written, place)


def _resize(image: np.ndarray, short_side: int) -> np.ndarray:
    """The frame with its shorter side at `short_side` pixels or less, and both sides even, as H.264 needs them."""
    height, width = image.shape[:2]
    factor = min(1, short_side / min(height, width))
    height, width = (max(2, 2 * round(side * factor / 2)) for side in (height, width))
    if (height, width) == image.shape[:2]:
        return np.ascontiguousarray(image)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
