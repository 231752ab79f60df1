"""Encodes a data set anew, once, and packs it into ArrayRecord shards from which training reads any frame fast:

    python -m wt_jax.tools.pack LIST_OR_FOLDER OUT [--short_side=256] [--gop=8] [--seconds=0] [--crf=20] [--per_shard=64]
        [--root=FOLDER] [--workers=N]

The shorter side becomes --short_side, every --gop-th frame can be decoded alone, times stay as they are; --seconds cuts long
videos into clips. Train on it with --config.data.train=OUT. Shards appear whole and checked, so the same command goes on
after an interruption. `wt_jax.tools.pack_beam` does the same on a cluster.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from wt_jax.data.decode import VideoError
from wt_jax.data.index import rows_of
from wt_jax.data.lists import OK
from wt_jax.data.packing import PackSettings, Row, Shard, finish, pack_shard, plan_shards
from wt_jax.data.sources import SourceError, open_source
from wt_jax.data.video import is_remote
from wt_jax.tools.parallel import ProgressLine, run_parallel

SHORT_SIDE = flags.DEFINE_integer("short_side", 256, "Pixels of the shorter side; smaller videos keep their size.")
GOP = flags.DEFINE_integer("gop", 8, "Frames from one key frame to the next.")
SECONDS = flags.DEFINE_float("seconds", 0, "Longest clip; longer videos are cut. 0: videos stay whole.")
CRF = flags.DEFINE_integer("crf", 20, "x264's rate factor: lower is better and larger.")
PER_SHARD = flags.DEFINE_integer("per_shard", 64, "Videos per shard.")
ROOT = flags.DEFINE_string("root", "", "Folder that relative paths of a list start from.")
_WORKERS = flags.DEFINE_integer("workers", len(os.sched_getaffinity(0)), "Processes; 0: none but this one.", lower_bound=0)

_NAMED = 10  # broken videos that are printed; the index has all of them


def plan(location: str, out: str) -> list[Shard]:
    """The shards to pack, with the settings of the command line.

    Raises:
      SourceError: the source cannot be read, a setting is impossible, or OUT holds another pack.
    """
    try:
        settings = PackSettings(SHORT_SIDE.value, GOP.value, SECONDS.value, CRF.value, PER_SHARD.value)
    except ValueError as error:
        raise SourceError(f"--{error}") from None
    return plan_shards(rows_of(open_source(location, ROOT.value, max_bad_fraction=1.0)), out, settings)


def pack(shards: Sequence[Shard], out: str, workers: int = 0) -> list[Row]:
    """Packs shards on this machine and writes the index; returns its rows.

    Raises:
      VideoError: a shard could not be written as it should. The others stay, and the next call goes on from them.
    """
    if not is_remote(out):
        for left in Path(out).glob(".clips-*"):  # of a call that was killed
            shutil.rmtree(left, ignore_errors=True)
    progress, packed = ProgressLine("packed shards", len(shards)), {}
    for shard, rows in run_parallel(pack_shard, shards, min(workers, len(shards))):
        if rows is None:
            raise VideoError(f"{shard.name}: its process died; `check_videos --decode` finds the video that kills it")
        packed[shard.number] = rows
        progress.step()
    return finish(out, packed)


def report(rows: Sequence[Row]) -> str:
    """What was packed, as lines of text."""
    good = [row for row in rows if row["status"] == OK]
    bad = [row for row in rows if row["status"] != OK]
    videos = len({row["source"] for row in good})
    lines = [f"{len(good):,} clips of {videos:,} videos, {sum(row['frames'] for row in good):,} frames; {len(bad):,} broken"]
    lines += [f"  broken: {row['path']}: {row['status']}" for row in bad[:_NAMED]]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Pack a data set."""
    from wt_jax.cli import fail, set_up_logging

    set_up_logging()
    if len(argv) != 3:
        fail("usage: python -m wt_jax.tools.pack LIST_OR_FOLDER OUT [--short_side=256] [--gop=8]; see --help")
    try:
        print(report(pack(plan(argv[1], argv[2]), argv[2], _WORKERS.value)))
    except (SourceError, VideoError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or argv[2]}: {error.strerror or error}")
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on where it was")
    print(f"train on it with --config.data.train={argv[2]}")


if __name__ == "__main__":
    from wt_jax.cli import parse_flags

    app.run(main, flags_parser=parse_flags)
