"""Stored features of clips, as `wt_jax.eval.features.store` writes them, for training on them without opening a video.

Beside `NAME.npz`, which holds the paths, `NAME_clips.npy` holds (N, W, D) float16, the features of the W clips of each video,
and `NAME_geometry.npy` (N, W, 7) float32, how they were cut (`wt_jax.specs.GEOMETRY`). Both are mapped from disk.
"""

from __future__ import annotations

import functools
import os
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wt_jax.errors import SourceError
from wt_jax.specs import GEOMETRY, FeatureView

CLIPS = "clips.npz"  # the store in a folder that `wt_jax.tools.store_clips` wrote

_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class ClipFeatures:
    """Features of the clips of many videos.

    Attributes:
      clips: (N, W, D) float16.
      geometry: (N, W, 7) float32.
      rows: path of a video -> its row.
    """

    clips: np.ndarray
    geometry: np.ndarray
    rows: Mapping[str, int]


def clips_path(store: Path) -> Path:
    """Where the clips' features of NAME.npz are."""
    return store.with_name(f"{store.stem}_clips.npy")


def geometry_path(store: Path) -> Path:
    """Where the clips' geometry of NAME.npz is."""
    return store.with_name(f"{store.stem}_geometry.npy")


def open_clip_features(store: str) -> ClipFeatures:
    """The clips' features of a store; opened once per process, until the store is replaced.

    Raises:
      SourceError: there is no such store, or it was written without clips.
    """
    try:
        written = os.stat(store).st_mtime_ns
        with _lock:
            return _open(store, written)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise SourceError(f"{store} holds no features of clips that can be read ({error})") from None


@functools.lru_cache(maxsize=16)
def _open(store: str, written: int) -> ClipFeatures:
    place = Path(store)
    clips, geometry = (np.load(path(place), mmap_mode="r") for path in (clips_path, geometry_path))
    with np.load(place) as file:
        paths = file["path"].tolist()
    if clips.ndim != 3 or geometry.shape != (*clips.shape[:2], len(GEOMETRY)) or len(paths) != len(clips):
        raise ValueError(f"clips {clips.shape}, geometry {geometry.shape} and {len(paths)} paths do not belong together")
    return ClipFeatures(clips, geometry, {path: row for row, path in enumerate(paths)})


def check_feature_view(name: str, view: FeatureView) -> None:
    """Raises SourceError where a view asks for more clips or another width than its store has."""
    _, stored, dim = open_clip_features(view.store).clips.shape
    if view.count > stored or view.dim != dim:
        raise SourceError(
            f"view {name!r} asks for {view.count} clips of {view.dim} numbers, {view.store} holds {stored} clips of {dim}"
        )


def choose_rows(view: FeatureView, stored: int, rng: np.random.Generator) -> np.ndarray:
    """Which of the stored clips a view shows: int64 [count], all different."""
    if view.draw == "random":
        return rng.choice(stored, view.count, replace=False)
    return np.arange(view.count) * (stored - 1) // max(view.count - 1, 1) if view.count > 1 else np.array([(stored - 1) // 2])
