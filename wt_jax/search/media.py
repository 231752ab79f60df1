"""Reads videos for the page in processes with limits of memory and time; see `wt_jax.search.media_worker`."""

import json
import logging
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

log = logging.getLogger(__name__)

MEMORY_BYTES = 4 << 30  # of addresses, of which the libraries alone take more than one
_START_SECONDS = 120.0
_JOBS_PER_WORKER = 500  # then a new process: decoders leak


class MediaError(Exception):
    """A video that cannot be read as asked; the message says why and names no path."""


class MediaPool:
    """Some worker processes; any thread may ask. A job that takes too long, or dies, ends its process and no other."""

    def __init__(self, workers: int, *, memory_bytes: int = MEMORY_BYTES):
        self._memory = memory_bytes
        self._free: queue.Queue[_Worker | None] = queue.Queue()
        self._all: set[_Worker] = set()
        self._lock, self._closed = threading.Lock(), False
        for _ in range(workers):
            self._free.put(None)

    def run(self, kind: str, path: str, *, seconds: float, **arguments: Any) -> tuple[dict[str, Any], bytes]:
        """The fields and the bytes that a job answers with.

        Args:
          kind: a name in `wt_jax.search.media_worker.JOBS`.
          path: the video.
          seconds: the longest it may wait for a process, and then take; not counting that a new process starts.
          arguments: of the job.

        Raises:
          MediaError: the video cannot be read, or that takes too much time or memory.
        """
        fields: dict[str, Any] = {}
        parts = []
        for found, content in self.stream(kind, path, seconds=seconds, **arguments):
            fields |= found
            parts.append(content)
        return fields, b"".join(parts)

    def stream(self, kind: str, path: str, *, seconds: float, **arguments: Any) -> Iterator[tuple[dict[str, Any], bytes]]:
        """As `run`, piece by piece; `seconds` bound each piece."""
        job = {"kind": kind, "path": path} | arguments
        with self._worker(seconds) as worker:
            yield from worker.answers(job, seconds)

    def warm_up(self) -> None:
        """Start the processes, so that the first job need not wait for their libraries."""
        workers = [self._free.get() for _ in range(self._free.qsize())]
        for worker in workers:
            self._free.put(worker or self._started())

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            self._closed = True
            for worker in self._all:
                worker.end()
            self._all.clear()

    @contextmanager
    def _worker(self, seconds: float) -> "Iterator[_Worker]":
        try:
            worker = self._free.get(timeout=seconds)
        except queue.Empty:
            raise MediaError("the server is busy with other videos; try again") from None
        try:
            if worker is None or not worker.usable:
                worker = self._started()
            yield worker
        finally:
            if worker is not None and not worker.usable:
                worker.end()
                with self._lock:
                    self._all.discard(worker)
                worker = None
            self._free.put(worker)

    def _started(self) -> "_Worker":
        with self._lock:
            if self._closed:
                raise MediaError("the server is closing")
            worker = _Worker(self._memory)
            self._all.add(worker)
        return worker


class _Worker:
    """One process."""

    def __init__(self, memory: int):
        command = [sys.executable, "-m", "wt_jax.search.media_worker", str(memory)]
        self._process = subprocess.Popen(
            command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._jobs, self._replies = self._process.stdin, self._process.stdout
        self._left, self._busy, self._started = _JOBS_PER_WORKER, False, False

    @property
    def usable(self) -> bool:
        """Whether it can take a job: it lives, is not old, and has answered its last one to the end."""
        return self._process.poll() is None and self._left > 0 and not self._busy

    def answers(self, job: dict[str, Any], seconds: float) -> Iterator[tuple[dict[str, Any], bytes]]:
        """What the process answers, piece by piece."""
        self._left, self._busy = self._left - 1, True
        if not self._started:  # by what the job may take, the libraries would not always be there
            self._line(time.monotonic() + _START_SECONDS)
            self._started = True
        with suppress(BrokenPipeError):  # reading tells
            self._jobs.write(json.dumps(job).encode() + b"\n")
            self._jobs.flush()
        while True:
            deadline = time.monotonic() + seconds
            fields = json.loads(self._line(deadline))
            content = self._bytes(fields.pop("size"), deadline)
            if fields.pop("done", False):
                self._busy = False
                if reason := fields.get("reason"):
                    raise MediaError(str(reason))
                return
            yield fields, content

    def end(self) -> None:
        """Kill it; it holds nothing that could be lost."""
        self._process.kill()
        self._process.wait()
        for file in (self._jobs, self._replies):
            with suppress(OSError):
                file.close()

    def _line(self, deadline: float) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            line += self._bytes(1, deadline)
        return line

    def _bytes(self, count: int, deadline: float) -> bytes:
        parts, file = [], self._replies
        while count:
            ready, _, _ = select.select([file], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise MediaError("reading it takes too long")
            part = file.read(min(count, 1 << 20))
            if not part:
                raise MediaError("decoding it ended its process: it needs too much memory, or is damaged")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)
