"""The index of a data set: one CSV row per video with what was found in it, which `open_source` then reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from etils import epath

from wt_jax.data.records import VideoList
from wt_jax.data.sources.lists import OK
from wt_jax.data.sources.text import csv_text
from wt_jax.data.video.decode import VideoInfo
from wt_jax.data.video.reader import Video, is_remote
from wt_jax.files import write_atomic

INDEX = "index.csv"  # of a folder that `pack` wrote
COLUMNS = ("path", "label", "name", "frames", "rate", "duration", "width", "height", "codec", "rotation", "status")


@dataclass(frozen=True)
class Facts:
    """What is in a video; the numbers of a broken one are 0.

    Attributes:
      frames: frames that can be asked for; where every frame was decoded, those that can be decoded.
      rate: frames per second, the mean where it varies.
      duration: seconds.
      width, height: pixels, as stored.
      codec: FFmpeg's name of the codec.
      rotation: degrees, counterclockwise, by which the picture is turned when shown, after it is mirrored, if it is.
      status: "ok", or what is wrong, without the path.
    """

    frames: int = 0
    rate: float = 0.0
    duration: float = 0.0
    width: int = 0
    height: int = 0
    codec: str = ""
    rotation: int = 0
    status: str = OK


def look_at(video: Video, every_frame: bool = False) -> Facts:
    """Looks at a video; `every_frame` decodes it to the end.

    Raises:
      VideoError: it is broken.
    """
    if every_frame:
        return facts_of(video.check(), *video.describe())
    with video.open() as reader:
        return facts_of(reader.info, *video.describe())


def facts_of(info: VideoInfo, codec: str, rotation: int) -> Facts:
    """The facts of a sound video."""
    return Facts(
        frames=info.num_frames,
        rate=round(float(info.num_frames / info.duration), 3),
        duration=round(float(info.duration), 3),
        width=info.width,
        height=info.height,
        codec=codec,
        rotation=rotation,
    )


def broken(name: str, error: Exception) -> Facts:
    """The facts of a video that raised this."""
    return Facts(status=" ".join(str(error).removeprefix(f"{name}: ").split()))


def rows_of(videos: VideoList) -> list[dict[str, object]]:
    """The columns of the list that an index keeps: path (absolute), label, name of the class, and the list's own ones."""
    rows = []
    for place, record in enumerate(videos):
        path = record.path if is_remote(record.path) else os.path.abspath(record.path)
        row: dict[str, object] = {"path": path}
        if record.label >= 0:
            row |= {"label": record.label, "name": videos.classes[record.label]}
        own = {name: values[place] for name, values in videos.columns.items() if name not in COLUMNS}
        rows.append(row | own)
    return rows


def write_index(path: str | os.PathLike, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows, each with the columns of `rows_of` and of `Facts`, whole or not at all; `path` may be remote."""
    rows = list(rows)
    columns = list(COLUMNS) + sorted({name for row in rows for name in row} - set(COLUMNS))
    write_atomic(epath.Path(path), csv_text(columns, rows))


def with_facts(row: Mapping[str, object], facts: Facts) -> dict[str, object]:
    """A row of the index."""
    return dict(row) | asdict(facts)
