"""Batches go from a worker process to the main one through memory that both see: nothing is copied, nothing is left behind.

The main process makes the blocks and names one with each request; the worker builds the batch right there (`empty`), and
what it sends back is its structure alone. A block is used again once no array of its batch is alive, so its pages are paid for
once. Blocks have no name in the file system: however the processes end, they are gone with them.
"""

from __future__ import annotations

import math
import mmap
import os
import pickle
import tempfile
import threading
import weakref
from typing import Any

import numpy as np

_ALIGNED = 64  # bytes; what XLA asks of memory that it takes over without a copy
_INLINE = 1024  # bytes; what is smaller travels with the structure


class Block:
    """Memory that processes share by a file descriptor.

    Attributes:
      number: by which both processes know it.
      file: the descriptor, for as long as the other process has not got it; then None.
    """

    def __init__(self, number: int, size: int, file: int | None = None):
        self.number = number
        self.file = _nameless_file(size) if file is None else file
        self._map = mmap.mmap(self.file, size)

    @property
    def data(self) -> np.ndarray:
        """The memory, uint8 [size]; an array of its own each time."""
        return np.frombuffer(self._map, np.uint8)

    def forget_file(self) -> None:
        """Closes the descriptor; the memory stays as long as it is mapped."""
        if self.file is not None:
            os.close(self.file)
        self.file = None


def _nameless_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("wt_jax batch")
    else:
        with tempfile.TemporaryFile() as named:
            file = os.dup(named.fileno())
    os.truncate(file, size)
    return file


class _Desk(threading.local):
    """The block in which this thread makes its batch, and how much of it is taken."""

    data: np.ndarray = np.empty(0, np.uint8)
    taken: int = 0

    def place(self) -> int:
        """Where the next array begins."""
        return -(-self.taken // _ALIGNED) * _ALIGNED


_desk = _Desk()


def empty(shape: tuple[int, ...], dtype: np.typing.DTypeLike = np.uint8) -> np.ndarray:
    """An array to make a batch in: where a batch is handed over, in the memory in which it will be seen."""
    start = _desk.place()
    end = start + math.prod(shape) * np.dtype(dtype).itemsize
    if end > len(_desk.data):
        return np.empty(shape, dtype)
    _desk.taken = end
    return _desk.data[start:end].view(dtype).reshape(shape)


def pack(make: Any, place: int, block: Block | None) -> tuple[bytes, list[tuple[int, int]], int]:
    """Makes the batch make[place]; returns its structure, where in the block its arrays lie, and the room that it needs.

    What finds no room in the block is part of the structure.
    """
    _desk.data, _desk.taken = block.data if block else _Desk.data, 0
    try:
        places: list[tuple[int, int]] = []
        batch = make[place]
        structure = pickle.dumps(batch, protocol=5, buffer_callback=lambda buffer: _lay_down(buffer, places))
        return structure, places, _desk.taken
    finally:
        _desk.data = _Desk.data


def _lay_down(buffer: pickle.PickleBuffer, places: list[tuple[int, int]]) -> bool:
    """Notes where an array lies in the block, to which it is copied if need be; True where it must travel otherwise."""
    content = np.frombuffer(buffer.raw(), np.uint8)
    if len(content) < _INLINE:
        return True
    start = content.ctypes.data - _desk.data.ctypes.data
    if not 0 <= start < len(_desk.data):
        start = _desk.place()
        _desk.taken = start + len(content)  # Also where it does not fit: the next block shall hold it.
        if _desk.taken > len(_desk.data):
            return True
        _desk.data[start : _desk.taken] = content
    places.append((start, len(content)))
    return False


def unpack(structure: bytes, places: list[tuple[int, int]], block: Block | None, free: list[Block]) -> Any:
    """The batch, its arrays in the block, which goes to `free` when the last of them is gone."""
    if not block:
        return pickle.loads(structure)
    data = block.data
    weakref.finalize(data, free.append, block).atexit = False
    return pickle.loads(structure, buffers=[data[start : start + size] for start, size in places])
