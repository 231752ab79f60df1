"""Runs one contender in a process of its own: `python -m wt_jax.bench.peers.measure JOB`, a pickled `Job`.

It prints a line of JSON when the timing is over, and then waits for a line to be read.

"wt_jax" is this project's pipeline, "decode only" what the machine could do if nothing but decoding had to be done: the same
windows of the same files by PyAV, from the keyframe to the last wanted frame, nothing converted; "decode needed only" leaves
out the H.264 pictures that nothing needs, as the pipeline does. The others are PyTorch loaders.
"""

import json
import multiprocessing
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from wt_jax.data.sampling import random_windows
from wt_jax.data.video.decode import probe
from wt_jax.specs import ClipView

LIMITS = {"decode only": False, "decode needed only": True}  # whether unneeded pictures are left out


@dataclass(frozen=True)
class Job:
    """What to run: `steps` timed batches of `batch_size` videos after `warm_up` batches that are not timed."""

    contender: str
    paths: tuple[str, ...]
    views: dict[str, ClipView]  # other kinds of view are not measured
    batch_size: int
    workers: int
    seed: int
    steps: int
    warm_up: int


def measure(job: Job, report: Callable[[str], None]) -> dict[str, float]:
    """Videos per second, and the seconds from the first call to the first batch; also printed.

    While `report` runs, workers still make batches ahead, so that memory can be measured.
    """
    if job.contender in LIMITS:
        result = _decode_rate(job)
        report(json.dumps(result))
        return result
    start = time.perf_counter()
    batches = _batches(job)
    next(batches)
    first = time.perf_counter() - start
    for _ in range(job.warm_up - 1):
        next(batches)
    start = time.perf_counter()
    for _ in range(job.steps):
        next(batches)
    result = {"rate": job.steps * job.batch_size / (time.perf_counter() - start), "first_batch": first}
    report(json.dumps(result))
    return result


def _report(line: str) -> None:
    print(line, flush=True)
    sys.stdin.readline()


def _batches(job: Job) -> Iterator:
    # More batches than are read: a loader that runs out would have its last ones ready for nothing.
    steps = job.warm_up + job.steps + 4 * max(job.workers, 1)
    if job.contender == "wt_jax":
        from wt_jax.data.pipeline import train_batches
        from wt_jax.data.records import VideoList

        videos = VideoList(job.paths, np.full(len(job.paths), -1, np.int32))
        return train_batches(
            videos, job.views, seed=job.seed, batch_size=job.batch_size, workers=job.workers, threads=1, num_steps=steps
        )
    from wt_jax.bench.peers.torch_loaders import torch_batches

    options = {"batch_size": job.batch_size, "workers": job.workers, "seed": job.seed, "steps": steps}
    return torch_batches(job.paths, job.views, job.contender, **options)


def _decode_rate(job: Job) -> dict[str, float]:
    """The sum of the rates of as many processes as there are workers, each with a part of the videos."""
    processes = max(job.workers, 1)
    count = (job.steps + job.warm_up) * job.batch_size // processes
    if processes == 1:
        return {"rate": _decode_videos(job, 0, count), "first_batch": 0.0}
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        rates = pool.map(_decode_videos, [job] * processes, range(processes), [count] * processes)
        return {"rate": sum(rates), "first_batch": 0.0}


def _decode_videos(job: Job, process: int, count: int) -> float:
    rng, work = np.random.default_rng((job.seed, process)), []
    for place in rng.permutation(count) % len(job.paths):
        info = probe(job.paths[place])
        windows = random_windows(info, job.views, rng)
        work.append((job.paths[place], info, np.unique(np.concatenate(list(windows.values())))))
    first, start = job.warm_up * count // (job.warm_up + job.steps), time.perf_counter()
    for place, (path, info, wanted) in enumerate(work):
        if place == first:
            start = time.perf_counter()
        _decode(path, info, wanted, LIMITS[job.contender])
    return (count - first) / (time.perf_counter() - start)


def _decode(path: str, info, wanted: np.ndarray, leave_out: bool) -> None:
    keys = info.keyframes[np.maximum(np.searchsorted(info.keyframes, info.pts[wanted], side="right") - 1, 0)]
    runs = np.split(wanted, np.flatnonzero(np.searchsorted(info.pts, keys[1:]) > wanted[:-1]) + 1)
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        for run in runs:
            key = info.keyframes[max(np.searchsorted(info.keyframes, info.pts[run[0]], side="right") - 1, 0)]
            if key > info.pts[0] or run[0] != wanted[0]:
                container.seek(int(key), stream=stream)
            due = set(info.pts[run].tolist())
            for packet in container.demux(stream):
                if leave_out:
                    stream.codec_context.skip_frame = "DEFAULT" if packet.pts in due else "NONREF"
                due.discard(packet.pts)
                packet.decode()
                if not due:
                    stream.codec_context.decode(None)
                    break


if __name__ == "__main__":
    measure(pickle.loads(Path(sys.argv[1]).read_bytes()), _report)
