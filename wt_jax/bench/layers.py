"""What each layer of the CPU runtime earns where it is used, against the simplest alternative:

    wt-jax bench-layers [--layers=max_pool,planes] [--rounds=25] [--videos=FOLDER --loader=folder]

Prints one Markdown row per layer and alternative: milliseconds with the layer and with the alternative, median (least) over
short alternating rounds; the ratio, alternative over layer, as median (quartiles) within the rounds, of the least times, and
of the CPU time of this process, which other load affects less. Steps are those of the weak teacher on noise: "quick start" is
configs/quickstart.py, "S3D" configs/folder.py with S3D, BatchNorm and 4 videos of 8 x 112 x 112 pixels. The rows of the loader
read `--videos` with the views of `--loader`. A start is the time from the call of the interpreter to the compiled step, in a
new process that finds its program in the cache.
"""

import importlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import cast
from unittest import mock

import cv2
import grain
import numpy as np
from absl import app, flags
from jax import Array

from wt_jax.bench.peers.measure_step import Job, our_step, time_steps
from wt_jax.bench.step_turns import Contender
from wt_jax.cli import parse_flags, set_up_logging, user_errors
from wt_jax.config import Config
from wt_jax.data.pipeline import train_batches
from wt_jax.data.records import VideoList
from wt_jax.data.sources.open import open_source
from wt_jax.data.video.yuv420 import Crop, Planes, halved, halvings_of, lines_of
from wt_jax.errors import ConfigError
from wt_jax.experiment import build_method, resolve
from wt_jax.ops import PORTABLE, prepare_process
from wt_jax.specs import View

_VIDEOS = flags.DEFINE_string("videos", "", "Folder or list of videos for the rows of the loader.")
_LOADER = flags.DEFINE_enum("loader", "folder", ["folder", "quickstart"], "Whose views the rows of the loader have.")
_LAYERS = flags.DEFINE_list("layers", [], "Rows to measure; default: all.")
_ROUNDS = flags.DEFINE_integer("rounds", 25, "Alternating rounds.", lower_bound=2)

Turn = Callable[[], float]  # a round: milliseconds
_PORTABLE = {"WT_JAX_KERNELS": PORTABLE}
_BT601 = np.array([[1.164, 0, 1.596, -222.9], [1.164, -0.392, -0.813, 135.6], [1.164, 2.017, 0, -276.8]])


def _config(name: str) -> Config:
    made = importlib.import_module(f"configs.{'folder' if name == 's3d' else name}").get_config()
    made.data.workers = 1
    if name == "s3d":
        made.model.name, made.model.norm, made.clip.num_frames, made.train.batch_size = "s3d", "batch", 8, 4
    return resolve(made)


