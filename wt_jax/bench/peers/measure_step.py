"""One contender's step in a process of its own: `python -m wt_jax.bench.peers.measure_step JOB`, a pickled `Job`.

Prints a JSON line with its facts and the time to start, then runs a turn for each line "COUNT" on stdin and prints the time
per step. As in training, the loss of a step is read after the next one was started. Between turns it sleeps.
"""

import json
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wt_jax.bench.memory import peak_of_self
from wt_jax.config import Config
from wt_jax.ops import keep_freed_memory, prepare_process
from wt_jax.specs import ClipView

# PyTorch's ways to run its step that are worth trying: `torch.compile`'s mode ("": eager), and the memory layout. CUDA graphs
# are not among them: both teachers' passes would share one graph's outputs. From "kept" on the process keeps freed memory, as
# our own program may; so that is the last one.
WAYS = {
    "eager": ("", "channels_last_3d"),
    "eager_channels_first": ("", "contiguous_format"),
    "compile": ("default", "channels_last_3d"),
    "compile_channels_first": ("default", "contiguous_format"),
    "autotune": ("max-autotune-no-cudagraphs", "channels_last_3d"),
    "kept": ("", "channels_last_3d"),
}
CLASSES = 400  # of the noise's labels, as Kinetics-400 has
_BATCHES = 2  # different ones, in turn
_TRIED = 3  # steps of each of PyTorch's ways, after two that are not timed; the least counts


@dataclass(frozen=True)
class Job:
    """Whose step of which configuration; `started` is the wall clock's time when the process was asked for.

    `cache` is the folder for compiled programs. `ways` are names in `WAYS`, of which the fastest takes the turns. With
    `run` False nothing but the start is measured, with `keep_step` False the folder holds JAX's own cache alone.
    """

    contender: str
    config: Config
    cache: str
    ways: tuple[str, ...]
    run: bool
    started: float = 0.0
    keep_step: bool = True


Facts = dict[str, Any]
Take = Callable[[], Any]  # starts a step; what it returns, `float` waits for


def synthetic_batches(config: Config) -> Iterator[dict[str, np.ndarray]]:
    """Batches of noise with the shapes of the configuration's views; each video is shown once per batch."""
    from wt_jax.experiment import build_method
    from wt_jax.train.step import batch_shapes

    rng, size = np.random.default_rng(config.seed), config.train.batch_size
    shapes = batch_shapes(build_method(config, 1), size)
    for place in range(_BATCHES):
        views = {
            name: rng.integers(0, 256, v.shape, np.uint8) if v.dtype == np.uint8 else rng.random(v.shape).astype(v.dtype)
            for name, v in shapes.items()
        }
        video = np.arange(place * size, (place + 1) * size, dtype=np.int32)
        yield {**views, "video": video, "label": video % _classes(config), "failed": np.full(size, -1, np.int32)}


def _classes(config: Config) -> int:
    return getattr(config.method, "num_classes", 0) or CLASSES


def our_step(config: Config) -> tuple[Any, Any, Take]:
    """The program of a configuration, its compiled step, and a function that takes the next step on noise."""
    import jax

    from wt_jax.train.executable_cache import compiled_step
    from wt_jax.train.program import build
    from wt_jax.train.sharding import put_batch

    program = build(config, _BATCHES * config.train.batch_size, _classes(config))
    step = compiled_step(program, config)
    state: Any = None
    batches: list[Any] = []
    count = 0

    def take() -> jax.Array:
        nonlocal state, count
        if not batches:
            state = program.first_state()
            batches.extend(put_batch(batch, program.mesh) for batch in synthetic_batches(config))
        state, metrics = step.call(state, batches[count % _BATCHES])
        count += 1
        return metrics["loss"]

    return program, step, take


