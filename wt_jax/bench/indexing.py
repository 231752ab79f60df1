"""Measures how fast videos are indexed, beside reading and encoding the same moments alone, in turns:

    wt-jax bench-indexing VIDEOS --encoder=PLACE [--rounds=3] [--workers=N]

Reading alone: the loader makes the clips. Extraction alone: they are also encoded. Indexing: features are kept as well.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from wt_jax.cli import parse_arguments, set_up_logging, user_errors
from wt_jax.data.sources.open import open_source
from wt_jax.search import build
from wt_jax.search.clips import read_segments
from wt_jax.search.exported import BATCH
from wt_jax.search.store import create_store, open_store
from wt_jax.tools.search_index import add_arguments, export


def measure(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Seconds of each kind of work, medians over the rounds, and the ratio of extraction to indexing."""
    videos = open_source(args.source, args.root, max_bad_fraction=1.0)
    entries = list(build.entries_of(videos).values())
    work = [(entry.path, 0) for entry in entries]
    options = {"workers": args.workers, "threads": args.threads}
    times: dict[str, list[float]] = {"reading": [], "extraction": [], "indexing": []}
    roots = build.roots_of(args.source, videos, args.root)
    with build.opened_for_writing(folder, lambda out: export(args, out), True, args.source, roots) as (first, encoder, windows):
        settings = first.settings()
        for number in range(args.rounds + 1):  # the first round compiles the encoder and fills the disk's cache
            part = folder.with_name(f"round{number}")
            create_store(part, settings["dim"], settings)
            with open_store(part) as store:
                for kind, run in (
                    ("reading", lambda: deque(read_segments(work, windows, build.moments_per_piece(windows), **options), 0)),
                    ("extraction", lambda: deque(build.encoded_videos(entries, encoder, windows, **options), 0)),
                    ("indexing", lambda store=store: build.build(store, videos, encoder, windows, **options)),
                ):
                    start = time.perf_counter()
                    run()
                    if number:
                        times[kind].append(time.perf_counter() - start)
                moments = store.num_moments()
    found = {kind: statistics.median(values) for kind, values in times.items()}
    print(f"{len(entries):,} videos, {moments:,} moments, batches of {BATCH} clips")
    for kind, seconds in found.items():
        print(f"{kind:10} {seconds:7.2f} s  {moments / seconds:8.1f} moments/s")
    return found | {"ratio": found["extraction"] / found["indexing"]}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table and a line of JSON."""
    parser = parse_arguments(__doc__, workers=True)
    parser.add_argument("source", metavar="VIDEOS", help="anything that training takes")
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=3, help="times each is measured (%(default)s)")
    args = parser.parse_args(argv)
    set_up_logging()
    with user_errors(), tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(args, Path(scratch) / "index")))


if __name__ == "__main__":
    main()
