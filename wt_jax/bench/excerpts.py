"""Measures whether an altered excerpt finds its place in a long video, with a trained encoder and with a random one:

    wt-jax bench-excerpts VIDEOS --encoder=RUN [--minutes=10] [--seconds=2] [--count=50]

The frames of the VIDEOS, in random order, become one video of so many minutes. Excerpts from random places of it are cropped
by a tenth of each side, slowed by a tenth and encoded again, at a lower quality. Two questions are asked with each: its place
("Find this clip in the videos") and the moments most like it ("Search with these seconds"). A hit: one of the first three
answers is there, to within two steps from moment to moment. The random encoder is the run's own before training.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from wt_jax.cli import parse_arguments, set_up_logging, user_errors
from wt_jax.data.records import VideoList
from wt_jax.data.sources.open import open_source
from wt_jax.data.synthetic import write_mp4
from wt_jax.data.video.reader import find_video
from wt_jax.errors import SearchError, VideoError
from wt_jax.models import build_encoder
from wt_jax.search.build import build, opened_for_writing
from wt_jax.search.encoders import export_encoder
from wt_jax.search.engine import Engine
from wt_jax.search.examples import clip_features, phased_features
from wt_jax.search.related import locate
from wt_jax.search.scan import combined
from wt_jax.train.workdir import read_config
from wt_jax.weights.folder import save_encoder

_RATE, _SIDE = 25, 96
_ANSWERS = 3
_CROP, _SLOW, _QUALITY = 0.1, Fraction(11, 10), 30


def joined(videos: VideoList, most: int, seed: int) -> np.ndarray:
    """The first frames of the videos in random order, uint8 (at most `most`, S, S, 3): the square in the middle of each."""
    frames, count = np.zeros((most, _SIDE, _SIDE, 3), np.uint8), 0
    for place in np.random.default_rng(seed).permutation(len(videos)).tolist():
        with suppress(VideoError):  # what could be read of it stays
            for picture in find_video(videos.paths[place]).read_all():
                if count == most:
                    return frames
                side = min(picture.shape[:2])
                top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
                square = np.ascontiguousarray(picture[top : top + side, left : left + side])
                frames[count] = cv2.resize(square, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
                count += 1
    return frames[:count]


def write_excerpt(out: Path, frames: np.ndarray, rng: np.random.Generator) -> None:
    """Write frames cropped at a random place, slowed and at a lower quality."""
    kept = round(_SIDE * (1 - _CROP) / 2) * 2
    top, left = rng.integers(_SIDE - kept + 1, size=2)
    write_mp4(out, frames[:, top : top + kept, left : left + kept], _RATE / _SLOW, _QUALITY)


def rates(engine: Engine, excerpts: Iterable[tuple[Path, float]], seconds: float) -> dict[str, float]:
    """Fractions of excerpts, each a file and where it begins, that are found: "place" and "moments"."""
    scan, near = engine.scan, 2 * engine.windows.every
    found: dict[str, list[bool]] = {"place": [], "moments": []}
    for path, start in excerpts:
        rows = [scan.normalized(row) for row in phased_features(engine, str(path))]
        starts = scan.snapshot.times[locate(scan, rows, _ANSWERS).places, 0]
        found["place"].append(bool((abs(starts - start) <= near).any()))
        features = scan.normalized(clip_features(engine, str(path)))
        times = scan.snapshot.times[scan.search(combined(features, features[:0]), _ANSWERS).places]
        inside = (times[:, 0] >= start - near) & (times[:, 1] <= start + seconds + near)
        found["moments"].append(bool(inside.any()))
    return {name: float(np.mean(hits)) for name, hits in found.items()}


def _random(run: Path, folder: Path) -> Path:
    """A folder of weights: the encoder of a run before training."""
    model, view = read_config(run).model, read_config(run).test_view
    clips = jnp.zeros((1, view.num_frames, view.size, view.size, 3))
    variables = jax.jit(lambda key: build_encoder(model).init(key, clips, False))(jax.random.key(0))
    save_encoder(folder, model, jax.device_get(variables))
    return folder


def measure(args: argparse.Namespace, scratch: Path) -> dict[str, object]:
    """All numbers, printed as they come."""
    if not (args.encoder / "config.json").exists():
        raise SearchError(f"--encoder={args.encoder}: name the workdir of a run, as the random encoder is made like it")
    view = read_config(args.encoder).test_view
    path = scratch / "videos" / "long.mp4"
    path.parent.mkdir()
    frames = joined(open_source(args.source, max_bad_fraction=1.0), round(args.minutes * 60 * _RATE), args.seed)
    write_mp4(path, frames, _RATE)
    rng, excerpts = np.random.default_rng(args.seed), []
    length, duration = round(args.seconds * _RATE), len(frames) / _RATE
    for number in range(args.count):
        first = int(rng.integers(len(frames) - length))
        excerpts.append((scratch / f"{number}.mp4", first / _RATE))
        write_excerpt(excerpts[-1][0], frames[first : first + length], rng)
    del frames
    results: dict[str, object] = {"seconds": duration, "excerpts": args.count}
    print(
        f"{args.count} excerpts of {args.seconds:g} s in a video of {duration:.0f} s; found among the first {_ANSWERS} answers:"
    )
    for name, place in {"trained": args.encoder, "random": _random(args.encoder, scratch / "random")}.items():
        folder = scratch / f"index-{name}"
        source = open_source(str(path.parent))
        with opened_for_writing(
            folder, lambda out, place=place: export_encoder(place, out, view), True, str(path.parent), [str(path.parent)]
        ) as (store, encoder, windows):
            build(store, source, encoder, windows)
        engine = Engine(folder)
        results[name] = found = rates(engine, excerpts, args.seconds)
        print(
            f"{name:8} its place {found['place']:.2f}  moments of it {found['moments']:.2f}  of {len(engine.scan):,}",
            flush=True,
        )
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table and a line of JSON."""
    parser = parse_arguments(__doc__)
    parser.add_argument("source", metavar="VIDEOS", help="anything that training takes")
    parser.add_argument("--encoder", type=Path, required=True, metavar="RUN", help="workdir of a run")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the long video (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of an excerpt (%(default)s)")
    parser.add_argument("--count", type=int, default=50, help="excerpts (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of order, places and crops (%(default)s)")
    args = parser.parse_args(argv)
    set_up_logging()
    with user_errors(), tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(args, Path(scratch))))


if __name__ == "__main__":
    main()
