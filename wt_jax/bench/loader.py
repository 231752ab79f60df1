"""The speed of the loader, its stages, and other loaders on the same files:

    wt-jax bench-loader --config=configs/folder.py --config.data.train=VIDEOS [--against=torch]
        [--make_clips=DIR] [--workers=0,1,2] [--rounds=3] [--steps=20]

Prints Markdown tables: milliseconds per video by stage on one core; clips and videos per second and peak memory by worker
processes; and, with `--against=torch` (extra `bench`), the same work by a PyTorch `DataLoader` with torchcodec, decord and
PyAV, and decoding alone, as the limit of this machine. 0 workers are one thread of the process itself, and each worker has one:
a row uses as many cores as it has workers, but at least one. A contender runs in a fresh process;
contenders run in alternating rounds, so that other load affects all of them. `--make_clips=DIR` first fills a folder with
340 x 256 H.264 clips of 10 s and measures on those.
"""

import importlib.metadata
import importlib.util
import json
import logging
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from absl import app, flags

from wt_jax.bench.clips import make_clips
from wt_jax.bench.memory import peak_of
from wt_jax.bench.peers.measure import LIMITS, Job
from wt_jax.bench.stages import time_stages
from wt_jax.cli import parse_flags, set_up_logging, user_errors, whole_numbers
from wt_jax.config import Config
from wt_jax.config_files import define_config
from wt_jax.data.sources.open import open_source
from wt_jax.data.video.decode import probe
from wt_jax.errors import ConfigError
from wt_jax.experiment import build_method, resolve
from wt_jax.specs import ClipView

log = logging.getLogger("wt_jax")

_CONFIG = define_config(None, "Configuration: its views, its batch size, its videos.")
_CLIPS = flags.DEFINE_string("make_clips", "", "Folder to fill with test clips and to measure on.")
_GOP = flags.DEFINE_integer("gop", 250, "Most frames between two keyframes of the test clips.")
_AGAINST = flags.DEFINE_enum("against", "", ["", "torch"], "Whom to compare with.")
_WORKERS = flags.DEFINE_list(
    "workers", ["0", "1", "2"], "Numbers of worker processes; the last one also serves the comparison."
)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Turns of each contender.")
_STEPS = flags.DEFINE_integer("steps", 20, "Batches timed per turn.")

_PEERS = {"torchcodec": "torchcodec", "decord": "decord", "PyAV": "av"}  # contender -> the package that it needs
_WARM_UP = 8  # batches: the first ones of new workers are slower, by a tenth where videos are small
_STAGE_VIDEOS = 48
_READ_BYTES = 2 << 30