def _step(name: str, environment: dict[str, str] | None = None, **replaced: Callable) -> Turn:
    """Steps of a configuration, traced with functions of this package replaced; "__" in a name stands for a dot."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, environment or {}))
        for target, replacement in replaced.items():
            stack.enter_context(mock.patch(f"wt_jax.{target.replace('__', '.')}", replacement))
        _, _, take = our_step(_config(name))
    count = 1 if name == "s3d" else 8
    time_steps(take, 3)
    return lambda: 1000 * time_steps(take, count)


def _dispatch_portable(native: Callable, portable: Callable, *arrays: Array, **_: Callable):
    return portable(*arrays)


def _dispatch_default(native: Callable, portable: Callable, *arrays: Array, default: Callable | None = None, **_: Callable):
    return (default or portable)(*arrays)


def _start(name: str, keep_step: bool) -> Turn:
    """Starts that find the program in a cache, which a first start has filled."""
    folder = Path(tempfile.mkdtemp(prefix="bench_layers"))
    contender = Contender(name, Job("wt_jax", _config(name), str(folder / "cache"), (), run=False, keep_step=keep_step), folder)

    def turn() -> float:
        contender.start()
        contender.stop()
        return 1000 * contender.starts[-1]

    turn()
    return turn


def _process(name: str, workers: int = 1, environment: dict[str, str] | None = None) -> Turn:
    """Steps in a process of their own, that is prepared for so many workers."""
    folder = Path(tempfile.mkdtemp(prefix="bench_layers"))
    config = _config(name)
    config = replace(config, data=replace(config.data, workers=workers))
    contender = Contender(name, Job("wt_jax", config, str(folder / "cache"), (), run=True), folder)
    with mock.patch.dict(os.environ, environment or {}):
        contender.start()

    return lambda: 1000 * contender.turn(1 if name == "s3d" else 8)


def _loaded() -> tuple[VideoList, dict[str, View], int]:
    """What the rows of the loader read: the videos, the views of each, and videos per batch."""
    if not _VIDEOS.value:
        raise ConfigError("--videos=FOLDER is missing: the rows of the loader read videos")
    config = _config(_LOADER.value)
    size = config.train.batch_size if _LOADER.value == "quickstart" else 8
    return open_source(_VIDEOS.value, "", 0.0), dict(build_method(config, 1).views), size


def _loader(workers: int, environment: dict[str, str] | None = None, **replaced: Callable) -> Turn:
    """Milliseconds per video of the training batches, made by this process or by so many workers."""
    videos, views, size = _loaded()
    seed = 0

    def turn() -> float:
        nonlocal seed
        seed += 1
        with ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, environment or {}))
            for target, replacement in replaced.items():
                stack.enter_context(mock.patch(f"wt_jax.{target.replace('__', '.')}", replacement))
            batches = train_batches(videos, views, seed=seed, batch_size=size, workers=workers, threads=min(workers, 1))
            for _ in range(8 if workers else 1):
                next(batches)
            start, count = time.perf_counter(), 20 if workers else 6
            for _ in range(count):
                next(batches)
            passed = time.perf_counter() - start
            cast(Generator, batches).close()
        return 1000 * passed / (count * size)

    return turn


def _later_epochs(cache_gib: float) -> Turn:
    """Milliseconds per video of the training batches, made by this process, after a first epoch."""
    videos, views, size = _loaded()
    batches = train_batches(videos, views, seed=0, batch_size=size, threads=0, cache_gib=cache_gib)
    for _ in range(-(-len(videos) // size)):
        next(batches)

    def turn() -> float:
        start, count = time.perf_counter(), 6
        for _ in range(count):
            next(batches)
        return 1000 * (time.perf_counter() - start) / (count * size)

    return turn


def _grain_iterate(batches: grain.MapDataset, workers: int, threads: int):
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2)
    made = batches.to_iter_dataset(options).mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    yield from made


def _opencv_crop_planes(pictures: Sequence[Planes], places: Sequence[int], crop: Crop, clip: np.ndarray) -> None:
    size = clip.shape[1]
    times = halvings_of(crop.rows, crop.columns, size)
    top, left, rows, columns = crop[:4]
    chroma = top // 2, left // 2, (top + rows + 1) // 2 - top // 2, (left + columns + 1) // 2 - left // 2
    for picture, place in zip(pictures, places, strict=True):
        parts = []
        for lines, box, fewer in zip(lines_of(picture), (crop[:4], chroma, chroma), (0, 1, 1), strict=True):
            top, left, rows, columns = box
            part = halved(lines[top : top + rows, left : left + columns], max(times - fewer, 0))
            parts.append(cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR))
        colored = cv2.transform(cv2.merge(parts), _BT601)
        clip[place] = colored[:, ::-1] if crop.flip else colored


_ELSEWHERE = ("S3D step, own process", "loader, 2 workers, per video", "quick start, second start", "k400, second start")

# Row -> where it is used, and what makes the turns: first those with the layer, then each alternative.
LAYERS: dict[str, tuple[str, Callable[[], dict[str, Turn]]]] = {
    "max_pool": (
        "S3D step",
        lambda: {"native": _step("s3d"), "XLA": _step("s3d", ops__max_pool__dispatch=_dispatch_portable)},
    ),
    "group_norm": (
        "quick start step",
        lambda: {"native": _step("quickstart"), "XLA": _step("quickstart", ops__group_norm__dispatch=_dispatch_portable)},
    ),
    "conv3d": (
        "quick start step",
        lambda: {"native": _step("quickstart"), "composed": _step("quickstart", ops__conv3d__dispatch=_dispatch_portable)},
    ),
    "conv3d_composed": (
        "quick start step, no native kernels",
        lambda: {
            "composed": _step("quickstart", _PORTABLE),
            "lax": _step("quickstart", _PORTABLE, ops__conv3d__dispatch=_dispatch_default),
        },
    ),
    "process": (
        "S3D step, own process",
        lambda: {
            "prepared": _process("s3d"),
            "threads free": _process("s3d", environment={"OMP_PROC_BIND": "false"}),
            "nothing": _process("s3d", workers=0),
        },
    ),
    "planes": (
        "loader, one thread, per video",
        lambda: {
            "kernel": _loader(0),
            "OpenCV on planes": _loader(0, data__pipeline__crop_planes=_opencv_crop_planes),
            "RGB by PyAV, then OpenCV": _loader(0, _PORTABLE),
        },
    ),
    "workers": (
        "loader, 2 workers, per video",
        lambda: {"ours": _loader(2), "grain's mp_prefetch": _loader(2, data__pipeline__iterate=_grain_iterate)},
    ),
    "decoded": (
        "loader after the first epoch, one thread, per video",
        lambda: {"frames kept": _later_epochs(8.0), "decoded anew": _later_epochs(0.0)},
    ),
    "cache_quickstart": ("quick start, second start", lambda: _starts("quickstart")),
    "cache_k400": ("k400, second start", lambda: _starts("k400")),
}


def _starts(name: str) -> dict[str, Turn]:
    return {"executable cache": _start(name, True), "JAX's cache": _start(name, False)}


def measure(layer: str, rounds: int) -> list[str]:
    """The Markdown rows of one layer, one per alternative."""
    where, make = LAYERS[layer]
    turns = make()
    times: dict[str, list[float]] = {name: [] for name in turns}
    used: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            start = time.process_time()
            times[name].append(turn())
            used[name].append(time.process_time() - start)
    own, *others = times
    rows = []
    for other in others:
        low, middle, high = statistics.quantiles([b / a for a, b in zip(times[own], times[other], strict=True)], n=4)
        cells = [f"{name} {statistics.median(times[name]):.1f} ({min(times[name]):.1f})" for name in (own, other)]
        ratios = [f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{min(times[other]) / min(times[own]):.2f}"]
        ratios.append("-" if where in _ELSEWHERE else f"{statistics.median(used[other]) / statistics.median(used[own]):.2f}")
        rows.append(f"| {layer} | {where} | {' | '.join(cells + ratios)} |")
    return rows


def main(argv: Sequence[str]) -> None:
    """Measure and print."""
    set_up_logging()
    with user_errors():
        for name in set(_LAYERS.value) - set(LAYERS):
            raise ConfigError(f"unknown layer {name!r} in --layers; there are {', '.join(LAYERS)}")
        prepare_process(1)
        print("| layer | where | with it, ms | alternative, ms | ratio | of the least | of CPU time |")
        print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
        for name in _LAYERS.value or LAYERS:
            print("\n".join(measure(name, _ROUNDS.value)), flush=True)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
