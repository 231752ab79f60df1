"""One function on many files, in a process per core; a file that kills its process is named."""

import collections
import importlib.util
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

_AHEAD = 4  # jobs that are handed out per process


def run_parallel(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Result | None]]:
    """Yields (job, function(job)) as they are done, in any order; None where the process died of the job.

    Args:
      function: a function of a module, which does not raise for bad input; one of a module that is not the program's
        main one gets processes without that and without JAX.
      jobs: what to do.
      workers: processes; 0 works in this one.

    An interrupted loop ends the processes; what has been yielded is all that was done.
    """
    if not workers:
        yield from ((job, function(job)) for job in jobs)
        return
    left, suspects = collections.deque(jobs), collections.deque()
    while left or suspects:
        # After a death the jobs under way are suspects, and each is tried alone.
        queue, ahead = (suspects, 1) if suspects else (left, workers * _AHEAD)
        running: dict[Future, Job] = {}
        pool = _pool(1 if suspects else workers)
        try:
            while queue or running:
                while queue and len(running) < ahead:
                    with main_hidden() if function.__module__ != "__main__" else nullcontext():
                        running[pool.submit(function, queue[0])] = queue[0]
                    queue.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield running.pop(future), result
        except BrokenProcessPool:
            if ahead > 1:
                suspects.extend(running.values())
            elif running:
                yield next(iter(running.values())), None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def main_hidden() -> Iterator[None]:
    """Lets a process start with a main module of its own: what it needs of this program it imports by its name."""
    main = sys.modules["__main__"]
    kept = main.__spec__
    main.__spec__ = importlib.util.find_spec("wt_jax.data.workers.worker_main")
    try:
        yield
    finally:
        main.__spec__ = kept


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: the caller may run threads.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_silently)


def _end_silently() -> None:
    """On Ctrl-C the main process alone reports."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
