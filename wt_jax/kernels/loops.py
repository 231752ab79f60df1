"""Kernels for a CPU, compiled by Numba, for what is slow in both oneDNN and XLA.

A kernel is called in every thread of a team with its words: the addresses of its arrays, then numbers. The threads divide
the clips among them.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numba import types
from numba.np.numpy_support import carray

from wt_jax.kernels.compiled import callback, compiled, pointer
from wt_jax.kernels.native import words
from wt_jax.kernels.onednn import KERNEL, WORD, Instruction, Shape

_thread = types.ExternalFunction("omp_get_thread_num", types.int32())
_threads = types.ExternalFunction("omp_get_num_threads", types.int32())
# Sums in any order, for vectors' sake; infinities and NaN stay what they are.
_compiled = compiled(fastmath={"reassoc", "contract", "arcp", "nsz"})
_ROWS = 64  # sums of so many rows are in float32, those of all in float64


class Kernel:
    """A kernel with its numbers; has the interface of a `wt_jax.kernels.onednn.Operation`."""

    def __init__(self, function: Callable, *numbers: float):
        self._function, self._numbers = function, numbers

    def instructions(self, indices: Sequence[int]) -> list[Instruction]:
        """Instructions for the arrays of these indices, in the order of the kernel's documentation."""
        arguments = np.zeros(len(indices) + len(self._numbers), np.int64)
        # A float is kept as its bits in double precision.
        bits = [np.float64(n).view(np.int64) if isinstance(n, float) else n for n in self._numbers]
        arguments[len(indices) :] = bits
        _listed.append(arguments)
        start = arguments.ctypes.data
        addresses = [(WORD, start + 8 * word, index, 0) for word, index in enumerate(indices)]
        return [*addresses, (KERNEL, _address(self._function), start, 0)]


_listed: list[np.ndarray] = []  # what instructions point to


@cache
def _address(function: Callable) -> int:
    callable_from_c = callback(types.void(types.int64), function)
    _functions.append(callable_from_c)
    address = callable_from_c.address
    assert address is not None  # it has been compiled
    return address


_functions: list = []


def group_norm(x: Shape, groups: int, epsilon: float, relu: bool) -> Kernel:
    """From x (B, M, C), scale and bias (C,) to y, and mean and inverse standard deviation (B, 2, groups)."""
    return Kernel(_group_norm, *x, groups, int(relu), epsilon)


def group_norm_gradients(x: Shape, groups: int, relu: bool) -> Kernel:
    """From x, scale, bias, the moments of `group_norm` and dy to dx, and (B, 2, C) each clip's dscale and dbias."""
    return Kernel(_group_norm_gradients, *x, groups, int(relu))


@compiled()
def _floats(address, shape):
    return carray(pointer(address), shape, np.float32)


def _group_norm(address):
    arguments = words(address)
    count, rows, channels, groups, relu = arguments[5], arguments[6], arguments[7], arguments[8], arguments[9] != 0
    shape = (count, rows, channels)
    x, y, moments = _floats(arguments[0], shape), _floats(arguments[3], shape), _floats(arguments[4], (count, 2, groups))
    scale, bias = _floats(arguments[1], channels), _floats(arguments[2], channels)
    epsilon = carray(pointer(address + 80), 1, np.float64)[0]
    for clip in range(_thread(), count, _threads()):
        _normalize(x[clip], scale, bias, y[clip], moments[clip], groups, epsilon, relu)


