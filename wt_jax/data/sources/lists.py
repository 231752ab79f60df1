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
from wt_jax.data.sources.text import is_skipped, lines_of, read_text, records_of
from wt_jax.data.video.reader import EXTENSIONS, file_of, is_remote
from wt_jax.errors import SourceError

log = logging.getLogger(__name__)

OK = "ok"  # the status of a video without fault
_DELIMITERS = ",;\t"
_COLUMNS = ("path", "label", "name", "status", TIME)  # that mean something here
_SPARSE = 1000  # A largest label of less is one of a class, however few labels there are.
_KNOWN = "|".join(re.escape(extension) for extension in EXTENSIONS)
# A path may hold spaces, so it ends at the last video extension; one label without spaces may follow.
_LINE = re.compile(rf"(?P<path>.*(?:{_KNOWN}))(?:(?:\s*[,\t]\s*|\s+)(?P<label>[^\s,]+))?", re.IGNORECASE)
_MORE = re.compile(rf".*(?:{_KNOWN})(?:\s*[,\t]\s*|\s+)\S.*", re.IGNORECASE)


def read_list(place: epath.Path, root: str = "", max_bad_fraction: float = 0.01) -> VideoList:
    """The videos of a list file or an index; see `wt_jax.data.sources.open.open_source`.

    What it gave and what it left out goes to the log.

    Raises:
      SourceError: it is no list, it contradicts itself, or too many of its files are missing.
    """
    videos = _from_text(place, read_text(place), str(epath.Path(root).expanduser() if root else place.parent))
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


def _from_text(place: epath.Path, text: str, root: str) -> VideoList:
    """Parses a list, with or without a CSV header."""
    lines = [(number, line) for number, line in enumerate(lines_of(text), 1) if not is_skipped(line)]
    skipped = sum(line.startswith("#") for line in lines_of(text))
    if lines and lines[0][1].startswith("sep="):  # With which Excel names the delimiter.
        text, lines = text.replace(lines[0][1], "", 1), lines[1:]
    if not lines:
        raise SourceError(f"{place}: the list is empty; write one `path label` per line")
    delimiter = next((sign for sign in _DELIMITERS if "path" in _names(lines[0][1], sign)), None)
    if delimiter:
        numbers, rows = _from_csv(place, text, delimiter)
    else:
        numbers = [number for number, _ in lines]
        rows = [_from_line(place, number, line, root) for number, line in lines]
    labels, classes = _labels(place, numbers, rows)
    _check_times(place, numbers, rows)
    names = [name for name in rows[0] if name not in ("path", "label")]
    paths = tuple(row["path"] if is_remote(row["path"]) else _full(root, row["path"]) for row in rows)
    left_out = [f"{skipped} lines that start with #"] if skipped else []
    if delimiter and "label" not in rows[0]:
        left_out += [f"labels, as no column is called `label` (there are {', '.join(rows[0])})"]
    counts = f"{len(rows):,} rows, {len(set(paths)):,} videos, {len(classes):,} classes, {(labels >= 0).sum():,} labels"
    log.info("%s: %s%s", place, counts, f"; without {'; '.join(left_out)}" if left_out else "")
    return VideoList(paths, labels, classes, {name: tuple(row[name] for row in rows) for name in names})


def _names(line: str, delimiter: str) -> list[str]:
    """The names of columns in a header; those that have a meaning here in small letters."""
    names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]
    return [name.lower() if name.lower() in _COLUMNS else name for name in names]


def _from_csv(place: epath.Path, text: str, delimiter: str) -> tuple[list[int], list[dict[str, str]]]:
    """Numbers of lines, and rows by columns, of a CSV file."""
    records = records_of(text, delimiter)
    _, header = next(records)
    # Who writes a space behind each delimiter of the header does so in the rows.
    spaced = any(name != name.strip() for name in header)
    header = _names(delimiter.join(header), delimiter) if not spaced else [name.strip() for name in header]
    header = [name.lower() if name.lower() in _COLUMNS else name for name in header]
    numbers, rows = [], []
    for number, values in records:
        while len(values) > len(header) and not values[-1].strip():  # Excel fills up rows with empty cells.
            values.pop()
        if len(values) != len(header) or not values[header.index("path")].strip():
            raise SourceError(
                f"{place}, line {number}: expected the columns {delimiter.join(header)}, got {delimiter.join(values)!r}"
            )
        row = dict(zip(header, values, strict=True))
        numbers.append(number)
        rows.append({name: value.strip() if spaced or name != "path" else value for name, value in row.items() if name})
    if not rows:
        raise SourceError(f"{place}: the list is empty; write one video per line below the header")
    return numbers, rows


