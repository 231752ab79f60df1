"""Does one thing to many files, in a process per core, with a progress line; a file that kills its process is named."""

import collections
import contextlib
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TextIO, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

_AHEAD = 4  # jobs that are handed out per process


def run_parallel(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Result | None]]:
    """Yields (job, function(job)) as they are done, in any order; None where the process died of the job.

    Args:
      function: a function of a module, which does not raise for bad input.
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


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: the caller may run threads.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_silently)


def _end_silently() -> None:
    """On Ctrl-C the main process says what there is to say."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class ProgressLine:
    """How far a long command is: one line that is rewritten on a terminal, else a line now and then."""

    def __init__(self, what: str, total: int, done: int = 0, stream: TextIO = sys.stderr):
        self._what, self._total, self._done, self._first, self._stream = what, total, done, done, stream
        self._start = self._shown = time.monotonic()
        self._terminal = stream.isatty()
        self._every = 0.2 if self._terminal else 30.0

    def step(self, note: str = "") -> None:
        """One more is done."""
        self._done += 1
        if time.monotonic() - self._shown >= self._every or self._done == self._total:
            self._show(note)

    def _show(self, note: str) -> None:
        self._shown = time.monotonic()
        rate = (self._done - self._first) / max(self._shown - self._start, 1e-9)
        left = int((self._total - self._done) / max(rate, 1e-9))
        line = f"{self._what}: {self._done:,} of {self._total:,} ({self._done / self._total:.0%}), {rate:.1f}/s"
        line += f", {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left" + (f", {note}" if note else "")
        with contextlib.suppress(OSError):  # The terminal may be gone; the work goes on.
            self._stream.write(f"\r{line}\x1b[K" if self._terminal else f"{line}\n")
            if self._terminal and self._done == self._total:
                self._stream.write("\n")
            self._stream.flush()
