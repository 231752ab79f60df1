"""Indexes the moments of an archive of videos, to be searched by motion:

    wt-jax search-index VIDEOS --index=DIR [--encoder=RUN_OR_FOLDER] [--length=S] [--every=S] [--workers=N]

VIDEOS is anything that training takes: a folder, a list, packed shards. The same command goes on after an interruption, and
later reads only what is new or has changed. On several machines each indexes a part into a folder of its own (--part=2/8),
and `--merge=DIR,DIR...` joins these. `--parquet=FOLDER` writes an index for the bulk import of a Milvus server.
`wt-jax search-query` asks, `wt-jax search` shows.
"""

import argparse
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from wt_jax.cli import parse_arguments, set_up_logging, user_errors
from wt_jax.data.records import VideoList
from wt_jax.errors import SearchError

DEFAULT_RUN = Path("runs/quickstart/weak_teacher_seed0")
EXPORTED = ".wtx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What an index is made with."""
    parser.add_argument("--index", type=Path, metavar="DIR", help="folder of the index")
    parser.add_argument("--encoder", type=Path, metavar="PLACE", help="workdir of a run, weights folder or exported file")
    parser.add_argument("--root", default="", metavar="FOLDER", help="folder that relative paths of a list start from")
    parser.add_argument("--length", type=float, default=0.0, help="seconds of a moment (0: the encoder's clip, at least 1)")
    parser.add_argument("--every", type=float, default=0.0, help="seconds from one moment to the next (0: half a length)")
    parser.add_argument("--frames", type=int, default=0, help="frames of a clip, where --encoder is a weights folder")
    parser.add_argument("--stride", type=float, default=0.0, help="its frames from one sample to the next")
    parser.add_argument("--size", type=int, default=0, help="its height and width in pixels")
    parser.add_argument("--threads", type=int, default=2, help="pieces under way at once, per worker (%(default)s)")
    parser.add_argument("--retry", action="store_true", help="read again what could not be read")


def index(args: argparse.Namespace, location: str) -> list[str]:
    """Make an index, or bring it up to date; returns what was done, as lines.

    Raises:
      SearchError: an option contradicts the index, or the disk is full.
      SourceError: there are no such videos.
    """
    from wt_jax.data.sources.open import open_source
    from wt_jax.search import build

    videos = _part(open_source(location, args.root, max_bad_fraction=1.0), getattr(args, "part", ""))
    with build.opened_for_writing(
        args.index,
        lambda out: export(args, out),
        args.encoder is not None,
        location,
        build.roots_of(location, videos, args.root),
        length=args.length,
        every=args.every,
    ) as (store, encoder, windows):
        report = build.build(store, videos, encoder, windows, workers=args.workers, threads=args.threads, retry=args.retry)
        return [*report.lines(), f"{store.num_moments():,} moments of {store.num_videos():,} videos in {args.index}"]


def _part(videos: VideoList, part: str) -> VideoList:
    if not part:
        return videos
    number, _, count = part.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise SearchError(f"--part={part}: write NUMBER/COUNT, such as 2/8")
    return videos.select(range(int(number) - 1, len(videos), int(count)))


def _write_parquet(args: argparse.Namespace) -> list[Path]:
    try:
        from wt_jax.search.parquet import write_parquet
    except ImportError:
        raise SearchError("--parquet needs the extra `milvus`: pip install 'wt_jax[milvus]'") from None
    from wt_jax.search.milvus import freeze_center
    from wt_jax.search.scan import Scan
    from wt_jax.search.store import open_store

    with ExitStack() as stack:
        store = stack.enter_context(open_store(args.index))
        freeze_center(store, stack.enter_context(open_store(args.center)) if args.center else None)
        return write_parquet(Scan(store.snapshot()), args.parquet, int(args.part.partition("/")[0] or 1) - 1)


def export(args: argparse.Namespace, out: Path) -> None:
    """Write the encoder that the options name."""
    place = args.encoder
    if place is None:
        place = DEFAULT_RUN
        if not (place / "config.json").exists():
            raise SearchError(
                f"no --encoder is given, and there is no quick start to take one from ({place}); "
                "run launch/quickstart.sh, or name the workdir of a run or a weights folder"
            )
        print(f"no --encoder is given: the small one of the quick start is used, {place}")
    if place.suffix == EXPORTED:
        if not place.exists():
            raise SearchError(f"--encoder={place}: there is no such file")
        shutil.copyfile(place, out)
        return
    from wt_jax.search.encoders import export_encoder
    from wt_jax.specs import ClipView

    given = {"num_frames": args.frames, "stride": args.stride, "size": args.size}
    named = {name: value for name, value in given.items() if value}
    if named and len(named) < len(given):
        raise SearchError("--frames, --stride and --size go together")
    export_encoder(place, out, ClipView(**named, crop="center") if named else None)


def main(argv: Sequence[str] | None = None) -> None:
    """Index an archive."""
    parser = parse_arguments(__doc__, workers=True)
    parser.add_argument("source", metavar="VIDEOS", nargs="?", help="what to index: anything that training takes")
    add_arguments(parser)
    parser.add_argument("--part", default="", metavar="N/COUNT", help="index every COUNT-th video from the N-th on")
    parser.add_argument("--merge", default="", metavar="DIR,DIR...", help="indexes to join into --index")
    parser.add_argument("--recall", action="store_true", help="print R@1, 5 and 10 of the labeled videos")
    parser.add_argument("--leave_out", default="", metavar="COLUMN", help="recall among videos of another value of this column")
    parser.add_argument("--parquet", type=Path, metavar="FOLDER", help="write the moments as Parquet files for Milvus")
    parser.add_argument("--center", type=Path, metavar="DIR", help="index whose center these take, as all of a collection must")
    args = parser.parse_args(argv)
    set_up_logging()
    with user_errors():
        if args.index is None or not (args.source or args.merge or args.recall or args.parquet):
            raise SearchError("usage: wt-jax search-index VIDEOS --index=DIR; see --help")
        if args.merge:
            from wt_jax.search.merge import merge

            print(f"{merge([Path(folder) for folder in args.merge.split(',')], args.index):,} videos joined in {args.index}")
        if args.source:
            print("\n".join(index(args, args.source)))
        if args.parquet:
            files = _write_parquet(args)
            print(f"{len(files):,} Parquet files of this index in {args.parquet}")
        if args.recall:
            from wt_jax.search.engine import Engine, recall

            found = recall(Engine(args.index).scan, args.leave_out)
            print("  ".join(f"R@{k} {value:.3f}" for k, value in found.items()))


if __name__ == "__main__":
    main()
