"""Features on disk: written in parts while the videos are read, resumed after any interruption, merged at the end.

`NAME.npz` (NumPy's format rather than Parquet: the rows are plain arrays, and everything that reads Python reads it) holds

    values    (N, D) float32       one row per video that could be decoded, the mean over its clips
    path      (N,) text            which video
    label     (N,) int32           its class, or -1
    time      (N, windows, 2) float32   first and last frame of each window, seconds from the start of the video
    classes   (C,) text            names of the classes
    left_out  (K,) text            paths of the videos that could not be decoded
    about     text                 JSON: what was extracted, and how
    sounds    (N, D) float32       embeddings of the sound of the windows, where they were asked for

and, where they were asked for, `NAME_tokens.npy` the feature maps, (N, M, C) float16, to be opened with `mmap_mode`; or
`NAME_clips.npy` the features of each clip, (N, W, D) float16, with `NAME_geometry.npy`, (N, W, 7) float32: see
`wt_jax.data.feature_store`, which trains on them.

Parts are files of some hundred rows in `NAME.parts/`, one per host, each written whole or not at all. Their folder, which all
hosts must see (as they must for checkpoints), goes once they are merged.
"""

import json
import logging
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from wt_jax.cluster.processes import barrier, is_primary_process
from wt_jax.data.feature_store import clips_path, geometry_path
from wt_jax.data.records import VideoList
from wt_jax.errors import ConfigError
from wt_jax.eval.features.extract import Extractor, Reading, feature_batches
from wt_jax.files import atomic_path, write_atomic
from wt_jax.methods.base import Tree
from wt_jax.progress import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureFile:
    """What a file of features holds; see the module. `tokens` is None or mapped from disk."""

    values: np.ndarray
    paths: tuple[str, ...]
    labels: np.ndarray
    times: np.ndarray
    classes: tuple[str, ...]
    left_out: tuple[str, ...]
    about: dict[str, Any]
    tokens: np.ndarray | None
    sounds: np.ndarray | None


def read_features(path: Path) -> FeatureFile:
    """Read a file that `extract_to_file` wrote.

    Raises:
      ConfigError: there is no such file, or it is not one of features.
    """
    tokens = tokens_path(path)
    try:
        with np.load(path) as file:
            return FeatureFile(
                values=file["values"],
                paths=tuple(file["path"].tolist()),
                labels=file["label"],
                times=file["time"],
                classes=tuple(file["classes"].tolist()),
                left_out=tuple(file["left_out"].tolist()),
                about=json.loads(str(file["about"])),
                tokens=np.load(tokens, mmap_mode="r") if tokens.exists() else None,
                sounds=file.get("sounds"),
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} holds no features that can be read ({error})") from None


def tokens_path(path: Path) -> Path:
    """Where the tokens of a file of features are."""
    return path.with_name(f"{path.stem}_tokens.npy")


def is_current(path: Path, about: dict[str, Any]) -> bool:
    """Whether the file is there and was made as `about` says; tokens and clips, if any, were in place before it."""
    try:
        with np.load(path) as file:
            return json.loads(str(file["about"])) == _plain(about)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return False


