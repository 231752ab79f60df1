"""oneDNN's 3-D convolutions and max-pooling in float32, on arrays given by their addresses.

oneDNN (Apache 2.0, https://github.com/uxlfoundation/oneDNN) is the library behind the convolutions of other frameworks on
a CPU. It is used through its C interface, which is stable within version 3: the library is found where a wheel
(`onednn-cpu-gomp`) or conda puts it, in the `lib` folder of the environment, or else where the system keeps its own.
Nothing is run here: an operation is a list of instructions, which `wt_jax/kernels/native.py` follows, and
`wt_jax/kernels/operations.py` puts it into a jitted program. This module does not depend on JAX.
"""

import ctypes
import math
import os
import platform
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

# Values of oneDNN's enumerations (oneapi/dnnl/dnnl_types.h, version 3).
_CPU, _IN_ORDER, _F32, _ANY_LAYOUT = 1, 1, 3, 1
_FORWARD_TRAINING, _FORWARD_INFERENCE, _DIRECT, _MAX = 64, 96, 1, 511
_WEIGHTS_LAYOUT, _DIFF_WEIGHTS_LAYOUT, _WORKSPACE_LAYOUT, _SCRATCH_LAYOUT = 131, 132, 135, 136
_SRC, _DST, _WEIGHTS, _WORKSPACE, _DIFF_SRC, _DIFF_DST, _DIFF_WEIGHTS = 1, 17, 33, 64, 129, 145, 161
_FROM, _TO, _SCRATCHPAD = 1, 17, 80
_GIVEN = 1
_ALLOCATE = ctypes.c_void_p(-1)
_MAX_DIMS = 12

# Axes of our arrays, by how many they have, in the order in which oneDNN names them: (N, C, D, H, W) and (O, I, D, H, W).
_OF_CLIP = {4: (0, 3, 1, 2), 5: (0, 4, 1, 2, 3)}
_OF_KERNEL = {4: (3, 2, 0, 1), 5: (4, 3, 0, 1, 2)}

# A convolution over time alone is faster with all positions of a frame as one axis where there are fewer positions than this,
# its kernel gradient where there are also no more channels than this (measured with oneDNN 3.2 on AVX2).
_FEW_POSITIONS, _FEW_CHANNELS = 28 * 28, 96

Shape = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]

# An instruction with up to three values, which are addresses unless noted otherwise:
# MEMORY: set a oneDNN memory's address to the array of this index, or SCRATCH of so many bytes
# WORD: write the address of the array of this index to a word
# PRIMITIVE: execute a primitive with so many arguments, which are listed there
# KERNEL: call a function of C, `kernel(words)`, in every thread of oneDNN's team
# Arrays are counted from 0, arguments of an operation before its results.
Instruction = tuple[int, int, int, int]
MEMORY, WORD, PRIMITIVE, KERNEL = 1, 2, 3, 4
SCRATCH = -1  # memory for what is not needed after an operation, the same for all of them


class OneDnnError(RuntimeError):
    """oneDNN refused a call."""


class _Argument(ctypes.Structure):
    _fields_ = (("argument", ctypes.c_int), ("memory", ctypes.c_void_p))