@_compiled
def _normalize(x, scale, bias, y, moments, groups, epsilon, relu):
    rows, channels = x.shape
    width = channels // groups
    factor, shift = np.empty(channels, np.float32), np.empty(channels, np.float32)
    sums, squares = np.zeros(channels, np.float64), np.zeros(channels, np.float64)
    for start in range(0, rows, _ROWS):
        end = min(rows, start + _ROWS)
        for c in range(channels):
            factor[c] = shift[c] = np.float32(0)
        row = start
        while row + 4 <= end:
            for c in range(channels):
                a, b, d, e = x[row, c], x[row + 1, c], x[row + 2, c], x[row + 3, c]
                factor[c] += (a + b) + (d + e)
                shift[c] += (a * a + b * b) + (d * d + e * e)
            row += 4
        while row < end:
            for c in range(channels):
                factor[c] += x[row, c]
                shift[c] += x[row, c] * x[row, c]
            row += 1
        for c in range(channels):
            sums[c] += factor[c]
            squares[c] += shift[c]
    for group in range(groups):
        total = square = 0.0
        for c in range(group * width, (group + 1) * width):
            total += sums[c]
            square += squares[c]
        mean = total / (rows * width)
        variance = square / (rows * width) - mean * mean
        # Squares beyond float32 are a network that has diverged: by infinity all would become its bias, as if nothing were.
        inverse = 1.0 / math.sqrt((0.0 if variance < 0 else variance) + epsilon) if variance < np.inf else np.nan
        moments[0, group], moments[1, group] = mean, inverse
        for c in range(group * width, (group + 1) * width):
            factor[c] = inverse * scale[c]
            shift[c] = bias[c] - mean * inverse * scale[c]
    if relu:
        for row in range(rows):
            for c in range(channels):
                value = x[row, c] * factor[c] + shift[c]
                y[row, c] = np.float32(0) if value < 0 else value
    else:
        for row in range(rows):
            for c in range(channels):
                y[row, c] = x[row, c] * factor[c] + shift[c]


def _group_norm_gradients(address):
    arguments = words(address)
    count, rows, channels, groups, relu = arguments[7], arguments[8], arguments[9], arguments[10], arguments[11] != 0
    shape = (count, rows, channels)
    x, dy, dx = _floats(arguments[0], shape), _floats(arguments[4], shape), _floats(arguments[5], shape)
    moments, sums = _floats(arguments[3], (count, 2, groups)), _floats(arguments[6], (count, 2, channels))
    scale, bias = _floats(arguments[1], channels), _floats(arguments[2], channels)
    for clip in range(_thread(), count, _threads()):
        _gradients(x[clip], scale, bias, moments[clip], dy[clip], dx[clip], sums[clip], relu)


@_compiled
def _gradients(x, scale, bias, moments, dy, dx, sums, relu):
    rows, channels = x.shape
    groups = moments.shape[1]
    width = channels // groups
    factor, shift = np.empty(channels, np.float32), np.empty(channels, np.float32)
    plain, by_x = np.empty(channels, np.float32), np.empty(channels, np.float32)
    total_plain, total_by_x = np.zeros(channels, np.float64), np.zeros(channels, np.float64)
    for c in range(channels):
        mean, inverse = moments[0, c // width], moments[1, c // width]
        factor[c] = inverse * scale[c] if relu else np.float32(0)
        shift[c] = bias[c] - mean * inverse * scale[c] if relu else np.float32(1)
    for start in range(0, rows, _ROWS):
        for c in range(channels):
            plain[c] = by_x[c] = np.float32(0)
        for row in range(start, min(rows, start + _ROWS)):
            for c in range(channels):
                passed = dy[row, c] if x[row, c] * factor[c] + shift[c] > 0 else np.float32(0)
                plain[c] += passed
                by_x[c] += passed * x[row, c]
        for c in range(channels):
            total_plain[c] += plain[c]
            total_by_x[c] += by_x[c]
    of_dy, of_x, rest = plain, by_x, np.empty(channels, np.float32)
    for group in range(groups):
        mean, inverse = np.float64(moments[0, group]), np.float64(moments[1, group])
        first = second = 0.0
        for c in range(group * width, (group + 1) * width):
            by_scale = inverse * (total_by_x[c] - mean * total_plain[c])
            sums[0, c], sums[1, c] = by_scale, total_plain[c]
            first += scale[c] * total_plain[c]
            second += scale[c] * by_scale
        first /= rows * width
        second /= rows * width
        for c in range(group * width, (group + 1) * width):
            of_dy[c] = inverse * scale[c]
            of_x[c] = -inverse * inverse * second
            rest[c] = inverse * (mean * inverse * second - first)
    for row in range(rows):
        for c in range(channels):
            passed = dy[row, c] if x[row, c] * factor[c] + shift[c] > 0 else np.float32(0)
            dx[row, c] = of_dy[c] * passed + of_x[c] * x[row, c] + rest[c]
