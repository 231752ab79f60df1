"""Kernels for a CPU, compiled by Numba, of what neither oneDNN nor XLA does quickly.

A kernel is called in every thread of a team with its words: the addresses of its arrays, then numbers. Clips are shared out
among the threads.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numba import carray, cfunc, njit, types

from wt_jax.models.native import pointer, words
from wt_jax.models.onednn import KERNEL, WORD, Instruction, Shape

_thread = types.ExternalFunction("omp_get_thread_num", types.int32())
_threads = types.ExternalFunction("omp_get_num_threads", types.int32())
# Sums in any order, for vectors' sake; infinities and NaN stay what they are.
_compiled = njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy")
_ROWS = 64  # sums of so many rows are in float32, those of all in float64


class Kernel:
    """A kernel with its numbers, in the place of a `wt_jax.models.onednn.Operation`."""

    def __init__(self, function: Callable, *numbers: float):
        self._function, self._numbers = function, numbers

    def instructions(self, places: Sequence[int]) -> list[Instruction]:
        """What to do with the arrays of these numbers, which are in the order that the kernel says."""
        given = np.zeros(len(places) + len(self._numbers), np.int64)
        # A float is kept as its bits in double precision.
        bits = [np.float64(n).view(np.int64) if isinstance(n, float) else n for n in self._numbers]
        given[len(places) :] = bits
        _listed.append(given)
        start = given.ctypes.data
        addresses = [(WORD, start + 8 * index, place, 0) for index, place in enumerate(places)]
        return [*addresses, (KERNEL, _address(self._function), start, 0)]


_listed: list[np.ndarray] = []  # what instructions point to


@cache
def _address(function: Callable) -> int:
    compiled = cfunc(types.void(types.int64), cache=True)(function)
    _functions.append(compiled)
    return compiled.address


_functions: list = []


def group_norm(x: Shape, groups: int, epsilon: float, relu: bool) -> Kernel:
    """Of x (B, M, C), scale and bias (C,) to y, and mean and inverse standard deviation (B, 2, groups)."""
    return Kernel(_group_norm, *x, groups, int(relu), epsilon)


def group_norm_gradients(x: Shape, groups: int, relu: bool) -> Kernel:
    """Of x, scale, bias, what `group_norm` gave besides y, and dy to dx, and (B, 2, C) each clip's dscale and dbias."""
    return Kernel(_group_norm_gradients, *x, groups, int(relu))


@njit(cache=True, nogil=True)
def _floats(address, shape):
    return carray(pointer(address), shape, np.float32)


def _group_norm(address):
    given = words(address)
    count, rows, channels, groups, relu = given[5], given[6], given[7], given[8], given[9] != 0
    shape = (count, rows, channels)
    x, y, moments = _floats(given[0], shape), _floats(given[3], shape), _floats(given[4], (count, 2, groups))
    scale, bias = _floats(given[1], channels), _floats(given[2], channels)
    epsilon = carray(pointer(address + 80), 1, np.float64)[0]
    for clip in range(_thread(), count, _threads()):
        _normalise(x[clip], scale, bias, y[clip], moments[clip], groups, epsilon, relu)


@_compiled
def _normalise(x, scale, bias, y, moments, groups, epsilon, relu):
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
        inverse = 1.0 / math.sqrt((0.0 if variance < 0 else variance) + epsilon)
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
    given = words(address)
    count, rows, channels, groups, relu = given[7], given[8], given[9], given[10], given[11] != 0
    shape = (count, rows, channels)
    x, dy, dx = _floats(given[0], shape), _floats(given[4], shape), _floats(given[5], shape)
    moments, sums = _floats(given[3], (count, 2, groups)), _floats(given[6], (count, 2, channels))
    scale, bias = _floats(given[1], channels), _floats(given[2], channels)
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