@cache
def library() -> ctypes.CDLL | None:
    """oneDNN 3 on an x86-64 Linux, or None where there is none."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    # GNU OpenMP may bind the thread that loads it, which must be none that is used for anything else.
    found: list[ctypes.CDLL | None] = []
    thread = threading.Thread(target=lambda: found.append(_load()), name="onednn")
    thread.start()
    thread.join()
    return found[0]


def loaded() -> ctypes.CDLL:
    """`library`, where there is one."""
    found = library()
    assert found is not None, "there is no oneDNN here"
    return found


def _load() -> ctypes.CDLL | None:
    # Threads that have done their part wait some microseconds for the next and then sleep: spinning on, as GNU OpenMP's do
    # for milliseconds, they would take the cores from the rest of the program; asleep at once, they are late for small layers.
    with _environment("GOMP_SPINCOUNT", "5000", "OMP_WAIT_POLICY"):
        for name in (str(Path(sys.prefix) / "lib" / "libdnnl.so.3"), "libdnnl.so.3"):
            try:
                found = ctypes.CDLL(name)
            except OSError:
                continue
            found.dnnl_primitive_desc_query_md.restype = ctypes.c_void_p
            found.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
            return found
    return None


def bind_threads() -> None:
    """Load oneDNN with each of its threads bound to a core, unless the environment has a setting for that.

    Left to the system, two of them run on one core now and then, and all others wait for them. Bound, they cannot move away
    from a program that keeps their core busy. To be called before anything else here: OpenMP reads its settings once.
    """
    with _environment("OMP_PROC_BIND", "true", "OMP_PLACES", "GOMP_CPU_AFFINITY", "OMP_NUM_THREADS"):
        library()


@contextmanager
def _environment(name: str, value: str, *others: str) -> Iterator[None]:
    """Inside, the environment has this value for GNU OpenMP to find when it is loaded, unless it has `name` or `others`."""
    if os.environ.keys() & {name, *others}:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:  # programs that are started later choose for themselves
        del os.environ[name]


def _call(function: str, *arguments) -> None:
    if status := getattr(loaded(), function)(*arguments):
        raise OneDnnError(f"{function} returned status {status}; ONEDNN_VERBOSE=all in the environment prints oneDNN's reason")


def _new(function: str, *arguments) -> ctypes.c_void_p:
    """Handle that a creating function of oneDNN puts where its first argument points."""
    handle = ctypes.c_void_p()
    _call(function, ctypes.byref(handle), *arguments)
    return handle


def _dims(values: Sequence[int]) -> ctypes.Array:
    return (ctypes.c_int64 * _MAX_DIMS)(*values)


@cache
def _engine() -> ctypes.c_void_p:
    return _new("dnnl_engine_create", _CPU, ctypes.c_size_t(0))


@cache
def stream() -> ctypes.c_void_p:
    """What all primitives are executed in, one after the other."""
    return _new("dnnl_stream_create", _engine(), _IN_ORDER)


@cache
def _with_our_scratch() -> ctypes.c_void_p:
    """Attribute of all primitives: their scratch memory comes from us. Their own belongs to the thread that made them."""
    attribute = _new("dnnl_primitive_attr_create")
    _call("dnnl_primitive_attr_set_scratchpad_mode", attribute, _GIVEN)
    return attribute


def _chosen(kind: str, *arguments) -> ctypes.c_void_p:
    """The implementation that oneDNN chooses for a primitive of this kind."""
    return _new(f"dnnl_{kind}_primitive_desc_create", *arguments, _with_our_scratch())


def _row_major(shape: Sequence[int], axes: Sequence[int]) -> ctypes.c_void_p:
    """Layout of a dense array of `shape`, its axes named in the order `axes`."""
    strides = [1] * len(shape)
    for axis in reversed(range(len(shape) - 1)):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    sizes, steps = _dims([shape[axis] for axis in axes]), _dims([strides[axis] for axis in axes])
    return _new("dnnl_memory_desc_create_with_strides", len(shape), sizes, _F32, steps)


def _clips(shape: Shape) -> ctypes.c_void_p:
    """Layout of our clips (N, D, H, W, C) or frames (N, H, W, C)."""
    return _row_major(shape, _OF_CLIP[len(shape)])


def _layout_of(chosen: ctypes.c_void_p, what: int) -> ctypes.c_void_p:
    """Layout that oneDNN requires for one of a primitive's arrays."""
    return ctypes.c_void_p(loaded().dnnl_primitive_desc_query_md(chosen, what, 0))


def _window(strides: Shape, padding: Padding) -> tuple[ctypes.Array, ...]:
    """Strides, dilation (0 is none) and padding before and after."""
    low, high = zip(*padding, strict=True)
    return _dims(strides), _dims([0] * len(strides)), _dims(low), _dims(high)


_listed: list[ctypes.Array] = []  # what instructions point to, which are good for as long as the process lives


class Operation:
    """Primitives to be executed one after the other."""

    def __init__(self):
        self._memories: tuple[ctypes.c_void_p, ...] = ()
        self._steps: list[tuple[ctypes.c_void_p, ctypes.Array]] = []
        self._scratch: list[tuple[ctypes.c_void_p, int]] = []

    def instructions(self, indices: Sequence[int]) -> list[Instruction]:
        """Instructions for the arrays of these indices, in the order of the kind of operation."""
        arrays = [(MEMORY, memory.value or 0, index, 0) for memory, index in zip(self._memories, indices, strict=True)]
        scratch = [(MEMORY, memory.value or 0, SCRATCH, size) for memory, size in self._scratch]
        steps = [(PRIMITIVE, each.value or 0, len(given), ctypes.addressof(given)) for each, given in self._steps]
        return arrays + scratch + steps

    def _memory(self, layout: ctypes.c_void_p, own: bool = True) -> ctypes.c_void_p:
        """Memory of its own, or without an address yet."""
        return _new("dnnl_memory_create", layout, _engine(), _ALLOCATE if own else None)

    def _then(self, chosen: ctypes.c_void_p, memories: dict[int, ctypes.c_void_p]) -> None:
        wanted = _layout_of(chosen, _SCRATCH_LAYOUT)
        if size := loaded().dnnl_memory_desc_get_size(wanted):
            scratch = self._memory(wanted, own=False)
            self._scratch.append((scratch, size))
            memories = memories | {_SCRATCHPAD: scratch}
        arguments = (_Argument * len(memories))(*(_Argument(key, memory) for key, memory in memories.items()))
        self._steps.append((_new("dnnl_primitive_create", chosen), arguments))
        _listed.append(arguments)


