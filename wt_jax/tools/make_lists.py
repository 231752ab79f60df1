"""Turns the official annotations of a data set into list files:

    wt-jax make-lists NAME --annotations=FOLDER --videos=FOLDER --out=FOLDER

NAME is one of ucf101, hmdb51, kinetics400, kinetics600, kinetics700, ssv2, diving48. Videos are found by their names
anywhere below --videos, so any layout of folders will do. For each split OUT/NAME_SPLIT.csv (path, label, name) is written,
which every source opens; annotated videos without a file are counted, and named in OUT/NAME_SPLIT_missing.txt.
"""

import datetime
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from wt_jax.cli import parse_arguments, set_up_logging, user_errors
from wt_jax.data.sources.annotations import READERS, Split, compare
from wt_jax.data.sources.folders import find_videos, is_video_file
from wt_jax.data.sources.text import csv_text
from wt_jax.errors import SourceError
from wt_jax.files import write_atomic


def make_lists(name: str, annotations: Path, videos: Path, out: Path) -> list[str]:
    """Writes the lists and returns one line per split: date, counts, what is missing.

    Args:
      name: a data set of `wt_jax.data.sources.annotations.READERS`.
      annotations: folder of its official files.
      videos: folder of its videos.
      out: folder for the lists; it is made.

    Raises:
      SourceError: the data set is unknown, a file is missing or faulty, or no annotated video was found.
    """
    if name not in READERS:
        raise SourceError(f"{name}: unknown data set; choose one of {', '.join(READERS)}")
    splits = READERS[name](annotations)
    files = _find_videos(videos)
    if not any(_path_of(key, files) for split in splits for key in split.videos):
        raise SourceError(f"{videos}: none of the videos that {annotations} names is below it")
    out.mkdir(parents=True, exist_ok=True)
    return [_write(name, split, files, out) for split in splits]


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
    missing = [key for key, path in paths.items() if path is None]
    note = out / f"{name}_{split.name}_missing.txt"
    note.unlink(missing_ok=True)
    if missing:
        note.write_text("".join(f"{key}\n" for key in missing), encoding="utf-8")
    classes = len(set(split.videos.values()))
    line = f"{datetime.date.today()} {target}: {len(found):,} videos of {len(paths):,} annotated, {classes} classes"
    if missing:
        line += f"; {len(missing):,} missing ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}), named in {note}"
    return f"{line}\n  annotations: {compare(f'{name}/{split.name}', len(paths))}"


def main(argv: Sequence[str] | None = None) -> None:
    """Make the lists of a data set."""
    parser = parse_arguments(__doc__)
    parser.add_argument("name", metavar="NAME", help=", ".join(READERS))
    parser.add_argument("--annotations", type=Path, required=True, metavar="FOLDER", help="the official annotation files")
    parser.add_argument("--videos", type=Path, required=True, metavar="FOLDER", help="the videos, in any layout")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="folder for the lists")
    args = parser.parse_args(argv)
    set_up_logging()
    with user_errors():
        print("\n".join(make_lists(args.name, args.annotations, args.videos, args.out)))


if __name__ == "__main__":
    main()
