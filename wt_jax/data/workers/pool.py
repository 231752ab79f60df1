"""Worker processes: batches made ahead in processes of their own, light to start, and replaced when they die.

A batch is a pure function of its place. So the workers are asked for batches by their places, in turn, and one that dies,
for lack of memory for instance, is named with its cause and started anew with what it still owes: nothing changes in what
comes out. The processes are our own because grain's take over a second to start, copy each batch, and end with the first
that dies. A worker imports neither the program's main module nor JAX: see `wt_jax.data.workers.worker_main`.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import connection, reduction, util
from typing import Any

import grain
import numpy as np

from wt_jax.data.parallel import main_hidden
from wt_jax.data.workers.shared_memory import Block, pack, unpack
from wt_jax.errors import WorkerError

log = logging.getLogger(__name__)

_CONTEXT = multiprocessing.get_context("spawn")
_DEATHS = 3  # in a row, without a batch between them, before the run ends


def iterate(batches: grain.MapDataset, workers: int, threads: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches in their order, made ahead; workers make whole batches, so the content knows nothing of them.

    Args:
      batches: the batches by their place.
      workers: worker processes; 0 works in threads of this process.
      threads: batches under way at once, per process; with 0 each batch of this process is made when it is asked for.

    Raises:
      WorkerError: workers died three times without giving a batch.
      Exception: whatever making a batch raised.
    """
    if not workers:
        source = iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)))
        try:
            yield from source
        finally:
            source.close()
        return
    pickled, count, ahead = pickle.dumps(batches), len(batches), max(threads, 1) + 1
    pool = [_Worker(pickled, max(threads, 1)) for _ in range(workers)]
    # Before multiprocessing waits for its processes, should the program end without closing this.
    stop = util.Finalize(None, _kill, [pool], exitpriority=1)
    try:
        for place in range(min(workers * ahead, count)):
            pool[place % workers].ask(place)
        deaths = 0
        for place in range(count):
            worker = pool[place % workers]
            while (batch := worker.take(place)) is None:
                deaths, cause = deaths + 1, _cause(worker.end())
                if deaths == _DEATHS:
                    raise WorkerError(f"worker processes died {deaths} times without giving a batch; the last: {cause}")
                log.warning("a worker process died: %s; one starts anew from batch %d, its content unchanged", cause, place)
                worker.start()
            deaths = 0
            if place + workers * ahead < count:
                worker.ask(place + workers * ahead)
            yield batch[0]
            del batch  # Lest its memory be held while the next is made.
    finally:
        stop()


def _kill(pool: list[_Worker]) -> None:
    for worker in pool:
        worker.end()


class _Worker:
    """A process that makes batches, and what it owes."""

    def __init__(self, batches: bytes, threads: int):
        self._batches, self._threads = batches, threads
        self._owed: dict[int, Block | None] = {}
        self._made: dict[int, tuple] = {}  # answers, each with its block and where that goes once it is free
        self.start()

    def start(self) -> None:
        """Starts a process and asks it for all that is owed."""
        self._free: list[Block] = []
        self._blocks, self._room = 0, 0  # how many there are, and how large they should be
        self._connection, answers = _CONTEXT.Pipe()
        self._files, files = _CONTEXT.Pipe()
        arguments = answers, files, self._batches, self._threads
        self._process = _CONTEXT.Process(target=_work, args=arguments, name="wt_jax data worker", daemon=True)
        with main_hidden():
            self._process.start()
        answers.close()
        files.close()
        for place in list(self._owed):
            self.ask(place)

    def ask(self, place: int) -> None:
        """Asks for a batch, to be made in a block that is large enough as far as is known."""
        self._owed[place] = block = self._some_block()
        with suppress(OSError, RuntimeError):  # It is dead, as taking the batch will tell.
            self._connection.send((place, block and (block.number, len(block.data))))
            if block and block.file is not None:
                reduction.send_handle(self._files, block.file, self._process.pid)
                block.forget_file()

    def _some_block(self) -> Block | None:
        while self._free:
            block = self._free.pop()
            if len(block.data) >= self._room:
                return block
        if not self._room:
            return None
        self._blocks += 1
        return Block(self._blocks, self._room)

    def take(self, place: int) -> tuple[Any] | None:
        """The batch as the only member of a tuple, or None where the process is dead. Raises what making it raised."""
        while place not in self._made:
            connection.wait([self._connection, self._process.sentinel])
            try:
                if not self._connection.poll():
                    return None
                answered, answer = self._connection.recv()
            except (EOFError, OSError):
                return None
            self._made[answered] = answer, self._owed.pop(answered), self._free
        answer, block, free = self._made.pop(place)
        if isinstance(answer, BaseException):
            raise answer
        structure, places, room = answer
        self._room = max(self._room, room)
        # A block of a process that has died is not for the next one, which does not know its file.
        return (unpack(structure, places, block, free),)

    def end(self) -> int:
        """Ends the process, which holds nothing that could be lost; returns its exit code."""
        self._process.kill()
        self._process.join()
        self._connection.close()
        self._files.close()
        code = self._process.exitcode
        assert code is not None  # it has been joined
        return code


def _cause(code: int) -> str:
    """What an exit code means, with a remedy where there is one."""
    if code >= 0:
        return f"exit code {code}; its own message is in the output above"
    name = signal.Signals(-code).name
    if name == "SIGKILL":
        return "SIGKILL, as when memory runs out; if it was that, lower config.data.workers or config.data.threads"
    return f"{name}; a fault in a decoder, for instance"


def _work(orders: connection.Connection, files: connection.Connection, pickled: bytes, threads: int) -> None:
    """The life of a worker: makes what it is asked for until nobody asks any more."""
    for number in (signal.SIGTERM, signal.SIGINT):  # sent to whole groups of processes; batches are needed until the save
        signal.signal(number, signal.SIG_IGN)
    batches, blocks, lock = pickle.loads(pickled), {}, threading.Lock()
    gc.freeze()  # What is there now stays: looking through it for garbage took 4 % of the time of small videos.

    def answer(place: int, block: Block | None) -> None:
        try:
            made = pack(batches, place, block)
        except Exception as error:
            made = _portable(error)
        with lock, suppress(OSError):  # Nobody is there any more.
            orders.send((place, made))

    with ThreadPoolExecutor(threads) as pool, suppress(EOFError, OSError):
        while True:
            place, named = orders.recv()
            if named and named not in blocks:
                number, size = named
                blocks[named] = Block(number, size, reduction.recv_handle(files))
                blocks[named].forget_file()
            if threads == 1:
                answer(place, blocks.get(named))
            else:
                pool.submit(answer, place, blocks.get(named))


def _portable(error: Exception) -> Exception:
    """The error as it can be sent, with a note of where it came from."""
    error.add_note(f"In a data worker:\n{''.join(traceback.format_tb(error.__traceback__))}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception_only(error)))
    return error
