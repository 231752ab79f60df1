"""Encodes a data set anew, once, and packs it into ArrayRecord shards from which training reads any frame fast:

    wt-jax pack LIST_OR_FOLDER OUT [--short_side=256] [--gop=16] [--seconds=0] [--crf=23] [--per_shard=64]
        [--root=FOLDER] [--workers=N]

The shorter side becomes --short_side, every --gop-th frame can be decoded alone, times stay as they are; --seconds cuts long
videos into clips. Train on it with --config.data.train=OUT. Shards appear whole and checked, so the same command goes on
after an interruption. `wt_jax.tools.pack_beam` does the same on a cluster.
"""

import argparse
from collections.abc import Sequence

from wt_jax.cli import parse_arguments, set_up_logging, user_errors
from wt_jax.data.pack_locally import pack
from wt_jax.data.packing import PackSettings, Row, Shard, plan_shards
from wt_jax.data.sources.index import rows_of
from wt_jax.data.sources.lists import OK
from wt_jax.data.sources.open import open_source
from wt_jax.errors import SourceError

_NAMED = 10  # broken videos that are printed; the index has all of them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say what to pack, where and how."""
    settings = PackSettings()
    parser.add_argument("source", metavar="LIST_OR_FOLDER", help="what to pack: anything that training takes")
    parser.add_argument("out", metavar="OUT", help="folder for the shards and their index")
    parser.add_argument("--root", default="", metavar="FOLDER", help="folder that relative paths of a list start from")
    for name, text in {
        "short_side": "pixels of the shorter side; smaller videos keep their size",
        "gop": "frames from one key frame to the next",
        "crf": "x264's rate factor: lower is better and larger",
        "per_shard": "videos per shard",
    }.items():
        parser.add_argument(f"--{name}", type=int, default=getattr(settings, name), help=f"{text} (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.0, help="cut longer videos into clips of this length (0: do not)")


def plan(args: argparse.Namespace) -> list[Shard]:
    """The shards to pack.

    Raises:
      SourceError: the source cannot be read, a setting is impossible, or OUT holds another pack.
    """
    try:
        settings = PackSettings(args.short_side, args.gop, args.seconds, args.crf, args.per_shard)
    except ValueError as error:
        raise SourceError(f"--{error}") from None
    return plan_shards(rows_of(open_source(args.source, args.root, max_bad_fraction=1.0)), args.out, settings)


def report(rows: Sequence[Row]) -> str:
    """What was packed, as lines of text."""
    good = [row for row in rows if row["status"] == OK]
    bad = [row for row in rows if row["status"] != OK]
    videos = len({row["source"] for row in good})
    lines = [f"{len(good):,} clips of {videos:,} videos, {sum(row['frames'] for row in good):,} frames; {len(bad):,} broken"]
    lines += [f"  broken: {row['path']}: {row['status']}" for row in bad[:_NAMED]]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Pack a data set."""
    parser = parse_arguments(__doc__, workers=True)
    add_arguments(parser)
    args = parser.parse_args(argv)
    set_up_logging()
    with user_errors():
        print(report(pack(plan(args), args.out, args.workers)))
        print(f"train on it with --config.data.train={args.out}")


if __name__ == "__main__":
    main()
