"""A table of named features, such as text features of class names: a folder with `names.json` and `features.npy`."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wt_jax.errors import WeightsError


def save_table(folder: Path, names: Sequence[str], features: np.ndarray) -> None:
    """Write features (N, D) float32, one row for each name, into a folder, which is made."""
    if features.shape[:1] != (len(names),):
        raise ValueError(f"{len(names)} names do not fit features of shape {features.shape}")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "features.npy", np.asarray(features, np.float32))
    (folder / "names.json").write_text(json.dumps(list(names)) + "\n")


def load_table(folder: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Names (N,) and features (N, D) float32 of a folder.

    Raises:
      WeightsError: there is no table, or it is damaged.
    """
    try:
        names, features = json.loads((folder / "names.json").read_text()), np.load(folder / "features.npy")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} holds no table of features (names.json and features.npy): {error}") from None
    if features.dtype != np.float32 or features.ndim != 2 or len(features) != len(names):
        raise WeightsError(f"{folder}: features of {features.dtype} {features.shape} do not fit {len(names)} names")
    return tuple(names), features
