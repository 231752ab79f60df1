"""A prepared TFDS data set (https://www.tensorflow.org/datasets) of videos as a `VideoList`, without TensorFlow.

`tfds.data_source` itself cannot open a data set with TFDS's `Video` feature unless TensorFlow is installed (4.9.10), so its
files are read here: `dataset_info.json`, `features.json` and the ArrayRecord shards. TensorFlow is needed once, to prepare
them: `tfds build ucf101/ucf101_1 --file_format=array_record`.
"""

from __future__ import annotations

import json
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath

from wt_jax.data.records import VideoList
from wt_jax.data.video.reader import example_features, read_record
from wt_jax.errors import SourceError, VideoError

log = logging.getLogger(__name__)

_NAME = re.compile(r"tfds:(?P<name>[^:#]+?)(?::(?P<version>[\d.]+))?(?:#(?P<split>\w+))?")
_SHOWN_PROGRESS = 1000


def open_tfds(location: str, root: str = "") -> VideoList:
    """Lists the videos of one split.

    Labels lie in the records, beside the frames, so they are read once here, in threads; for a large set make an index
    with `wt_jax.tools.check_videos`, which keeps them.

    Args:
      location: tfds:NAME[/CONFIG][:VERSION][#SPLIT]; by default the newest version and the split `train`. NAME may also be
        the folder of a prepared data set.
      root: TFDS's data folder; by default the variable TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      SourceError: it is not prepared, not in ArrayRecord, has no such split, or holds no video.
    """
    match = _NAME.fullmatch(location)
    if match is None:
        raise SourceError(f"{location}: write tfds:NAME[/CONFIG][:VERSION][#SPLIT]")
    folder = _find(match["name"], match["version"], root)
    info = json.loads((folder / "dataset_info.json").read_text())
    if info.get("fileFormat", "tfrecord") != "array_record":
        raise SourceError(
            f"{folder}: its file format is {info.get('fileFormat', 'tfrecord')}, which has no random access; "
            "prepare it with --file_format=array_record"
        )
    splits = {split["name"]: split for split in info["splits"]}
    name = match["split"] or "train"
    if name not in splits:
        raise SourceError(f"{location}: there is no split {name!r}; choose one of {', '.join(splits)}")
    counts = [int(count) for count in splits[name]["shardLengths"]]
    template = splits[name].get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    words = {"DATASET": info["name"], "SPLIT": name, "FILEFORMAT": "array_record"}
    paths = tuple(
        f"{folder / template.format(**words, SHARD_X_OF_Y=f'{shard:05d}-of-{len(counts):05d}')}#{place}"
        for shard, count in enumerate(counts)
        for place in range(count)
    )
    labels, classes = _labels(folder, paths)
    return VideoList(paths, labels, classes)


def _find(name: str, version: str | None, root: str) -> epath.Path:
    """The folder of a prepared data set."""
    home = epath.Path(root or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    for base in (home / name, epath.Path(name).expanduser()):
        folder = base / version if version else base
        if (folder / "dataset_info.json").exists():
            return folder
        versions = [found.parent for found in folder.glob("*/dataset_info.json")]
        if versions:
            return max(versions, key=lambda path: [int(part) if part.isdecimal() else 0 for part in path.name.split(".")])
    raise SourceError(
        f"tfds:{name}: no prepared data set below {home / name}{f' in version {version}' if version else ''}; prepare it with "
        f"`tfds build {name} --file_format=array_record` (needs TensorFlow), name its configuration, or set config.data.root"
    )


def _labels(folder: epath.Path, paths: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    features = json.loads((folder / "features.json").read_text())["featuresDict"]["features"]
    videos = [key for key, feature in features.items() if _is_video(feature)]
    if not videos:
        raise SourceError(f"{folder}: none of its features is a video; it has {', '.join(features)}")
    key = next((key for key, feature in features.items() if feature["pythonClassName"].endswith(".ClassLabel")), None)
    if key is None:
        return np.full(len(paths), -1, np.int32), ()
    log.info("%s: reading %d labels", folder, len(paths))
    with ThreadPoolExecutor() as pool:
        found = []
        for label in pool.map(lambda path: _label(path, key), paths):
            found.append(label)
            if len(found) % _SHOWN_PROGRESS == 0:
                log.info("%s: read %d of %d labels", folder, len(found), len(paths))
    labels = np.array(found, np.int32)
    names = folder / f"{key}.labels.txt"
    if names.exists():
        return labels, tuple(names.read_text().splitlines())
    return labels, tuple(str(label) for label in range(int(labels.max()) + 1))


def _is_video(feature: dict[str, Any]) -> bool:
    """A `Video`, or a sequence of images."""
    name = feature["pythonClassName"].rsplit(".", 1)[-1]
    within = feature.get("sequence", {}).get("feature", {}).get("pythonClassName", "")
    return name == "Video" or (name == "Sequence" and within.endswith(".Image"))


def _label(path: str, key: str) -> int:
    try:
        return example_features(read_record(path))[key].int64_list.value[0]
    except VideoError as error:
        raise SourceError(str(error)) from error