def _ours(job: Job) -> tuple[Facts, Take | None]:
    prepare_process(job.config.data.workers)  # as in training
    import jax

    from wt_jax.train.metrics import device_peak
    from wt_jax.train.step import model_flops

    jax.config.update("jax_compilation_cache_dir", job.cache)
    compile_cache = job.cache if job.keep_step else ""
    config = replace(job.config, train=replace(job.config.train, compile_cache=compile_cache))
    program, step, take = our_step(config)
    device = jax.devices()[0]
    facts = {
        "start": time.time() - job.started,
        "device": f"{jax.device_count()} {device.device_kind}",
        "platform": device.platform,
        "peak": device_peak(),
        "flops": step.flops or model_flops(program.counted, program.shapes, config.train.batch_size),
        "version": f"jax {jax.__version__}",
    }
    if not job.run:
        return facts, None
    if device.platform == "cpu":
        facts["matmul"] = _matmul_rate()
    return facts, take


def _matmul_rate() -> float:
    """FLOP/s of a large float32 matrix product by XLA: what a CPU's peak is taken to be."""
    import jax
    import jax.numpy as jnp

    size = 2048
    square, multiply = jnp.ones((size, size)), jax.jit(jnp.matmul)
    times = []
    for _ in range(12):  # the first one also compiles
        start = time.perf_counter()
        multiply(square, square).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def _theirs(job: Job) -> tuple[Facts, Take | None]:
    import torch  # pyright: ignore[reportMissingImports]  # of an extra

    from wt_jax.bench.peers.torch_step import TorchStep
    from wt_jax.experiment import build_method

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    views = {name: view for name, view in build_method(job.config, 1).views.items() if isinstance(view, ClipView)}
    batches = [{k: torch.from_numpy(v).to(device) for k, v in batch.items()} for batch in synthetic_batches(job.config)]
    # A constant rate: what it is does not matter here.
    make = partial(TorchStep, job.config, views, lambda step: 1e-3, device)
    facts: Facts = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "platform": device.type,
        "version": f"torch {torch.__version__}",
        "tried": {},
    }
    best: tuple[float, Take] | None = None
    for way in sorted(job.ways, key=list(WAYS).index):
        if way == "kept":
            keep_freed_memory()
        try:
            step = make(*WAYS[way])
            take = partial(_next, step, batches)
            float(take())
            facts.setdefault("start", time.time() - job.started)
            float(take())
            seconds = min(time_steps(take, 1) for _ in range(_TRIED))
        except Exception as error:  # a compiler that is missing or fails: reported, and the others go on
            facts["tried"][way] = f"failed: {str(error).strip().splitlines()[0][:200]}"
            continue
        facts["tried"][way] = f"{1000 * seconds:.0f} ms"
        if best is None or seconds < best[0]:
            best, facts["way"] = (seconds, take), way
        del step, take
    if best is None:
        raise RuntimeError("; ".join(f"{way} {text}" for way, text in facts["tried"].items()))
    return facts, best[1]


def _next(step: Callable, batches: list) -> Any:
    return step(batches[step.step % _BATCHES])


def time_steps(take: Take, count: int) -> float:
    """Seconds per step of `count` steps."""
    start, pending = time.perf_counter(), take()
    for _ in range(count - 1):
        fresh = take()
        float(pending)
        pending = fresh
    float(pending)
    return (time.perf_counter() - start) / count


def peak_memory(contender: str) -> float:
    """The most MiB that were held: on the device where it reports it, otherwise by this process."""
    if contender == "torch":
        import torch  # pyright: ignore[reportMissingImports]  # of an extra

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 2**20
    else:
        import jax

        stats = jax.devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            return stats["peak_bytes_in_use"] / 2**20
    return peak_of_self()


def main(path: str) -> None:
    """Start the contender and run its turns until stdin ends."""
    job: Job = pickle.loads(Path(path).read_bytes())
    facts, take = (_theirs if job.contender == "torch" else _ours)(job)
    if take:
        float(take())
        float(take())
    print(json.dumps(facts), flush=True)
    for line in sys.stdin if take else ():
        assert take is not None
        seconds = time_steps(take, int(line))
        print(json.dumps({"seconds": seconds, "memory": peak_memory(job.contender)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