class Convolution(Operation):
    """One of the three convolutions of a layer: "value", "input_gradient" or "kernel_gradient".

    Its arrays are x (N, D, H, W, Cin), kernel (kd, kh, kw, Cin, Cout) and y (N, D', H', W', Cout), dense, row-major,
    float32, as `wt_jax.ops.conv3d.conv3d` has them; it computes one of them from the other two; y is also
    its gradient. The kernel is brought into oneDNN's own layout and back at each call.

    Raises:
      OneDnnError: oneDNN has no such convolution.
    """

    def __init__(self, kind: str, x: Shape, kernel: Shape, y: Shape, strides: Shape, padding: Padding):
        super().__init__()
        x, kernel, y, strides, padding = _folded(kind, x, kernel, y, strides, padding)
        axes = _OF_KERNEL[len(kernel)]
        sizes = _dims([kernel[axis] for axis in axes])
        before, after, ours = _clips(x), _clips(y), _row_major(kernel, axes)
        free = _new("dnnl_memory_desc_create_with_tag", len(axes), sizes, _F32, _ANY_LAYOUT)
        window = _window(strides, padding)
        chosen = _chosen("convolution_forward", _engine(), _FORWARD_TRAINING, _DIRECT, before, free, None, after, *window)
        if kind == "input_gradient":
            chosen = _chosen("convolution_backward_data", _engine(), _DIRECT, before, free, after, *window, chosen)
        elif kind == "kernel_gradient":
            gradient = (_DIRECT, before, free, None, after, *window, chosen)
            chosen = _chosen("convolution_backward_weights", _engine(), *gradient)
        theirs = _layout_of(chosen, _DIFF_WEIGHTS_LAYOUT if kind == "kernel_gradient" else _WEIGHTS_LAYOUT)
        x_memory, kernel_memory, y_memory = (self._memory(layout, own=False) for layout in (before, ours, after))
        self._memories = x_memory, kernel_memory, y_memory
        inner = self._memory(theirs)
        if kind == "kernel_gradient":
            self._then(chosen, {_SRC: x_memory, _DIFF_DST: y_memory, _DIFF_WEIGHTS: inner})
            self._then(self._reorder(theirs, ours), {_FROM: inner, _TO: kernel_memory})
            return
        self._then(self._reorder(ours, theirs), {_FROM: kernel_memory, _TO: inner})
        ends = {_SRC: x_memory, _DST: y_memory} if kind == "value" else {_DIFF_SRC: x_memory, _DIFF_DST: y_memory}
        self._then(chosen, {_WEIGHTS: inner, **ends})

    def _reorder(self, source: ctypes.c_void_p, target: ctypes.c_void_p) -> ctypes.c_void_p:
        return _chosen("reorder", source, _engine(), target, _engine())


def _folded(
    kind: str, x: Shape, kernel: Shape, y: Shape, strides: Shape, padding: Padding
) -> tuple[Shape, Shape, Shape, Shape, Padding]:
    """The same convolution of the same memory with an axis less, where oneDNN is quicker at that."""
    (clips, frames, *positions, channels), (time, *space) = x, kernel[:3]
    within_frames = time == strides[0] == 1 and not any(padding[0]) and max(space) > 1
    if within_frames:
        many = clips * frames
        return (many, *x[2:]), kernel[1:], (many, *y[2:]), strides[1:], padding[1:]
    over_time = time > 1 and max(*space, *strides[1:]) == 1 and not any(map(any, padding[1:]))
    few = math.prod(positions) < _FEW_POSITIONS and (kind != "kernel_gradient" or channels <= _FEW_CHANNELS)
    if over_time and few:
        flat = math.prod(positions)
        x, y = (clips, frames, flat, channels), (clips, y[1], flat, y[4])
        return x, (time, 1, *kernel[3:]), y, strides[:2], padding[:2]
    return x, kernel, y, strides, padding


class MaxPool(Operation):
    """Max-pooling, of x (N, D, H, W, C) and y (N, D', H', W', C), or its gradient, of x, dy and dx.

    `kind` is "max_pool" or "max_pool_gradient". Of equal maxima the first one gets the gradient.
    """

    def __init__(self, kind: str, x: Shape, window: Shape, y: Shape, strides: Shape, padding: Padding):
        super().__init__()
        before, after = _clips(x), _clips(y)
        steps, dilation, *around = _window(strides, padding)
        shape = (_MAX, before, after, steps, _dims(window), dilation, *around)
        if kind == "max_pool":
            self._memories = x_memory, y_memory = self._memory(before, own=False), self._memory(after, own=False)
            forward = _chosen("pooling_forward", _engine(), _FORWARD_INFERENCE, *shape)
            self._then(forward, {_SRC: x_memory, _DST: y_memory})
            return
        x_memory, dy_memory, dx_memory = (self._memory(layout, own=False) for layout in (before, after, before))
        self._memories = x_memory, dy_memory, dx_memory
        # The positions of the maxima are computed again: keeping them from the forward pass would take another array.
        forward = _chosen("pooling_forward", _engine(), _FORWARD_TRAINING, *shape)
        maxima = self._memory(_layout_of(forward, _WORKSPACE_LAYOUT))
        self._then(forward, {_SRC: x_memory, _DST: self._memory(after), _WORKSPACE: maxima})
        backward = _chosen("pooling_backward", _engine(), *shape, forward)
        self._then(backward, {_DIFF_DST: dy_memory, _WORKSPACE: maxima, _DIFF_SRC: dx_memory})
