"""Worker processes: batches made ahead in processes of their own, light to start, and replaced when they die.

The processes are grain's. Two things are added. A worker does not import the program's main module again, which takes
seconds and may start JAX. And because a batch is a pure function of its place, workers that die, for lack of memory for
instance, are named with their cause and started anew from the batch that is due: nothing changes in what comes out.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grain
import numpy as np
from absl import flags

log = logging.getLogger(__name__)

_DIED = re.compile(r"terminated unexpectedly with exit code (-?\d+)")  # grain's words
_DEATHS = 3  # in a row, without a batch between them, before the run ends
_STARTED_WITHIN = 2.0  # seconds


class WorkerError(RuntimeError):
    """Worker processes die again and again; the message names the cause in one line."""


def iterate(batches: grain.MapDataset, workers: int, threads: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches in their order, made ahead; workers make whole batches, so the content knows nothing of them.

    Args:
      batches: the batches by their place.
      workers: worker processes; 0 works in threads of this process.
      threads: batches under way at once, per process; with 0 each batch is made when it is asked for.

    Raises:
      WorkerError: workers died three times without giving a batch.
      Exception: whatever making a batch raised.
    """
    done, deaths = 0, 0
    while True:
        source = _start(batches[done:] if done else batches, workers, threads)
        try:
            with _main_hidden(workers):
                batch = next(source, None)
            while batch is not None:
                yield batch
                done, deaths = done + 1, 0
                batch = next(source, None)
            return
        except RuntimeError as error:
            found = _DIED.search(str(error))
            if not found:
                raise
            deaths, cause = deaths + 1, _cause(int(found[1]))
            if deaths == _DEATHS:
                raise WorkerError(f"worker processes died {deaths} times without giving a batch; the last: {cause}") from error
            log.warning("a worker process died: %s; the workers start anew from batch %d, its content unchanged", cause, done)
        finally:
            source.close()


def _start(batches: grain.MapDataset, workers: int, threads: int) -> grain.DatasetIterator:
    dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
    if not workers:
        return iter(dataset)
    if not flags.FLAGS.is_parsed():  # Grain reads absl flags on its way to a worker.
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    return iter(dataset.mp_prefetch(options, worker_init_fn=_start_worker))


@contextmanager
def _main_hidden(workers: int) -> Iterator[None]:
    """Lets workers start without importing this program's main module: what they need they import by its name.

    Grain starts them when the first batch is asked for, in threads, of which the last may be late.
    """
    main, before = sys.modules["__main__"], len(multiprocessing.active_children())
    kept = {name: getattr(main, name, None) for name in ("__spec__", "__file__")}
    for name in kept:
        setattr(main, name, None)
    try:
        yield
        until = time.monotonic() + _STARTED_WITHIN
        while len(multiprocessing.active_children()) < before + workers and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


def _cause(code: int) -> str:
    """What an exit code says, with a remedy where there is one."""
    if code >= 0:
        return f"exit code {code}; its own message is in the output above"
    name = signal.Signals(-code).name
    if name == "SIGKILL":
        return "SIGKILL, as when memory runs out; if it was that, lower config.data.workers or config.data.threads"
    return f"{name}; a fault in a decoder, for instance"


def _start_worker(worker: int, num_workers: int) -> None:
    """Keeps JAX, which grain imports, off the accelerator of the main process, and leaves stopping to that process."""
    for number in (signal.SIGTERM, signal.SIGINT):  # sent to whole groups of processes; batches are needed until the save
        signal.signal(number, signal.SIG_IGN)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