def _from_line(place: epath.Path, number: int, line: str, root: str) -> dict[str, str]:
    """Path and label of a line without columns."""
    line = line.strip()
    if match := _LINE.fullmatch(line):
        return {"path": match["path"], "label": match["label"] or ""}
    where = f"{place}, line {number}"
    if match := _MORE.fullmatch(line):
        raise SourceError(
            f"{where}: expected `path label`, got {line!r} like `path start label`, `path frames label` or several "
            "labels; write a CSV file with the header `path,label`, one label per video, and the rest in further columns"
        )
    # A folder of frames, or a name without extension, is what is there.
    words = re.split(r"\s*[,\t]\s*|\s+", line)
    if len(words) == 3 and words[1].isdecimal() and os.path.isdir(os.path.join(root, words[0])):
        return {"path": words[0], "label": words[2]}  # as lists of frame folders have it: folder, number of frames, label
    path = re.split(r"\s*[,\t]\s*|\s+(?=\S+$)", line, maxsplit=1)
    for candidate, label in ((line, ""), (path[0], path[-1])):
        if not is_remote(candidate) and os.path.exists(_full(root, candidate)):
            return {"path": candidate, "label": label}
    raise SourceError(
        f"{where}: expected `path label` with a video ({' '.join(EXTENSIONS)}) or a folder of frames, got {line!r}; neither "
        f"{os.path.join(root, path[0])} nor a video of this name is there. A CSV file needs a header with a column `path`"
    )


def _full(root: str, path: str) -> str:
    """The path of a local video; a name without extension may be that of a video file."""
    full = os.path.join(root, path)
    if path.lower().endswith(EXTENSIONS) or "#" in path or os.path.exists(full):
        return full
    return next((full + extension for extension in EXTENSIONS if os.path.exists(full + extension)), full)


def _labels(place: epath.Path, numbers: list[int], rows: list[dict[str, str]]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and class names of the rows, which are all labelled alike."""
    texts = [row.get("label", "") for row in rows]
    kinds = [_kind(place, number, text) for number, text in zip(numbers, texts, strict=True)]
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
    values = [int(float(text)) for text in texts]
    if max(values) > np.iinfo(np.int32).max:
        raise SourceError(f"{place}: label {max(values)} is no number of a class; write the names of the classes instead")
    labels = np.array(values, np.int32)
    beside = place.parent / "classes.txt"
    if beside.exists():
        classes = tuple(line.strip() for line in lines_of(read_text(beside)) if line.strip())
        if labels.max() >= len(classes):
            raise SourceError(
                f"{place}: label {labels.max()} has no name in {beside}, which names {len(classes)} classes from 0; "
                "add the names, or remove that file"
            )
        return labels, classes
    numbers_of = np.unique(labels)
    sparse = labels.max() >= max(_SPARSE, 10 * len(numbers_of))
    if sparse:
        log.info(
            "%s: labels up to %d for %d classes: these are numbered anew, in this order", place, labels.max(), len(numbers_of)
        )
    named = {label: str(label) for label in (numbers_of.tolist() if sparse else range(int(labels.max()) + 1))}
    for number, label, row in zip(numbers, labels.tolist(), rows, strict=True):
        name = row.get("name") or named[label]
        if named[label] not in (str(label), name):
            raise SourceError(
                f"{place}, line {number}: label {label} is called {name!r}, above it is {named[label]!r}; use one name"
            )
        named[label] = name
    return np.searchsorted(numbers_of, labels).astype(np.int32) if sparse else labels, tuple(named.values())


def _check_times(place: epath.Path, numbers: list[int], rows: list[dict[str, str]]) -> None:
    """Raises where a column of times holds anything but seconds of 0 or more, or nothing."""
    for number, row in zip(numbers, rows, strict=True):
        try:
            valid = 0 <= float(row.get(TIME) or 0) < math.inf
        except ValueError:
            valid = False
        if not valid:
            raise SourceError(f"{place}, line {number}: expected seconds from the start of the video, got {TIME} {row[TIME]!r}")


def _kind(place: epath.Path, number: int, label: str) -> str:
    if re.fullmatch(r"|-1(\.0*)?", label):
        return "no label"
    if re.fullmatch(r"\d+(\.0*)?", label):  # Tables with gaps store integers as 1.0.
        return "an integer label"
    if re.fullmatch(r"-?\d*\.\d+", label):
        raise SourceError(f"{place}, line {number}: the label {label} is neither a name nor an integer from 0")
    try:
        label.encode()
    except UnicodeEncodeError:
        raise SourceError(f"{place}, line {number}: the label is no UTF-8; save the list in that encoding") from None
    return "a label by name"


def _check_files(place: epath.Path, videos: VideoList, max_bad_fraction: float) -> None:
    missing = [_shown(path) for path in videos.paths if not is_remote(path) and not os.path.exists(file_of(path))]
    if len(missing) > max_bad_fraction * len(videos):
        raise SourceError(
            f"{place}: {len(missing)} of {len(videos)} listed files are missing ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); fix the list, set config.data.root, or raise config.data.max_bad_fraction"
        )


def _shown(path: str) -> str:
    """A path as it can be printed; with a hint where its bytes are no UTF-8."""
    shown = path.encode("utf-8", "backslashreplace").decode()
    return shown if shown == path else f"{shown}: no UTF-8, in which encoding is the list?"
