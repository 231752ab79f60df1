"""Moments as Parquet files for the bulk import of a Milvus server: the fields of `wt_jax.search.milvus.MilvusIndex`.

One file per packed shard, or per folder of plain videos. A file's name has the shard's and a hash of what is in the file: files
that are there are not written again, and an import that skips known names repeats nothing. Numbers of moments and videos are
those of the index, plus an offset for each part of an archive that several machines indexed.
"""

import collections
import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wt_jax.data.video.reader import file_of, is_remote
from wt_jax.errors import SearchError
from wt_jax.files import atomic_path
from wt_jax.search.milvus import check_center
from wt_jax.search.scan import Scan

PART_OFFSET = 1 << 40  # between the numbers of two parts
_ROW_GROUP = 1 << 14


def write_parquet(scan: Scan, folder: Path, part: int = 0) -> list[Path]:
    """Write what is not there yet; returns the files of the whole snapshot, written now or before.

    Args:
      scan: the snapshot; its center must be kept, see `wt_jax.search.milvus.freeze_center`.
      folder: for the files.
      part: number of the part, from 0; each has numbers of moments and videos of its own.

    Raises:
      SearchError: the center may still move, or the disk is full.
    """
    check_center(scan)
    folder.mkdir(parents=True, exist_ok=True)
    snapshot, places = scan.snapshot, collections.defaultdict(list)
    source = {video.id: _source(video.path) for video in snapshot.videos.values()}
    for place, video in enumerate(snapshot.video_ids.tolist()):
        places[source[video]].append(place)
    files = []
    for name, chosen in places.items():
        mine = np.array(chosen)
        path = folder / f"{_stem(name)}-{_digest(scan, mine, part)}.parquet"
        files.append(path)
        if not path.exists():
            try:
                _write(scan, mine, path, part * PART_OFFSET)
            except OSError as error:
                raise SearchError(f"{path}: {error.strerror or error}; the same command goes on with this file") from None
    return files


def _source(path: str) -> str:
    """The shard that holds a video, or its folder."""
    file = path if is_remote(path) else file_of(path)
    return file if file != path else os.path.dirname(path)


def _stem(name: str) -> str:
    """The last part of a name, of plain letters, as object stores and shells take it."""
    return "".join(sign if sign.isascii() and (sign.isalnum() or sign in "-_") else "_" for sign in Path(name).name)[:80] or "_"


def _digest(scan: Scan, places: np.ndarray, part: int) -> str:
    """Changes with the moments, their features and their videos' labels."""
    snapshot = scan.snapshot
    digest = hashlib.sha256(f"{part} {scan.center.tobytes().hex()}".encode())
    for video in np.unique(snapshot.video_ids[places]).tolist():
        entry = snapshot.videos[video]
        digest.update(f"{video} {entry.content or entry.path} {entry.state} {entry.label}".encode(errors="surrogateescape"))
    digest.update(snapshot.rows[places].tobytes())
    return digest.hexdigest()[:16]


def _write(scan: Scan, places: np.ndarray, path: Path, offset: int) -> None:
    snapshot, dim = scan.snapshot, scan.snapshot.features.shape[1]
    fields: list[tuple[str, pa.DataType]] = [("moment", pa.int64()), ("feature", pa.list_(pa.float32()))]
    schema = pa.schema([*fields, ("video", pa.int64()), ("label", pa.string())])
    with atomic_path(path, sync=True) as draft, pq.ParquetWriter(draft, schema) as writer:
        for start in range(0, len(places), _ROW_GROUP):
            chosen = places[start : start + _ROW_GROUP]
            videos = snapshot.video_ids[chosen].astype(np.int64)
            starts = pa.array(np.arange(len(chosen) + 1, dtype=np.int32) * dim)
            columns = [
                pa.array(snapshot.rows[chosen] + offset),
                pa.ListArray.from_arrays(starts, pa.array(scan.unit(chosen).ravel())),
                pa.array(videos + offset),
                pa.array([snapshot.videos[video].label for video in videos.tolist()], pa.string()),
            ]
            writer.write_table(pa.table(columns, schema=schema))
