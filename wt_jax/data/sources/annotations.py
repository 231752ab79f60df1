"""Official annotations of video data sets -> (key of a video, class) per split, and the official counts.

Formats are those of the authors' files; see each reader. A key is what names the video's file, without folder and extension.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wt_jax.errors import SourceError

# Kinetics-400 from the CVDF copy's page; UCF101 and Something-Something v2 as published with derived lists; HMDB51 has
# 70 training and 30 test videos per class in every split.
OFFICIAL: Mapping[str, tuple[int, str]] = {
    "kinetics400/train": (246_535, "of which the CVDF copy holds 241,258"),
    "kinetics400/validation": (19_907, "of which the CVDF copy holds 19,881"),
    "ucf101/train_1": (9_537, ""),
    "ucf101/test_1": (3_783, ""),
    "ssv2/train": (168_913, ""),
    "ssv2/validation": (24_777, ""),
} | {f"hmdb51/{part}_{split}": (count * 51, "") for part, count in (("train", 70), ("test", 30)) for split in (1, 2, 3)}


@dataclass(frozen=True)
class Split:
    """One split as annotated: `videos` maps keys of videos to classes, `classes` are in the official order."""

    name: str
    videos: Mapping[str, str]
    classes: tuple[str, ...]


def compare(dataset: str, count: int) -> str:
    """One line: `count` videos against the official number of a split, NAME/SPLIT; empty for no data set.

    Raises:
      SourceError: there is no such data set.
    """
    if not dataset:
        return ""
    if dataset.partition("/")[0] not in READERS:
        known = ", ".join(OFFICIAL)
        raise SourceError(f"--dataset={dataset}: unknown; write NAME/SPLIT, such as {known}")
    if dataset not in OFFICIAL:
        return f"{dataset}: {count:,} videos (no official count is known here, not checked)"
    official, note = OFFICIAL[dataset]
    note = f", {note}" if note else ""
    verdict = "as it should be" if count == official else f"{abs(official - count):,} {'fewer' if count < official else 'more'}"
    return f"{dataset}: {count:,} videos, officially {official:,}{note}: {verdict}"


def read_ucf101(folder: Path) -> list[Split]:
    """classInd.txt (`1 ApplyEyeMakeup`), trainlist0N.txt and testlist0N.txt (`Class/v_Class_g08_c01.avi [1]`)."""
    lines = _lines(folder, "classInd.txt")
    classes = tuple(line.split()[1] for line in sorted(lines, key=lambda line: int(line.split()[0])))
    splits = []
    for number in (1, 2, 3):
        for part in ("train", "test"):
            places = [line.split()[0] for line in _lines(folder, f"{part}list{number:02}.txt")]
            videos = {place.removesuffix(".avi"): place.partition("/")[0] for place in places}
            splits.append(_split(folder, f"{part}_{number}", videos, classes))
    return splits


def read_hmdb51(folder: Path) -> list[Split]:
    """CLASS_test_splitN.txt with lines `NAME.avi 1` (training), `NAME.avi 2` (test) or `NAME.avi 0` (unused)."""
    matches = [re.fullmatch(r"(.+)_test_split([123])\.txt", path.name) for path in sorted(folder.glob("*.txt"))]
    files = [match for match in matches if match]
    if not files:
        raise SourceError(f"{folder}: no CLASS_test_splitN.txt in it; give the folder of HMDB51's split files")
    found: dict[str, dict[str, str]] = {f"{part}_{number}": {} for number in (1, 2, 3) for part in ("train", "test")}
    for match in files:
        label, number = match.groups()
        for line in _lines(folder, match[0]):
            name, _, use = line.strip().rpartition(" ")
            if use not in ("0", "1", "2"):
                raise SourceError(f"{folder / match[0]}: expected `NAME.avi` and 0, 1 or 2, got {line!r}")
            if use != "0":
                found[f"{'train' if use == '1' else 'test'}_{number}"][f"{label}/{name.strip().removesuffix('.avi')}"] = label
    classes = tuple(sorted({match[1] for match in files}))
    return [_split(folder, name, videos, classes) for name, videos in found.items()]


def read_kinetics(folder: Path) -> list[Split]:
    """CSV files with the columns label, youtube_id, time_start, time_end (and split): ID_SSSSSS_EEEEEE, seconds."""
    found: dict[str, dict[str, str]] = {}
    names = {"val": "validation", "validate": "validation"}
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if not {"label", "youtube_id", "time_start", "time_end"} <= set(rows.fieldnames or ()):
                continue  # Test sets without labels, and what else may lie there.
            for row in rows:
                split = names.get(row.get("split") or path.stem, row.get("split") or path.stem)
                key = f"{row['youtube_id']}_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
                found.setdefault(split, {})[key] = row["label"]
    if not found:
        raise SourceError(f"{folder}: no CSV with the columns label, youtube_id, time_start, time_end in it")
    classes = tuple(sorted({label for videos in found.values() for label in videos.values()}))
    return [Split(name, videos, classes) for name, videos in found.items()]


def read_ssv2(folder: Path) -> list[Split]:
    """labels.json (template: number as text), train.json, validation.json (lists of id, template with [brackets])."""
    numbers = _json(folder, "labels.json", "something-something-v2-labels.json")
    classes = tuple(sorted(numbers, key=lambda name: int(numbers[name])))
    splits = []
    for part in ("train", "validation"):
        entries = _json(folder, f"{part}.json", f"something-something-v2-{part}.json")
        videos = {str(entry["id"]): entry["template"].replace("[", "").replace("]", "") for entry in entries}
        splits.append(_split(folder, part, videos, classes))
    return splits


def read_diving48(folder: Path) -> list[Split]:
    """Diving48_V2_train.json, Diving48_V2_test.json (lists of vid_name, label), Diving48_vocab.json (names), or V1's."""
    splits, vocabulary = [], [" ".join(words) for words in _json(folder, "Diving48_vocab.json")]
    for part in ("train", "test"):
        entries = _json(folder, f"Diving48_V2_{part}.json", f"Diving48_{part}.json")
        # A name may stand in the vocabulary twice; the number tells the classes apart.
        names = [f"{number} {name}" if vocabulary.count(name) > 1 else name for number, name in enumerate(vocabulary)]
        for entry in entries:
            if not 0 <= int(entry["label"]) < len(names):
                raise SourceError(f"{folder}: label {entry['label']} of {entry['vid_name']} is not in Diving48_vocab.json")
        videos = {entry["vid_name"]: names[int(entry["label"])] for entry in entries}
        splits.append(Split(part, videos, tuple(names)))
    return splits


READERS: Mapping[str, Callable[[Path], list[Split]]] = {
    "ucf101": read_ucf101,
    "hmdb51": read_hmdb51,
    "kinetics400": read_kinetics,
    "kinetics600": read_kinetics,
    "kinetics700": read_kinetics,
    "ssv2": read_ssv2,
    "diving48": read_diving48,
}


def _split(folder: Path, name: str, videos: Mapping[str, str], classes: tuple[str, ...]) -> Split:
    unknown = sorted(set(videos.values()) - set(classes))
    if unknown:
        raise SourceError(f"{folder}: split {name} has the class {unknown[0]!r}, which its list of classes lacks")
    return Split(name, videos, classes)


def _lines(folder: Path, name: str) -> list[str]:
    try:
        return [line for line in (folder / name).read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise SourceError(f"{folder / name}: {error.strerror}; give the folder of the official annotation files") from error


def _json(folder: Path, *names: str):
    """The first of these files that is there."""
    path = next((folder / name for name in names if (folder / name).exists()), None)
    if path is None:
        raise SourceError(f"{folder}: there is no {' or '.join(names)}; give the folder of the official annotation files")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SourceError(f"{path}: no JSON ({error})") from error