def extract_to_file(
    path: Path,
    extractor: Extractor,
    params: Tree,
    model_state: Tree,
    videos: VideoList,
    reading: Reading,
    mesh: Mesh,
    about: dict[str, Any],
    *,
    part_rows: int = 256,
) -> None:
    """Write the features of all videos of a list, going on where an interrupted call with the same `about` stood.

    Memory holds one part, whatever the number of videos. A file made as `about` says is left as it is; one of another origin
    is replaced. `part_rows` is the size of a part, in videos. Other arguments are those of `feature_batches`.

    Raises:
      ConfigError: no video of the list could be decoded.
    """
    barrier("features asked for")
    if is_current(path, about):
        return
    folder = path.with_suffix(".parts")
    per_part = max(1, part_rows // reading.batch_size)
    layout = _plain({"about": about, "batches_per_part": per_part, "batch_size": reading.batch_size})
    num_parts = -(-len(videos) // (reading.batch_size * per_part))
    done = _finished_parts(folder, layout, num_parts)
    barrier("features resumed")
    if is_primary_process():
        if not done:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "layout.json", json.dumps(layout), sync=True)
    barrier("features begun")
    if done:
        log.info("features: %d of %d parts are there already", done, num_parts)
    first = done * per_part
    batches = feature_batches(extractor, params, model_state, videos, reading, mesh, start=first)
    progress = Progress("features", len(videos), "video", done=min(first * reading.batch_size, len(videos)))
    held: list[dict[str, np.ndarray]] = []
    part = done
    for number, batch in enumerate(batches, first + 1):
        held.append(batch)
        progress.advance(reading.batch_size)
        if number % per_part == 0:
            _write_part(folder, part, held)
            held, part = [], part + 1
    if held:
        _write_part(folder, part, held)
    barrier("features extracted")
    if is_primary_process():
        _merge(folder, path, videos, num_parts, about)
    barrier("features merged")


def _plain(value: Any) -> Any:
    """As JSON gives it back, so that it compares equal to what was read."""
    return json.loads(json.dumps(value))


def _part_path(folder: Path, part: int, host: int) -> Path:
    return folder / f"part-{part:05}-host-{host}.npz"


def _finished_parts(folder: Path, layout: dict[str, Any], num_parts: int) -> int:
    """How many parts, from the first on, are there from every host, if they were made in the same way."""
    try:
        same = json.loads((folder / "layout.json").read_text()) == layout
    except (OSError, ValueError):
        return 0
    done = 0
    hosts = range(jax.process_count())
    while same and done < num_parts and all(_part_path(folder, done, host).exists() for host in hosts):
        done += 1
    return done


def _write_part(folder: Path, part: int, batches: Sequence[dict[str, np.ndarray]]) -> None:
    rows: dict[str, Any] = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    with atomic_path(_part_path(folder, part, jax.process_index()), sync=True) as draft:
        np.savez(draft, **rows)


def _read_part(folder: Path, part: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Rows of all hosts, in the order of the list."""
    files = sorted(folder.glob(f"part-{part:05}-host-*.npz"))
    hosts = [np.load(file) for file in files]
    rows: dict[str, Any] = {name: np.concatenate([host[name] for host in hosts]) for name in {*names, "video"}}
    for host in hosts:
        host.close()
    order = np.argsort(rows["video"], kind="stable")
    return {name: rows[name][order] for name in names}


def _merge(folder: Path, path: Path, videos: VideoList, num_parts: int, about: dict[str, Any]) -> None:
    """One file from the parts, of which one at a time is in memory."""
    with np.load(_part_path(folder, 0, 0)) as first:
        made = set(first.files)
    names = ("video", "time", *({"sounds"} & made))
    small = [_read_part(folder, part, names) for part in range(num_parts)]
    index, times, *sounds = (np.concatenate([rows[name] for rows in small]) for name in names)
    if not len(index):
        raise ConfigError("no video of the list could be decoded, see the lines above; there is nothing to evaluate")
    beside = {"tokens": {"tokens": tokens_path(path)}, "clips": {"clips": clips_path(path), "geometry": geometry_path(path)}}
    for asked, files in beside.items():
        for name, file in files.items():
            if asked in made:
                with atomic_path(file, sync=True) as draft, draft.open("wb") as opened:
                    _stream(opened, _rows(folder, num_parts, name), len(index))
            else:
                file.unlink(missing_ok=True)
    missing = np.setdiff1d(np.arange(len(videos)), index)
    arrays = {
        "path": np.array([videos.paths[i] for i in index]),
        "label": videos.labels[index],
        "time": times,
        "classes": np.array(videos.classes, np.str_),
        "left_out": np.array([videos.paths[i] for i in missing], np.str_),
        "about": np.array(json.dumps(about)),
        **dict(zip(("sounds",), sounds, strict=False)),
    }

    with atomic_path(path, sync=True) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("values.npy", "w", force_zip64=True) as member:
            _stream(member, _rows(folder, num_parts, "values"), len(index))
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    shutil.rmtree(folder)
    log.info("features: %d videos in %s%s", len(index), path, f", {len(missing)} left out" if len(missing) else "")


def _rows(folder: Path, num_parts: int, name: str) -> Iterator[np.ndarray]:
    for part in range(num_parts):
        yield _read_part(folder, part, (name,))[name]


def _stream(file: Any, pieces: Iterator[np.ndarray], count: int) -> None:
    """An .npy of `count` rows, written piece by piece."""
    for number, rows in enumerate(pieces):
        if number == 0:
            descr = np.lib.format.dtype_to_descr(rows.dtype)
            header = {"descr": descr, "fortran_order": False, "shape": (count, *rows.shape[1:])}
            np.lib.format.write_array_header_2_0(file, header)
        file.write(np.ascontiguousarray(rows).data)
