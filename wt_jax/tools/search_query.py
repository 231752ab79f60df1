"""Asks an index for the moments that are like a clip:

    wt-jax search-query CLIP --index=DIR [--from=S] [--to=S] [--top=20] [--json] [--one_per_video] [--label=NAME,NAME]
        [--folder=PATH] [--where=COLUMN=VALUE,...] [--threshold=SCORE]

CLIP is a video file, of which --from and --to choose seconds, or `moment:NUMBER`, a moment of the index itself. Scores are
cosines; beside each is the percentage of random pairs of moments that are less alike.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from wt_jax.cli import parse_arguments, set_up_logging, user_errors
from wt_jax.errors import SearchError
from wt_jax.files import write_atomic

_MOMENT = "moment:"


def main(argv: Sequence[str] | None = None) -> None:
    """Ask once, print the answer."""
    parser = parse_arguments(__doc__)
    parser.add_argument("clip", metavar="CLIP", help="a video file, or moment:NUMBER")
    parser.add_argument("--index", type=Path, required=True, metavar="DIR", help="folder of the index")
    parser.add_argument("--top", type=int, default=20, help="results (%(default)s)")
    parser.add_argument("--from", dest="start", type=float, default=0.0, metavar="S", help="first second of CLIP that counts")
    parser.add_argument("--to", dest="end", type=float, default=0.0, metavar="S", help="last second that counts (0: the end)")
    parser.add_argument("--json", action="store_true", help="print JSON rather than a table")
    parser.add_argument("--fiftyone", type=Path, metavar="FILE", help="write the results as labels of FiftyOne, too")
    parser.add_argument("--one_per_video", action="store_true", help="the best moment of each video alone")
    parser.add_argument("--threshold", type=float, default=-1.0, help="least score of a result")
    parser.add_argument("--label", default="", metavar="NAME,NAME", help="classes of the videos")
    parser.add_argument("--folder", default="", metavar="PATH", help="folder of the videos")
    parser.add_argument("--where", default="", metavar="COLUMN=VALUE,...", help="columns of the list that was indexed")
    args = parser.parse_args(argv)
    set_up_logging()
    with user_errors():
        print(query(args))


def query(args: argparse.Namespace) -> str:
    """The answer as text.

    Raises:
      SearchError, VideoError: there is no such index, moment or clip, or an option is impossible.
    """
    from wt_jax.eval.fiftyone import moment_labels
    from wt_jax.search.engine import Engine, Filters, places_of
    from wt_jax.search.examples import clip_features

    if args.top < 1:
        raise SearchError(f"--top must be 1 or more, got {args.top}")
    engine = Engine(args.index)
    scan = engine.scan
    if args.clip.startswith(_MOMENT):
        number = args.clip.removeprefix(_MOMENT)
        if not number.isdecimal():
            raise SearchError(f"{args.clip}: write moment:NUMBER, as the answers of this command name moments")
        examples = scan.unit(places_of(scan.snapshot, [int(number)]))
    else:
        examples = scan.normalized(clip_features(engine, args.clip, args.start, args.end))
    filters = Filters(
        folders=(str(Path(args.folder).absolute()),) if args.folder else (),
        labels=tuple(filter(None, args.label.split(","))),
        columns=_columns(args.where),
    )
    answer = engine.search(
        scan, examples, count=args.top, filters=filters, threshold=args.threshold, one_per_video=args.one_per_video
    )
    rows = [
        {
            "moment": result.moment,
            "video": result.video.path,
            "start": round(result.start, 3),
            "end": round(result.end, 3),
            "score": round(result.score, 4),
            "percentile": round(result.percentile, 2),
            "label": result.video.label,
        }
        for result in answer.results
    ]
    if args.fiftyone:
        labels = moment_labels({**row, "path": os.path.abspath(row["video"])} for row in rows)
        write_atomic(args.fiftyone, json.dumps(labels, indent=1) + "\n")
    if args.json:
        return json.dumps({"alike": answer.alike, "results": rows}, indent=1)
    lines = [f"{'score':>6} {'above':>7}  {'moment':>8}  {'seconds':>15}  video"]
    for row in rows:
        seconds = f"{row['start']:.2f}-{row['end']:.2f}"
        label = f"  ({row['label']})" if row["label"] else ""
        lines.append(f"{row['score']:6.3f} {row['percentile']:6.1f}%  {row['moment']:8}  {seconds:>15}  {row['video']}{label}")
    if not answer.alike:
        lines.append(f"nothing in this index is alike: the best score is below {answer.least_alike:.3f}")
    return "\n".join(lines)


def _columns(text: str) -> dict[str, tuple[str, ...]]:
    columns: dict[str, tuple[str, ...]] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise SearchError(f"--where={text}: write COLUMN=VALUE, several separated by commas")
        columns[name] = (*columns.get(name, ()), value)
    return columns


if __name__ == "__main__":
    main()
