"""What there is to learn from: a list file, class folders or any tree of videos -> records with random access.

A `VideoList` is a handful of tuples and arrays, cheap to send to worker processes; nothing here opens a video.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

EXTENSIONS = (
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv",
)  # fmt: skip
_KNOWN = "|".join(re.escape(extension) for extension in EXTENSIONS)
# A path may hold spaces, so it ends at the last video extension; one label without spaces may follow.
_LINE = re.compile(rf"(?P<path>.*(?:{_KNOWN}))(?:(?:\s*[,\t]\s*|\s+)(?P<label>[^\s,]+))?", re.IGNORECASE)


class SourceError(ValueError):
    """A data source that cannot be used; the message names the thing and the remedy in one line."""


@dataclass(frozen=True)
class Record:
    """One video: its place in the list, its path, and its class or -1."""

    index: int
    path: str
    label: int


@dataclass(frozen=True, eq=False)
class VideoList(Sequence[Record]):
    """Videos with random access.

    Attributes:
      paths: one path per video.
      labels: int32 [n], classes in [0, len(classes)), or -1 throughout where nothing is labelled.
      classes: class names; empty where nothing is labelled.
      columns: further columns of a CSV list, one text per video.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...] = ()
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        path = self.paths[index]  # Raises IndexError, which ends iteration.
        return Record(int(index) % len(self), path, int(self.labels[index]))

    def select(self, indices: Iterable[int]) -> VideoList:
        """The videos at these places, renumbered from 0; the classes stay as they are."""
        chosen = [int(index) for index in indices]
        return VideoList(
            paths=tuple(self.paths[index] for index in chosen),
            labels=self.labels[chosen],
            classes=self.classes,
            columns={name: tuple(values[index] for index in chosen) for name, values in self.columns.items()},
        )


def open_source(location: str, root: str = "", max_bad_fraction: float = 0.01) -> VideoList:
    """Lists the videos of a list file or a folder.

    A list file has lines `path label`, separated by space, comma or tab; the label, a name or an integer from 0, may be
    left out (or -1) throughout. Blank lines and lines that start with # are skipped. A CSV file with a header needs a
    column `path` and may have `label`, `name` (of an integer label) and others. A `classes.txt` beside the list, one
    name per line, names integer labels.

    A folder whose videos all lie in two or more direct subfolders is a set of classes, numbered in sorted order. Any
    other tree is taken as unlabelled, sorted by path.

    Args:
      location: the list file or folder.
      root: folder for relative paths in a list; by default the folder of the list.
      max_bad_fraction: share of listed files that may be missing, in [0, 1]. They stay in the list, and loading
        replaces and counts them.

    Raises:
      SourceError: there is nothing to read, or it contradicts itself.
    """
    place = Path(location).expanduser()
    if place.is_dir():
        return _from_folder(place)
    if not place.is_file():
        raise SourceError(f"{location}: there is no such file or folder; set data.source to a list file or a folder")
    if place.suffix.lower() in EXTENSIONS:
        raise SourceError(f"{location}: this is a single video; give the folder that holds it, or a list file")
    try:
        lines = place.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(f"{location}: this is no text file; give a folder or a list of `path label` lines") from error
    videos = _from_lines(place, lines, Path(root).expanduser() if root else place.parent)
    _check_files(location, videos, max_bad_fraction)
    return videos


def same_classes(lists: Sequence[VideoList]) -> list[VideoList]:
    """The lists with one numbering of their classes, so that a class means the same in each.

    Where the numberings agree (a name may be missing, or be the number itself) they stay. Otherwise names decide: a class
    that one list lacks has shifted the numbers of those after it.
    """
    classes: list[str] = []
    for videos in lists:
        classes += map(str, range(len(classes), len(videos.classes)))
        classes = [_name_of(number, name, videos.classes) for number, name in enumerate(classes)]
    if any(own not in (name, str(n)) for v in lists for n, (own, name) in enumerate(zip(v.classes, classes, strict=False))):
        classes = list(dict.fromkeys(name for videos in lists for name in videos.classes))
        numbers = [np.array([classes.index(name) for name in videos.classes], np.int32) for videos in lists]
    else:
        numbers = [np.arange(len(videos.classes), dtype=np.int32) for videos in lists]
    return [
        VideoList(v.paths, number[v.labels], tuple(classes), v.columns) if v.classes else v
        for v, number in zip(lists, numbers, strict=True)
    ]


