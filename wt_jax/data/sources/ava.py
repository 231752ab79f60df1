"""AVA's official annotations (https://research.google.com/ava) -> key frames, labelled boxes, evaluated classes.

In the folder of annotations, or below it:

    ava_train_v2.2.csv, ava_val_v2.2.csv       video,second,x1,y1,x2,y2,class,person
    ava_train_excluded_timestamps_v2.2.csv     video,second: neither trained on nor evaluated; the same for val
    ava_action_list_*_for_activitynet_*.pbtxt  the label map of the classes that are evaluated
    ava_detection_val_boxes_and_labels.csv     video,second,x1,y1,x2,y2,,score: boxes of a person detector, PySlowFast's

Of several versions of a file the last by name counts.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from wt_jax.data.boxes import read_classes
from wt_jax.errors import SourceError

VIDEOS = {"train": 235, "val": 64}  # officially, of v2.1 and v2.2
LEAST_SCORE = 0.8  # of a detected box, as VideoMAE's code has it; PySlowFast's Slow has 0.9

Key = tuple[str, str]  # video and second, as they are written
Rows = list[list[str]]


@dataclass(frozen=True)
class KeyFrames:
    """One split: rows in AVA's columns of the boxes, annotated and detected, of key frames that are not excluded."""

    name: str
    boxes: Rows
    detected: Rows

    @property
    def keys(self) -> list[Key]:
        """The key frames with an annotated box, in the order of the file."""
        return list(dict.fromkeys((row[0], row[1]) for row in self.boxes))


def read_ava(folder: Path) -> tuple[list[KeyFrames], dict[int, str]]:
    """The splits whose annotations are there, and {number: name} of the classes that are evaluated.

    Raises:
      SourceError: a file is missing or faulty.
    """
    splits = []
    for name in VIDEOS:
        annotated = _find(folder, f"ava_{name}_v*.csv") or _find(folder, f"ava_{name}.csv")
        if annotated is None:
            continue
        excluded = {(row[0], float(row[1])) for row in _rows(_find(folder, f"ava_{name}_excluded_timestamps*.csv"), (2,))}
        boxes = [row for row in _rows(annotated, (2, 7, 8)) if len(row) > 2]
        detected = [
            row
            for row in _rows(_find(folder, f"ava_detection_{name}_boxes_and_labels*.csv"), (8,))
            if float(row[7] or 0) >= LEAST_SCORE
        ]
        kept = ([row for row in rows if (row[0], float(row[1])) not in excluded] for rows in (boxes, detected))
        splits.append(KeyFrames(name, *kept))
    if not splits:
        raise SourceError(f"{folder}: there is no ava_train_v*.csv or ava_val_v*.csv; give the folder of AVA's annotations")
    labels = _find(folder, "ava_action_list*activitynet*.pbtxt*")
    if labels is None:
        raise SourceError(f"{folder}: there is no ava_action_list_*_for_activitynet_*.pbtxt, the classes that are evaluated")
    return splits, read_classes(str(labels))


def moved(row: list[str], start: float) -> list[str]:
    """A row whose second counts from `start`, the second of the movie at which the videos begin."""
    return [row[0], f"{float(row[1]) - start:g}", *row[2:]]


def _find(folder: Path, pattern: str) -> Path | None:
    return max(folder.rglob(pattern), default=None)


def _rows(path: Path | None, widths: tuple[int, ...]) -> Rows:
    """The rows of a file; none where there is no file."""
    if path is None:
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
        for number, row in enumerate(rows, 1):
            if len(row) not in widths or float(row[1]) < 0:
                raise SourceError(
                    f"{path}, row {number}: expected {' or '.join(map(str, widths))} columns, got {','.join(row)!r}"
                )
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: it cannot be read ({error})") from None
    return rows
