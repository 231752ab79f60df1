"""When the device finished each step, noted without holding up the loop."""

import contextlib
import queue
import threading
import time
from concurrent.futures import Future
from typing import Any

import jax


class DeviceClock:
    """A thread of its own waits for the results of each step, in order."""

    def __init__(self):
        self._waiting: queue.SimpleQueue[tuple[Any, Future[float]] | None] = queue.SimpleQueue()
        # A daemon: what it waits for may never come, and must not hold up the end of the process.
        threading.Thread(target=self._note, name="device clock", daemon=True).start()

    def finish(self, results: Any) -> Future[float]:
        """The time, of `time.perf_counter`, at which these arrays will have been computed, or their computation failed."""
        finished: Future[float] = Future()
        self._waiting.put((results, finished))
        return finished

    def close(self) -> None:
        """End the thread when it has seen all results."""
        self._waiting.put(None)

    def _note(self) -> None:
        while item := self._waiting.get():
            results, finished = item
            with contextlib.suppress(Exception):  # Whoever reads the results raises it.
                jax.block_until_ready(results)
            finished.set_result(time.perf_counter())
