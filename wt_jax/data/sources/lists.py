"""Reads list files: lines of `path label`, CSV with a header, and the indexes of `check_videos` and `pack`."""

from __future__ import annotations

import csv
import logging
import math
import os
import re

import numpy as np
from etils import epath

from wt_jax.data.records import TIME, VideoList
from wt_jax.data.video.reader import EXTENSIONS, file_of, is_remote
from wt_jax.errors import SourceError

log = logging.getLogger(__name__)

OK = "ok"  # the status of a video without fault
_KNOWN = "|".join(re.escape(extension) for extension in EXTENSIONS)
# A path may hold spaces, so it ends at the last video extension; one label without spaces may follow.
_LINE = re.compile(rf"(?P<path>.*(?:{_KNOWN}))(?:(?:\s*[,\t]\s*|\s+)(?P<label>[^\s,]+))?", re.IGNORECASE)


def read_list(place: epath.Path, root: str = "", max_bad_fraction: float = 0.01) -> VideoList:
    """The videos of a list file or an index; see `wt_jax.data.sources.open.open_source`.

    Raises:
      SourceError: it is no list, it contradicts itself, or too many of its files are missing.
    """
    try:
        lines = place.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(f"{place}: this is no text file; give a folder or a list of `path label` lines") from error
    videos = _from_lines(place, lines, str(epath.Path(root).expanduser() if root else place.parent))
    if "status" in videos.columns:
        return _sound(place, videos)
    _check_files(place, videos, max_bad_fraction)
    return videos


def _sound(place: epath.Path, videos: VideoList) -> VideoList:
    """The videos of an index that are not broken."""
    sound = [index for index, status in enumerate(videos.columns["status"]) if status == OK]
    if len(sound) < len(videos):
        log.warning("%s: %d of %d videos are left out as broken", place, len(videos) - len(sound), len(videos))
    if not sound:
        raise SourceError(f"{place}: every video of the index is broken; its column `status` says how")
    return videos.select(sound)


def _from_lines(place: epath.Path, lines: list[str], root: str) -> VideoList:
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
    _check_times(place, numbers, rows)
    names = [name for name in rows[0] if name not in ("path", "label")]
    return VideoList(
        paths=tuple(row["path"] if is_remote(row["path"]) else os.path.join(root, row["path"]) for row in rows),
        labels=labels,
        classes=classes,
        columns={name: tuple(row[name] for row in rows) for name in names},
    )


def _labels(place: epath.Path, numbers: list[int], rows: list[dict[str, str]]) -> tuple[np.ndarray, tuple[str, ...]]:
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
    if beside.exists():
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


def _check_times(place: epath.Path, numbers: list[int], rows: list[dict[str, str]]) -> None:
    """Raises where a column of times holds anything but seconds of 0 or more, or nothing."""
    for number, row in zip(numbers, rows, strict=True):
        try:
            valid = 0 <= float(row.get(TIME) or 0) < math.inf
        except ValueError:
            valid = False
        if not valid:
            raise SourceError(f"{place}, line {number}: expected seconds from the start of the video, got {TIME} {row[TIME]!r}")


def _kind(label: str) -> str:
    if label in ("", "-1"):
        return "no label"
    return "an integer label" if label.isdecimal() else "a label by name"


def _check_files(place: epath.Path, videos: VideoList, max_bad_fraction: float) -> None:
    missing = [path for path in videos.paths if not is_remote(path) and not os.path.exists(file_of(path))]
    if len(missing) > max_bad_fraction * len(videos):
        raise SourceError(
            f"{place}: {len(missing)} of {len(videos)} listed files are missing ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); fix the list, set config.data.root, or raise config.data.max_bad_fraction"
        )
