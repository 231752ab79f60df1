"""Turns the official annotations of a data set into list files:

    wt-jax make-lists NAME --annotations=FOLDER --videos=FOLDER --out=FOLDER

NAME is one of ucf101, hmdb51, kinetics400, kinetics600, kinetics700, ssv2, diving48, ava. Videos are found by their names
anywhere below --videos, so any layout of folders will do. For each split OUT/NAME_SPLIT.csv (path, label, name) is written,
which every source opens; annotated videos without a file are counted, and named in OUT/NAME_SPLIT_missing.txt.

AVA's lists have a row for each key frame (path, time). Beside them are OUT/ava_boxes.csv, the labelled boxes, and
OUT/ava_classes.csv, the classes that are evaluated; and, where they are among the annotations, OUT/ava_detected.csv, detected
boxes. Where the videos are cut from their movies, --start is the second of the movie at which they begin (PySlowFast cuts at
900).
"""

import datetime
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from wt_jax.cli import parse_arguments, set_up_logging, user_errors
from wt_jax.data.records import TIME
from wt_jax.data.sources.annotations import READERS, Split, compare
from wt_jax.data.sources.ava import VIDEOS, KeyFrames, moved, read_ava
from wt_jax.data.sources.folders import find_videos, is_video_file
from wt_jax.data.sources.text import csv_text, headless_csv
from wt_jax.errors import SourceError
from wt_jax.files import write_atomic

AVA = "ava"
NAMES = (*READERS, AVA)


def make_lists(name: str, annotations: Path, videos: Path, out: Path, start: float = 0.0) -> list[str]:
    """Writes the lists and returns one line per split: date, counts, what is missing.

    Args:
      name: a data set of `wt_jax.data.sources.annotations.READERS`, or "ava".
      annotations: folder of its official files.
      videos: folder of its videos.
      out: folder for the lists; it is made.
      start: of AVA, the second of a movie at which its video begins.

    Raises:
      SourceError: the data set is unknown, a file is missing or faulty, or no annotated video was found.
    """
    if name not in NAMES:
        raise SourceError(f"{name}: unknown data set; choose one of {', '.join(NAMES)}")
    if name == AVA:
        return _make_key_frames(annotations, _find_videos(videos), out, start)
    splits = READERS[name](annotations)
    files = _find_videos(videos)
    if not any(_path_of(key, files) for split in splits for key in split.videos):
        raise SourceError(f"{videos}: none of the videos that {annotations} names is below it")
    out.mkdir(parents=True, exist_ok=True)
    return [_write(name, split, files, out) for split in splits]


def _make_key_frames(annotations: Path, files: dict[str, Path], out: Path, start: float) -> list[str]:
    """Writes AVA's lists and tables; see the module."""
    splits, classes = read_ava(annotations)
    found = {video for split in splits for video, _ in split.keys if video in files}
    if not found:
        raise SourceError(f"none of the videos that {annotations} names is below --videos")
    out.mkdir(parents=True, exist_ok=True)
    lines = [_write_key_frames(split, files, found, out, start) for split in splits]
    tables = {
        "boxes": [row for split in splits for row in split.boxes],
        "detected": [row for split in splits for row in split.detected],
    }
    for name, rows in tables.items():
        if rows:
            write_atomic(out / f"{AVA}_{name}.csv", headless_csv(moved(row, start) for row in rows if row[0] in found))
    write_atomic(out / f"{AVA}_classes.csv", headless_csv([str(number), name] for number, name in classes.items()))
    counts = f"{len(tables['boxes']):,} labels, {len(tables['detected']):,} detected boxes"
    return [*lines, f"  {counts}, {len(classes)} classes that are evaluated"]


def _write_key_frames(split: KeyFrames, files: dict[str, Path], found: set[str], out: Path, start: float) -> str:
    """Writes one of AVA's lists; returns what there is to say about it."""
    keys = [moved(list(key), start) for key in split.keys if key[0] in found]
    early = next((video for video, second in keys if float(second) < 0), None)
    if early:
        raise SourceError(f"--start={start:g}: {early} has a key frame before it; give the second at which videos begin")
    target = out / f"{AVA}_{split.name}.csv"
    write_atomic(target, csv_text(("path", TIME), ({"path": str(files[v]), TIME: second} for v, second in keys)))
    videos = dict.fromkeys(video for video, _ in split.keys)
    missing = _note(out / f"{AVA}_{split.name}_missing.txt", [video for video in videos if video not in found])
    there = len(videos.keys() & found)
    line = f"{datetime.date.today()} {target}: {len(keys):,} key frames of {there:,} videos, {len(videos):,} annotated"
    return f"{line}, officially {VIDEOS[split.name]}{missing}"


def _find_videos(folder: Path) -> dict[str, Path]:
    """Videos by name without extension, and by parent folder and name, since a name alone may stand for two."""
    if not folder.is_dir():
        raise SourceError(f"{folder}: there is no such folder of videos")
    found: dict[str, Path] = {}
    for video in find_videos(os.path.abspath(folder), Counter()):
        path = Path(video)
        name = path.stem if is_video_file(path.name) else path.name  # of a folder of frames the whole name
        found.setdefault(name, path)
        found[f"{path.parent.name}/{name}"] = path
    return found


def _path_of(key: str, files: dict[str, Path]) -> Path | None:
    """The file of a key, NAME or CLASS/NAME; the latter may lie in another folder if its name is unique."""
    return files.get(key) or files.get(key.rpartition("/")[2])


def _write(name: str, split: Split, files: dict[str, Path], out: Path) -> str:
    """Writes one list; returns what there is to say about it."""
    number = {label: place for place, label in enumerate(split.classes)}
    paths = {key: _path_of(key, files) for key in split.videos}
    target = out / f"{name}_{split.name}.csv"
    found = {key: label for key, label in split.videos.items() if paths[key]}
    rows = ({"path": str(paths[key]), "label": number[label], "name": label} for key, label in found.items())
    write_atomic(target, csv_text(("path", "label", "name"), rows))
    missing = _note(out / f"{name}_{split.name}_missing.txt", [key for key, path in paths.items() if path is None])
    classes = len(set(split.videos.values()))
    line = f"{datetime.date.today()} {target}: {len(found):,} videos of {len(paths):,} annotated, {classes} classes{missing}"
    return f"{line}\n  annotations: {compare(f'{name}/{split.name}', len(paths))}"


def _note(note: Path, missing: Sequence[str]) -> str:
    """Writes what is missing, if anything; returns what there is to say about it."""
    note.unlink(missing_ok=True)
    if not missing:
        return ""
    note.write_text("".join(f"{key}\n" for key in missing), encoding="utf-8")
    return f"; {len(missing):,} missing ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}), named in {note}"


def main(argv: Sequence[str] | None = None) -> None:
    """Make the lists of a data set."""
    parser = parse_arguments(__doc__)
    parser.add_argument("name", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--annotations", type=Path, required=True, metavar="FOLDER", help="the official annotation files")
    parser.add_argument("--videos", type=Path, required=True, metavar="FOLDER", help="the videos, in any layout")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="folder for the lists")
    parser.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="of AVA: where the videos begin")
    args = parser.parse_args(argv)
    set_up_logging()
    with user_errors():
        print("\n".join(make_lists(args.name, args.annotations, args.videos, args.out, args.start)))


if __name__ == "__main__":
    main()
