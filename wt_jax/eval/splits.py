"""The videos of an evaluation: all lists as one, so that no video is read twice, and the splits as rows of it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wt_jax.data.records import TIME, VideoList, same_classes
from wt_jax.data.sources.open import open_source
from wt_jax.errors import ConfigError
from wt_jax.eval.config import EvaluationConfig
from wt_jax.eval.protocols.base import Split
from wt_jax.eval.validation_split import stratified_split


@dataclass(frozen=True)
class Splits:
    """All videos, each once, and the splits; `pooled`: each video is tested in one split, and all tests are one."""

    videos: VideoList
    parts: tuple[Split, ...]
    pooled: bool


def open_splits(config: EvaluationConfig) -> Splits:
    """Read the lists that a configuration names.

    Raises:
      ConfigError, SourceError: a list cannot be used, is not labelled where a protocol needs it, has no times where one needs
        them, or contradicts another, or the training and the test set of a split have no class in common.
    """
    boxes = [getattr(config.settings, name).reads == "boxes" for name in config.protocols]
    if any(boxes) and not all(boxes):
        raise ConfigError("config.protocols: 'detection' reads key frames, the others videos; evaluate them apart")
    timed = all(boxes)

    def read(name: str) -> VideoList:
        videos = open_source(str(Path(config.lists, name)), config.root, config.max_bad_fraction)
        if timed and TIME not in videos.columns:
            raise ConfigError(f"{Path(config.lists, name)} has no column {TIME!r}, the seconds of the key frames; add it")
        if not videos.classes and not timed:
            raise ConfigError(f"{Path(config.lists, name)} has no labels, which every protocol compares with; add them")
        return videos

    if config.leave_out:
        name = config.splits[0][0]
        videos = read(name)
        found = Splits(videos, leave_one_group_out(videos, config.leave_out, f"config.leave_out of {name}"), pooled=True)
    else:
        found = _listed(config, read, timed)
    for tested in [found.parts] if found.pooled else [(split,) for split in found.parts]:
        check_common_class(found.videos.labels, tested)
    return found


def _listed(config: EvaluationConfig, read: Callable[[str], VideoList], timed: bool) -> Splits:
    """The splits of (training list, test list) pairs; where items are `timed`, a video has one for each of its times."""

    def keys(videos: VideoList) -> list[tuple[str, str]]:
        return list(zip(videos.paths, videos.columns[TIME] if timed else ("",) * len(videos), strict=True))

    names = list(dict.fromkeys(name for pair in config.splits for name in pair if name))
    opened = dict(zip(names, same_classes([read(name) for name in names]), strict=True))
    row: dict[tuple[str, str], int] = {}
    labels: list[int] = []
    for name, videos in opened.items():
        for key, label in zip(keys(videos), videos.labels.tolist(), strict=True):
            if row.setdefault(key, len(labels)) == len(labels):
                labels.append(label)
            elif labels[row[key]] != label:
                raise ConfigError(f"{key[0]} is of another class in {name} than in a list before it; fix the lists")
    classes = max((videos.classes for videos in opened.values()), key=len)
    times = {TIME: tuple(time for _, time in row)} if timed else {}
    everything = VideoList(tuple(path for path, _ in row), np.array(labels, np.int32), classes, times)

    def rows(name: str) -> np.ndarray:
        return np.array([row[key] for key in keys(opened[name])])

    splits = []
    for number, (train_name, test_name) in enumerate(config.splits, 1):
        train = rows(train_name)
        if test_name:
            test = rows(test_name)
            both = np.intersect1d(train, test)
            if len(both):
                raise ConfigError(
                    f"{everything.paths[both[0]]} is in {train_name} and in {test_name}: training would see the test"
                )
        else:
            validation = stratified_split(everything.labels[train], fraction=config.test_fraction, seed=config.seed)
            train, test = train[~validation], train[validation]
            if not len(test):
                raise ConfigError(f"{train_name} has no class of two videos to take a test set from; name a test list")
        splits.append(Split(f"split{number}", train, test))
    return Splits(everything, tuple(splits), pooled=False)


def leave_one_group_out(videos: VideoList, column: str, key: str) -> tuple[Split, ...]:
    """One split per group (a person, a scene), in sorted order: the group is the test set, the others are the training set.

    Args:
      videos: the list.
      column: of the list, which names the group of each video.
      key: the setting that names the column, for errors.

    Raises:
      ConfigError: there is no such column, or it has fewer than two groups.
    """
    if column not in videos.columns:
        known = ", ".join(videos.columns) or "none: it is not a CSV with a header"
        raise ConfigError(f"{key}: {column!r} is no column (columns: {known})")
    groups = np.asarray(videos.columns[column])
    names = np.unique(groups)
    if len(names) < 2:
        raise ConfigError(f"{key}: {column!r} has only {names[0]}; leaving one group out needs at least two")
    return tuple(Split(f"without_{name}", np.flatnonzero(groups != name), np.flatnonzero(groups == name)) for name in names)


def check_common_class(labels: np.ndarray, splits: Sequence[Split]) -> None:
    """Raise ConfigError where training and test set have no class in common in any of the splits: all would be wrong."""
    if not any(np.isin(labels[split.test], labels[split.train]).any() for split in splits):
        names = ", ".join(split.name for split in splits)
        raise ConfigError(f"the training and the test videos of {names} have no class in common; check their labels")


def present(splits: Sequence[Split], items: np.ndarray, count: int) -> tuple[Split, ...]:
    """The splits as rows of `items`.

    Args:
      splits: rows of a list of `count` videos.
      items: (N,) rows of the list, those that could be decoded; the others are dropped from the splits.
    """
    row_of = np.full(count, -1)
    row_of[items] = np.arange(len(items))

    def kept(rows: np.ndarray) -> np.ndarray:
        found = row_of[rows]
        return found[found >= 0]

    return tuple(replace(split, train=kept(split.train), test=kept(split.test)) for split in splits)


def digest(videos: VideoList, *parts: np.ndarray) -> str:
    """Changes with the paths, times and labels of the videos (of `parts` of the list, where given)."""
    hashed = hashlib.sha256()
    for part in parts or (np.arange(len(videos)),):
        chosen = videos.select(part)
        hashed.update("\0".join(chosen.paths).encode())
        hashed.update("\0".join(chosen.columns.get(TIME, ())).encode())
        hashed.update(np.asarray(chosen.labels, np.int32).tobytes())
    return hashed.hexdigest()[:16]
