"""Reads every video of a data set once and writes an index, which all sources then open without reading it again:

    wt-jax check-videos LIST_OR_FOLDER [--out=INDEX.csv] [--root=FOLDER] [--decode] [--workers=N]
        [--dataset=kinetics400/train]

The index names every video with its label, frames, rate, duration, size, codec, rotation and status. By default the packets
of a file are read and its first frame is decoded; --decode decodes every frame, which finds damage within. What is done is
kept in INDEX.csv.journal: the same command goes on after an interruption, and reads later only files that have changed.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wt_jax.cli import parse_arguments, set_up_logging, user_errors
from wt_jax.data.parallel import run_parallel
from wt_jax.data.records import VideoList
from wt_jax.data.sources.annotations import compare
from wt_jax.data.sources.index import Facts, broken, look_at, rows_of, with_facts, write_index
from wt_jax.data.sources.lists import OK
from wt_jax.data.sources.open import open_source
from wt_jax.data.video.reader import file_of, find_video, is_remote
from wt_jax.errors import VideoError
from wt_jax.progress import Progress

_NAMED = 10  # broken videos that are printed; the index has all of them

State = tuple[int, int]  # size and modification time (ns) of a file; remote files count as unchanging


def check_videos(videos: VideoList, out: Path, *, every_frame: bool = False, workers: int = 0) -> list[dict[str, object]]:
    """Reads all videos that the journal beside `out` does not know, writes the index, and returns its rows.

    Args:
      videos: what to look at.
      out: the index; its folder is made.
      every_frame: whether to decode every frame.
      workers: processes; 0: none but this one.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    journal = out.with_name(f"{out.name}.journal")
    known = _read_journal(journal, every_frame)
    rows = rows_of(videos)
    paths = list(dict.fromkeys(str(row["path"]) for row in rows))
    states = {path: _state(path) for path in paths}
    found = {path: known[path, states[path]] for path in paths if (path, states[path]) in known}
    jobs = [(path, every_frame) for path in paths if path not in found]
    progress = Progress("checked", len(paths), "video", done=len(found))
    bad = sum(facts.status != OK for facts in found.values())
    with journal.open("a", encoding="utf-8") as file:
        if jobs:
            file.write("\n")  # The last call may have been killed within a line.
        for (path, _), facts in run_parallel(_look, jobs, min(workers, len(jobs))):
            found[path] = facts or Facts(status="its decoding killed the process")
            line = {"path": path, "state": states[path], "every_frame": every_frame} | asdict(found[path])
            file.write(json.dumps(line) + "\n")
            file.flush()
            bad += found[path].status != OK
            progress.advance(note=f"{bad:,} broken")
    indexed = [with_facts(row, found[str(row["path"])]) for row in rows]
    write_index(out, indexed)
    return indexed


def report(rows: Sequence[dict[str, Any]], dataset: str = "") -> str:
    """What was found, as lines of text: counts, broken videos by their fault, the official count."""
    good = [row for row in rows if row["status"] == OK]
    frames, seconds = sum(int(row["frames"]) for row in good), sum(float(row["duration"]) for row in good)
    counts = f"{len(rows):,} videos: {len(good):,} ok, {len(rows) - len(good):,} broken"
    lines = [f"{counts}; {frames:,} frames, {seconds / 3600:.2f} h"]
    for column in ("codec", "rate", "rotation"):
        counts = Counter(row[column] for row in good).most_common(5)
        lines.append(f"  {column}: {', '.join(f'{value} ({count:,})' for value, count in counts)}")
    bad = [row for row in rows if row["status"] != OK]
    lines += [f"  broken: {row['path']}: {row['status']}" for row in bad[:_NAMED]]
    if len(bad) > _NAMED:
        lines.append(f"  and {len(bad) - _NAMED:,} more, in the column `status` of the index")
    repeated = len(rows) - len({row["path"] for row in rows})
    if repeated:
        lines.append(f"  {repeated:,} videos are listed more than once")
    if dataset:
        lines.append(f"  {compare(dataset, len(good))}")
    return "\n".join(lines)


def _look(job: tuple[str, bool]) -> Facts:
    path, every_frame = job
    try:
        return look_at(find_video(path), every_frame)
    except VideoError as error:
        return broken(path, error)


def _state(path: str) -> State:
    if is_remote(path):
        return 0, 0
    try:
        status = os.stat(file_of(path))
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _read_journal(journal: Path, every_frame: bool) -> dict[tuple[str, State], Facts]:
    """What earlier calls found, by path and state of the file; only what looked at least as closely."""
    known: dict[tuple[str, State], Facts] = {}
    if not journal.exists():
        return known
    for line in journal.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # The end of a call that was killed.
            continue
        path, state, looked = entry.pop("path"), tuple(entry.pop("state")), entry.pop("every_frame")
        if looked or not every_frame:
            known[path, state] = Facts(**entry)
    return known


def main(argv: Sequence[str] | None = None) -> None:
    """Check a data set."""
    parser = parse_arguments(__doc__, workers=True)
    parser.add_argument("source", metavar="LIST_OR_FOLDER", help="what to check: anything that training takes")
    parser.add_argument("--out", type=Path, default=Path("index.csv"), metavar="INDEX.csv", help="the index to write")
    parser.add_argument("--root", default="", metavar="FOLDER", help="folder that relative paths of a list start from")
    parser.add_argument("--decode", action="store_true", help="decode every frame")
    parser.add_argument("--dataset", default="", metavar="NAME/SPLIT", help="compare with the official count of this split")
    args = parser.parse_args(argv)
    set_up_logging()
    with user_errors():
        compare(args.dataset, 0)  # A wrong name is an error before the work.
        videos = open_source(args.source, args.root, max_bad_fraction=1.0)
        rows = check_videos(videos, args.out, every_frame=args.decode, workers=args.workers)
        print(report(rows, args.dataset))
        print(f"the index is {args.out}; train on it with --config.data.train={args.out}")


if __name__ == "__main__":
    main()
