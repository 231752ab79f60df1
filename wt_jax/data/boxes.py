"""Labelled boxes of key frames: a table in the columns of AVA, and how boxes follow the crop of a clip.

Rows are `video,second,left,top,right,bottom[,class[,...]]` without a header, as in Gu et al., "AVA: A Video Dataset of
Spatio-temporally Localized Atomic Visual Actions" (2018): edges relative to the frame, classes from 1, a box once per class.
What follows the class (a person or a score) is not read. A row without a box says that the key frame has none; one without a
class that the box has no label. `video` is the path of a record, or its file's name without folder and extension.
"""

from __future__ import annotations

import csv
import functools
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from wt_jax.data.records import Record
from wt_jax.errors import SourceError, VideoError
from wt_jax.specs import BoxView

LEAST_AREA = 0.1  # of a box, relative to the whole of it, that a crop must show
_Boxes = Mapping[tuple[float, float, float, float], set[int]]  # box -> its classes, in the order of the table
_lock = threading.Lock()


def open_boxes(table: str) -> Mapping[tuple[str, float], _Boxes]:
    """The boxes of each (video, second) of a table; read once per process, until the table is replaced.

    Raises:
      SourceError: there is no such table, or one of its rows is not as it should be.
    """
    try:
        written = os.stat(table).st_mtime_ns
        with _lock:
            return _read(table, written)
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{table}: the boxes cannot be read ({error})") from None


@functools.lru_cache(maxsize=4)
def _read(table: str, written: int) -> Mapping[tuple[str, float], _Boxes]:
    frames: dict[tuple[str, float], dict[tuple[float, float, float, float], set[int]]] = {}
    with Path(table).open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row:
                continue
            try:
                boxes = frames.setdefault((row[0], float(row[1])), {})
                if not any(row[2:]):
                    continue
                left, top, right, bottom = map(float, row[2:6])
                label = int(row[6]) if len(row) > 6 and row[6] else 0
                if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1 and label >= 0):
                    raise ValueError
            except (ValueError, IndexError):
                raise SourceError(
                    f"{table}, line {number}: expected video,second,left,top,right,bottom[,class] with edges in [0, 1] and "
                    f"classes from 1, got {','.join(row)!r}"
                ) from None
            boxes.setdefault((left, top, right, bottom), set()).update({label} - {0})
    return frames


def read_classes(table: str) -> dict[int, str]:
    """{number, from 1: name} of classes: CSV of number and name without a header, or AVA's label map (*.pbtxt).

    Raises:
      SourceError: the table cannot be read, or holds no class.
    """
    try:
        text = Path(table).read_text(encoding="utf-8-sig")
        if ".pbtxt" in Path(table).name:
            found = re.findall(r'name:\s*"([^"]*)"\s+(?:label_)?id:\s*(\d+)', text)
            classes = {int(number): name for name, number in found}
        else:
            classes = {int(row[0]): row[1] for row in csv.reader(text.splitlines()) if row}
    except (OSError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise SourceError(f"{table}: the classes cannot be read ({error})") from None
    if not classes or min(classes) < 1:
        raise SourceError(f"{table}: expected classes numbered from 1, got {min(classes, default='none')}")
    return classes


def check_box_view(name: str, view: BoxView) -> None:
    """Raises SourceError where the table of a view cannot be read, or has more classes than the view."""
    largest = max((label for boxes in open_boxes(view.table).values() for box in boxes.values() for label in box), default=0)
    if largest > view.classes:
        raise SourceError(f"view {name!r} has {view.classes} classes, {view.table} has class {largest}")


def find_boxes(record: Record, view: BoxView) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float32 (n, 4), relative to the frame, and labels bool (n, classes) of a record's key frame.

    Raises:
      VideoError: the table does not have the key frame.
    """
    frames = open_boxes(view.table)
    keys: list[tuple[str, Any]] = [(name, record.time) for name in (record.path, PurePosixPath(record.path).stem)]
    boxes = next((frames[key] for key in keys if key in frames), None)
    if boxes is None:
        raise VideoError(f"{record.path}: {view.table} has no row of {keys[-1][0]!r} at {record.time} s")
    labels = np.zeros((len(boxes), view.classes), bool)
    for row, classes in zip(labels, boxes.values(), strict=True):
        row[[label - 1 for label in classes]] = True
    return np.array(list(boxes), np.float32).reshape(-1, 4), labels


def crop_boxes(boxes: np.ndarray, geometry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as a clip shows them.

    Args:
      boxes: (n, 4) left, top, right, bottom, relative to the frame.
      geometry: (7,), see `wt_jax.specs.GEOMETRY`: what was cut from the frame, and whether it is mirrored.

    Returns:
      The boxes float32 (n, 4), relative to the clip and within it; and float32 (n,), the part of each box's area that the
      clip shows, in [0, 1].
    """
    flip, top, left, bottom, right = geometry[:5]
    origin, sides = np.array([left, top, left, top], np.float32), np.array([right - left, bottom - top] * 2, np.float32)
    whole = (boxes - origin) / sides
    if flip:
        whole = np.stack([1 - whole[:, 2], whole[:, 1], 1 - whole[:, 0], whole[:, 3]], axis=1)
    shown = np.clip(whole, 0, 1)
    return shown.astype(np.float32), (_area(shown) / np.maximum(_area(whole), np.finfo(np.float32).tiny)).astype(np.float32)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
