"""The videos of an evaluation: all lists in one, so that no video is read twice, and who is training and who is test where."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wt_jax.data.records import VideoList, same_classes
from wt_jax.data.sources.open import open_source
from wt_jax.errors import ConfigError
from wt_jax.eval.config import EvaluationConfig
from wt_jax.eval.protocols.stored import leave_one_group_out
from wt_jax.eval.validation_split import stratified_part


@dataclass(frozen=True)
class Split:
    """A training and a test set, as places in the list of all videos."""

    name: str
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Lists:
    """All videos, each once, and the splits; `pooled`: each video is tested in one split, and all tests are one."""

    videos: VideoList
    splits: tuple[Split, ...]
    pooled: bool


def open_lists(config: EvaluationConfig) -> Lists:
    """Read the lists that a configuration names.

    Raises:
      ConfigError, SourceError: a list cannot be used, is not labelled, or contradicts another.
    """

    def read(name: str) -> VideoList:
        videos = open_source(str(Path(config.lists, name)), config.root, config.max_bad_fraction)
        if not videos.classes:
            raise ConfigError(f"{Path(config.lists, name)} has no labels, which every protocol compares with; add them")
        return videos

    if config.leave_out:
        name = config.splits[0][0]
        videos = read(name)
        if config.leave_out not in videos.columns:
            known = ", ".join(videos.columns) or "none: it is not a CSV with a header"
            raise ConfigError(f"config.leave_out {config.leave_out!r} is no column of {name} (columns: {known})")
        groups = np.asarray(videos.columns[config.leave_out])
        center = "retrieval" in config.protocols or config.settings.knn.center
        try:
            masks = leave_one_group_out(groups, center)
        except ValueError as error:
            raise ConfigError(f"config.leave_out {config.leave_out!r}: {error}") from None
        splits = [Split(f"without_{groups[m][0]}", np.flatnonzero(~m), np.flatnonzero(m)) for m in masks]
        return Lists(videos, tuple(splits), pooled=True)

    names = list(dict.fromkeys(name for pair in config.splits for name in pair if name))
    opened = dict(zip(names, same_classes([read(name) for name in names]), strict=True))
    place: dict[str, int] = {}
    labels: list[int] = []
    for name, videos in opened.items():
        for record in videos:
            if place.setdefault(record.path, len(labels)) == len(labels):
                labels.append(record.label)
            elif labels[place[record.path]] != record.label:
                raise ConfigError(f"{record.path} is of another class in {name} than in a list before it; fix the lists")
    classes = max((videos.classes for videos in opened.values()), key=len)
    everything = VideoList(tuple(place), np.array(labels, np.int32), classes)

    def places(name: str) -> np.ndarray:
        return np.array([place[path] for path in opened[name].paths])

    splits = []
    for number, (train_name, test_name) in enumerate(config.splits, 1):
        train = places(train_name)
        if test_name:
            test = places(test_name)
            shared = np.intersect1d(train, test)
            if len(shared):
                raise ConfigError(
                    f"{everything.paths[shared[0]]} is in {train_name} and in {test_name}: training would see the test"
                )
        else:
            held_out = stratified_part(everything.labels[train], fraction=config.test_share, seed=config.seed)
            train, test = train[~held_out], train[held_out]
            if not len(test):
                raise ConfigError(f"{train_name} has no class of two videos to take a test set from; name a test list")
        splits.append(Split(f"split{number}", train, test))
    return Lists(everything, tuple(splits), pooled=False)


def digest(videos: VideoList, *parts: np.ndarray) -> str:
    """Changes with the paths and labels of the videos (of `parts` of the list, where given)."""
    hashed = hashlib.sha256()
    for part in parts or (np.arange(len(videos)),):
        chosen = videos.select(part)
        hashed.update("\0".join(chosen.paths).encode())
        hashed.update(np.asarray(chosen.labels, np.int32).tobytes())
    return hashed.hexdigest()[:16]