def bench(config: Config, against: str, workers: Sequence[int], rounds: int, steps: int) -> str:
    """Measures everything; returns the report as Markdown."""
    videos = open_source(config.data.train, config.data.root, config.data.max_bad_fraction)
    views = {name: view for name, view in build_method(config, 1).views.items() if isinstance(view, ClipView)}
    _read_once(videos.paths)
    job = Job("wt_jax", tuple(videos.paths), views, config.train.batch_size, 0, config.seed, steps, _WARM_UP)
    spread = [videos.paths[place * len(videos) // _STAGE_VIDEOS] for place in range(min(_STAGE_VIDEOS, len(videos)))]
    stages = time_stages(spread, views, min(config.train.batch_size, len(spread)))
    report = [_about(job, spread), "", "| stage | ms per video |", "| --- | ---: |"]
    report += [f"| {name} | {value:.2f} |" for name, value in stages.items()]
    report += [
        "",
        "| workers | videos/s | clips/s | first batch, s | peak memory, MiB |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for count in workers:
        result = _run(replace(job, workers=count))
        report.append(
            f"| {count} | {result['rate']:.1f} | {result['rate'] * len(views):.1f} | {result['first_batch']:.2f} "
            f"| {result['memory']:.0f} |"
        )
    if against:
        report += ["", *_compare(replace(job, workers=workers[-1]), rounds)]
    return "\n".join(report)


def _compare(job: Job, rounds: int) -> list[str]:
    """The table of all contenders, in turns."""
    names = ["wt_jax", *LIMITS]
    for name, package in _PEERS.items():
        if importlib.util.find_spec("torch") and importlib.util.find_spec(package):
            names.append(name)
        else:
            log.warning("%s is left out: it needs the extra `bench` (torch and %s)", name, package)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in list(results):
            try:
                results[name].append(_run(replace(job, contender=name, seed=job.seed + turn)))
            except subprocess.CalledProcessError as error:
                log.warning("%s is left out: %s", name, (error.stderr.strip() or "it died").splitlines()[-1])
                del results[name]
    rates = {name: [result["rate"] for result in turns] for name, turns in results.items()}
    middle = {name: statistics.median(values) for name, values in rates.items()}
    lines = [
        f"{job.workers} workers, {rounds} turns: the median, and the least and most.",
        "",
        "| contender | videos/s | clips/s | least to most | wt_jax is faster by | first batch, s | peak memory, MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, turns in results.items():
        # What decodes alone has no batches, and its processes have ended by the time memory is read.
        first, memory = (statistics.median(turn["first_batch"] for turn in turns), max(turn["memory"] for turn in turns))
        beside = "| - | - |" if name in LIMITS else f"| {first:.2f} | {memory:.0f} |"
        ratios = [ours / theirs for ours, theirs in zip(rates["wt_jax"], rates[name], strict=True)]
        lines.append(
            f"| {name} | {middle[name]:.1f} | {middle[name] * len(job.views):.1f} "
            f"| {min(rates[name]):.1f} to {max(rates[name]):.1f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) " + beside
        )
    return lines


def _run(job: Job) -> dict[str, float]:
    """One turn in a fresh process; adds "memory", see `peak_of`, of it and its workers."""
    with tempfile.NamedTemporaryFile(suffix=".pkl") as file, tempfile.TemporaryFile("w+") as errors:
        file.write(pickle.dumps(job))
        file.flush()
        command = [sys.executable, "-m", "wt_jax.bench.peers.measure", file.name]
        log.info("measuring %s, %d workers", job.contender, job.workers)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        with subprocess.Popen(command, text=True, **pipes) as process:
            result = _result(process)
            memory = peak_of(process.pid)  # not before: reading /proc slows down the process that is read
            _go_on(process)
            process.communicate()
        if process.returncode or not result:
            errors.seek(0)
            raise subprocess.CalledProcessError(process.returncode, command, stderr=errors.read())
    return json.loads(result) | {"memory": memory}


def _result(process: subprocess.Popen) -> str:
    """The line of JSON, whatever libraries print before it; nothing where the process has ended."""
    assert process.stdout is not None
    return next((line for line in iter(process.stdout.readline, "") if line.startswith("{")), "")


def _go_on(process: subprocess.Popen) -> None:
    """Release a process that waits for a line; one that has ended needs none, and a broken pipe is no error."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        os.write(process.stdin.fileno(), b"\n")


def _read_once(paths: Sequence[str]) -> None:
    """Read the files once, so that every contender finds them in the operating system's cache; the disk is not measured."""
    left = _READ_BYTES
    for path in paths:
        left -= len(Path(path).read_bytes()) if left > 0 and Path(path).exists() else 0


def _about(job: Job, paths: Sequence[str]) -> str:
    """One paragraph: videos, views, machine and versions."""
    infos = [probe(path) for path in paths]
    shapes = ", ".join(f"{name} {view.num_frames} x {view.size} x {view.size}" for name, view in job.views.items())
    versions = []
    for name in ("av", "grain", "numpy", "opencv-python-headless", "torch", "torchcodec", "decord"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    models = [line.partition(": ")[2] for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    shown = (job.warm_up + job.steps) * job.batch_size / len(job.paths)
    frames, keys = (statistics.mean(map(len, values)) for values in ([i.pts for i in infos], [i.keyframes for i in infos]))
    return (
        f"{len(job.paths)} videos, {infos[0].width} x {infos[0].height}, {frames:.0f} frames and {keys:.1f} keyframes on "
        f"average; views: {shapes}; {job.batch_size} videos a batch. A turn shows each video {shown:.1f} times. "
        f"{len(os.sched_getaffinity(0))} cores ({models[0] if models else platform.machine()}), "
        f"Python {platform.python_version()}, {', '.join(versions)}."
    )


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def main(argv: Sequence[str]) -> None:
    """Measure and print."""
    set_up_logging()
    with user_errors():
        if _CONFIG.value is None:
            raise ConfigError("--config=NAME is missing; folder has views for any folder")
        if _CLIPS.value:
            make_clips(Path(_CLIPS.value), gop=_GOP.value)
            _CONFIG.value.data.train = _CLIPS.value
        config = resolve(_CONFIG.value)
        if not config.data.train:
            raise ConfigError("config.data.train is empty; give a list file or a folder of videos, or --make_clips=DIR")
        print(bench(config, _AGAINST.value, whole_numbers(_WORKERS), _ROUNDS.value, _STEPS.value))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