def _name_of(number: int, name: str, classes: Sequence[str]) -> str:
    """The name of a class, where `name` may be but its number and another list may know better."""
    return classes[number] if name == str(number) and number < len(classes) else name


def _from_folder(folder: Path) -> VideoList:
    paths = sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
    )
    if not paths:
        raise SourceError(f"{folder}: no video below this folder; looked for {' '.join(EXTENSIONS)}")
    names = sorted({path.parent.name for path in paths})
    texts = tuple(str(path) for path in paths)
    if len(names) > 1 and all(path.parent.parent == folder for path in paths):
        number = {name: label for label, name in enumerate(names)}
        return VideoList(texts, np.array([number[path.parent.name] for path in paths], np.int32), tuple(names))
    return VideoList(texts, np.full(len(paths), -1, np.int32))


def _from_lines(place: Path, lines: list[str], root: Path) -> VideoList:
    """Parses a list, with or without a CSV header."""
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not numbered:
        raise SourceError(f"{place}: the list is empty; write one `path label` per line")
    header = next(csv.reader([numbered[0][1]]))
    rows: list[dict[str, str]] = []
    numbers = [number for number, _ in numbered]
    if "path" in header:
        for number, line in numbered[1:]:
            values = next(csv.reader([line]))
            if len(values) != len(header) or not values[header.index("path")]:
                raise SourceError(f"{place}, line {number}: expected the columns {','.join(header)}, got {line!r}")
            rows.append(dict(zip(header, values, strict=True)))
        numbers = numbers[1:]
        if not rows:
            raise SourceError(f"{place}: the list is empty; write one video per line below the header")
    else:
        for number, line in numbered:
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise SourceError(
                    f"{place}, line {number}: expected `path label` with a video ({' '.join(EXTENSIONS)}), got {line!r}"
                )
            rows.append({"path": match["path"], "label": match["label"] or ""})
    labels, classes = _labels(place, numbers, rows)
    names = [name for name in rows[0] if name not in ("path", "label")]
    return VideoList(
        paths=tuple(os.path.join(root, row["path"]) for row in rows),
        labels=labels,
        classes=classes,
        columns={name: tuple(row[name] for row in rows) for name in names},
    )


def _labels(place: Path, numbers: list[int], rows: list[dict[str, str]]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and class names of the rows, which are all labelled alike."""
    texts = [row.get("label", "") for row in rows]
    kinds = [_kind(text) for text in texts]
    for number, kind in zip(numbers, kinds, strict=True):
        if kind != kinds[0]:
            raise SourceError(
                f"{place}, line {number}: {kind}, but line {numbers[0]} has {kinds[0]}; label all lines alike or none"
            )
    if kinds[0] == "no label":
        return np.full(len(rows), -1, np.int32), ()
    if kinds[0] == "a label by name":
        classes = tuple(sorted(set(texts)))
        number_of = {name: label for label, name in enumerate(classes)}
        return np.array([number_of[text] for text in texts], np.int32), classes
    labels = np.array([int(text) for text in texts], np.int32)
    beside = place.parent / "classes.txt"
    if beside.is_file():
        classes = tuple(line.strip() for line in beside.read_text(encoding="utf-8-sig").splitlines() if line.strip())
        if labels.max() >= len(classes):
            raise SourceError(
                f"{place}: label {labels.max()} has no name in {beside}, which names {len(classes)} classes from 0; "
                "add the names, or remove that file"
            )
        return labels, classes
    named = {label: str(label) for label in range(int(labels.max()) + 1)}
    for number, label, row in zip(numbers, labels.tolist(), rows, strict=True):
        name = row.get("name") or named[label]
        if named[label] not in (str(label), name):
            raise SourceError(
                f"{place}, line {number}: label {label} is called {name!r}, above it is {named[label]!r}; use one name"
            )
        named[label] = name
    return labels, tuple(named.values())


def _kind(label: str) -> str:
    if label in ("", "-1"):
        return "no label"
    return "an integer label" if label.isdecimal() else "a label by name"


def _check_files(location: str, videos: VideoList, max_bad_fraction: float) -> None:
    missing = [path for path in videos.paths if not os.path.exists(path)]
    if len(missing) > max_bad_fraction * len(videos):
        raise SourceError(
            f"{location}: {len(missing)} of {len(videos)} listed files are missing ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); fix the list, set data.root, or raise data.max_bad_fraction"
        )
