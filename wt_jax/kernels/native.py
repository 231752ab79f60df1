"""Native code that runs the operations of `wt_jax/kernels/operations.py`, compiled by Numba, which keeps it on disk.

XLA calls a program's operations from several threads, and at the same time where it likes. OpenMP keeps a team of threads
for each thread that calls it, and two teams would wait for each other's cores. So one thread of ours executes all operations,
one after the other, and XLA's wait for it. Python is called before the first call of an operation and after one that failed;
otherwise it is not involved, so that nothing waits for its lock.

What an operation does is a list of instructions (`wt_jax.kernels.onednn.Instruction`), whose key is the operation's text.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.np.numpy_support import carray

from wt_jax.kernels import ffi, onednn
from wt_jax.kernels.compiled import callback, compiled, intrinsic, pointer
from wt_jax.kernels.onednn import MEMORY, PRIMITIVE, SCRATCH, WORD, Instruction

_END = 0  # after the last instruction

# What native code and Python share, as indices in words of 64 bits: semaphores and a mutex of the C library with room to
# spare, and the table of programs by the hashes of their texts.
_STREAM, _SCRATCH, _PROGRAM, _FRAME, _STATUS = range(5)
_REQUEST, _DONE, _MUTEX, _TABLE = 8, 16, 24, 32
_SLOTS = 1 << 14
_shared = np.zeros(_TABLE + 2 * _SLOTS, np.int64)

# Indices in `ffi.Frame` and `ffi.Buffer`, also in words.
_EXTENSION, _ARGUMENT_COUNT, _ARGUMENTS, _RESULTS, _ATTRIBUTES, _ADDRESS = 1, 7, 9, 14, 20, 3

# The size that Numba gets for memory of unknown size.
_ENDLESS = 1 << 40

int64 = types.int64
_int = types.int32
_set_address = types.ExternalFunction("dnnl_memory_set_data_handle", _int(int64, int64))
_execute = types.ExternalFunction("dnnl_primitive_execute", _int(int64, int64, _int, int64))
_in_team = types.ExternalFunction("GOMP_parallel", types.void(int64, int64, types.uint32, types.uint32))
_lock = types.ExternalFunction("pthread_mutex_lock", _int(int64))
_unlock = types.ExternalFunction("pthread_mutex_unlock", _int(int64))
_wait = types.ExternalFunction("sem_wait", _int(int64))
_post = types.ExternalFunction("sem_post", _int(int64))
_call_python = types.ExternalFunction("wt_jax_call_python", int64(int64, int64))


@intrinsic
def _shared_address(typing_context):
    """Address of `_shared`, which compiled code that is cached on disk must not contain."""

    def generate(context, builder, signature, arguments):
        variable = builder.module.globals.get("wt_jax_shared")
        if variable is None:
            variable = ir.GlobalVariable(builder.module, ir.IntType(64), "wt_jax_shared")
        return builder.ptrtoint(variable, ir.IntType(64))

    return int64(), generate


@compiled()
def words(address):
    """Memory from an address on as words of 64 bits; how many there are is for the caller to know."""
    return carray(pointer(address), _ENDLESS, np.int64)


@compiled()
def _hash(start, length):
    """64-bit FNV-1a, but never 0, of a text of so many bytes."""
    found, text = int64(-3750763034362895579), carray(pointer(start), length, np.uint8)
    for byte in text:
        found = (found ^ int64(byte)) * int64(1099511628211)
    return found if found else int64(1)


@compiled()
def _slot(key):
    """Index in the table where a hash is, or is to be stored."""
    table, slot = words(_shared_address()), key & (_SLOTS - 1)
    while table[_TABLE + 2 * slot] != key and table[_TABLE + 2 * slot] != 0:
        slot = (slot + 1) & (_SLOTS - 1)
    return _TABLE + 2 * slot


@compiled()
def _run(program, frame):
    """Execute a program; returns the first status that is not 0, or 0."""
    code, shared, call = words(program), words(_shared_address()), words(frame)
    arguments, results = words(call[_ARGUMENTS]), words(call[_RESULTS])
    at, status = 0, int64(0)
    while code[at] != _END and status == 0:
        first, second, third = code[at + 1], code[at + 2], code[at + 3]
        if code[at] <= WORD:
            count = call[_ARGUMENT_COUNT]
            if second == SCRATCH:
                address = shared[_SCRATCH]
            else:
                address = words(arguments[second] if second < count else results[second - count])[_ADDRESS]
            if code[at] == MEMORY:
                status = int64(_set_address(first, address))
            else:
                words(first)[0] = address
        elif code[at] == PRIMITIVE:
            status = int64(_execute(first, shared[_STREAM], _int(second), third))
        else:
            _in_team(first, second, types.uint32(0), types.uint32(0))
        at += 4
    return status


@compiled()
def _serve():
    """Run one program after the other, forever."""
    start = _shared_address()
    shared = words(start)
    while True:
        while _wait(start + 8 * _REQUEST) != 0:  # interrupted by a signal
            pass
        shared[_STATUS] = _run(shared[_PROGRAM], shared[_FRAME])
        _post(start + 8 * _DONE)


def _handle(frame):
    """What XLA calls."""
    call, start = words(frame), _shared_address()
    if call[_EXTENSION] != 0:
        return _call_python(frame, 0)
    text, shared = words(words(call[_ATTRIBUTES])[0]), words(start)
    key = _hash(text[0], text[1])
    if shared[_slot(key)] == 0:
        error = _call_python(frame, 0)
        if error != 0:
            return error
    program = shared[_slot(key) + 1]
    if words(program)[0] == _END:
        return 0
    _lock(start + 8 * _MUTEX)
    shared[_PROGRAM], shared[_FRAME] = program, frame
    _post(start + 8 * _REQUEST)
    while _wait(start + 8 * _DONE) != 0:
        pass
    status = shared[_STATUS]
    _unlock(start + 8 * _MUTEX)
    return _call_python(frame, status) if status != 0 else 0


_programs: dict[str, np.ndarray] = {}  # programs by their texts
_scratch = [np.empty(0, np.uint8)]  # the last one is in use; a call that goes on may still have one before
_preparing = threading.Lock()


def _prepare(text: str, instructions_of: Callable[[str], Sequence[Instruction]]) -> None:
    with _preparing:
        if text in _programs:
            return
        if len(_programs) >= _SLOTS // 2:
            raise RuntimeError(f"more than {_SLOTS // 2} kinds of operations in one process")
        instructions = instructions_of(text)
        _reserve(max((size for _, _, where, size in instructions if where == SCRATCH), default=0))
        program = _programs[text] = np.array([*instructions, (_END, 0, 0, 0)], np.int64)
        raw = text.encode()
        key = _hash(np.frombuffer(raw, np.uint8).ctypes.data, len(raw))
        slot = _slot(key)
        _shared[slot + 1] = program.ctypes.data
        _shared[slot] = key  # from here on it is found


def _reserve(size: int) -> None:
    """Have at least this many bytes of scratch memory, aligned to 64 bytes, as oneDNN prefers."""
    if size > _scratch[-1].size - 64:
        _scratch.append(np.empty(2 * size + 64, np.uint8))
        _shared[_SCRATCH] = -(-_scratch[-1].ctypes.data // 64) * 64


def start(name: str, instructions_of: Callable[[str], Sequence[Instruction]]) -> None:
    """Make `jax.ffi.ffi_call(name, ...)(*arrays, text=...)` on a CPU follow `instructions_of(text)`.

    To be called once. Arrays are dense and row-major. An exception ends the program that has the operation, with its message.
    """
    library, c_library = onednn.loaded(), ctypes.CDLL(None)
    functions = {"wt_jax_call_python": ffi.entry(name, lambda text: _prepare(text, instructions_of))}
    functions |= {each.symbol: getattr(library, each.symbol) for each in (_set_address, _execute, _in_team)}
    functions |= {name: getattr(library, name) for name in ("omp_get_thread_num", "omp_get_num_threads")}
    functions |= {each.symbol: getattr(c_library, each.symbol) for each in (_lock, _unlock, _wait, _post)}
    for symbol, function in functions.items():
        binding.add_symbol(symbol, ctypes.cast(function, ctypes.c_void_p).value)  # pyright: ignore[reportArgumentType]  # functions of ctypes can be cast
    binding.add_symbol("wt_jax_shared", _shared.ctypes.data)
    handler = callback(int64(int64), _handle)
    _alive.extend([functions, handler])
    _shared[_STREAM] = onednn.stream().value or 0
    threading.Thread(target=_serve, name=name, daemon=True).start()
    ffi.register(name, handler.ctypes)


_alive: list = []  # what native code refers to
