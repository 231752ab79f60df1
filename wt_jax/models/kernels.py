"""Kernels for a CPU, compiled by Numba, of what neither oneDNN nor XLA does quickly.

A kernel is called in every thread of a team with its words: the addresses of its arrays, then numbers. Clips are shared out
among the threads.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numba import carray, types

from wt_jax.compiled import callback, compiled, pointer
from wt_jax.models.native import words
from wt_jax.models.onednn import KERNEL, WORD, Instruction, Shape

_thread = types.ExternalFunction("omp_get_thread_num", types.int32())
_threads = types.ExternalFunction("omp_get_num_threads", types.int32())
# Sums in any order, for vectors' sake; infinities and NaN stay what they are.
_compiled = compiled(fastmath={"reassoc", "contract", "arcp", "nsz"})
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
    callable_from_c = callback(types.void(types.int64), function)
    _functions.append(callable_from_c)
    return callable_from_c.address


_functions: list = []


def group_norm(x: Shape, groups: int, epsilon: float, relu: bool) -> Kernel:
    """Of x (B, M, C), scale and bias (C,) to y, and mean and inverse standard deviation (B, 2, groups)."""
    return Kernel(_group_norm, *x, groups, int(relu), epsilon)


def group_norm_gradients(x: Shape, groups: int, relu: bool) -> Kernel:
    """Of x, scale, bias, what `group_norm` gave besides y, and dy to dx, and (B, 2, C) each clip's dscale and dbias."""
    return Kernel(_group_norm_gradients, *x, groups, int(relu))


def pixels(clips: Shape) -> Kernel:
    """Of clips (B, T, S, S, 3) uint8, blur (B, S, S), of_pixel and of_mean (B, 3, 3) to x, as `onednn_ops.pixels` has them."""
    return Kernel(_pixels, *clips[:3])


@compiled()
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


def _pixels(address):
    given = words(address)
    count, frames, size = given[5], given[6], given[7]
    wide = 3 * size  # a row of a frame
    shape = (count, frames, size, wide)
    clips, x = carray(pointer(given[0]), shape, np.uint8), _floats(given[4], shape)
    blur = _floats(given[1], (count, size, size))
    of_pixel, of_mean = _floats(given[2], (count, 3, 3)), _floats(given[3], (count, 3, 3))
    rows, lines = np.empty((size, wide), np.float32), np.zeros((2, 3 * wide + 9), np.float32)
    along, colour, offset = (
        np.empty((2 * size + 2, wide), np.float32),
        np.empty((5, wide), np.float32),
        np.empty(wide, np.float32),
    )
    former, reach = -1, 0
    # Each thread has neighbouring frames, and so prepares few clips.
    thread, threads = _thread(), _threads()
    for task in range(count * frames * thread // threads, count * frames * (thread + 1) // threads):
        clip, frame = task // frames, task % frames
        if clip != former:
            former, reach = clip, _reach(blur[clip])
            _weights(blur[clip], reach, of_pixel[clip], of_mean[clip], clips[clip], along, colour, offset)
        _change(clips[clip, frame], blur[clip], reach, along, colour, offset, rows, lines, x[clip, frame])


_NOTHING = 1e-8  # weights below are nothing beside a sum of 1


@_compiled
def _reach(blur):
    """How far from a pixel there are weights."""
    reach = 0
    for row in range(blur.shape[0]):
        for column in range(blur.shape[0]):
            if blur[row, column] > _NOTHING:
                reach = max(reach, abs(row - column))
    return reach


@_compiled
def _weights(blur, reach, of_pixel, of_mean, clip, along, colour, offset):
    """What the values of a row are multiplied by: those so many pixels away, and those so many values away; and the offset."""
    size = blur.shape[0]
    sums = np.zeros(3 * size, np.int32)
    for frame in range(clip.shape[0]):
        for row in range(size):
            values = clip[frame, row]
            for k in range(3 * size):
                sums[k] += values[k]
    mean = np.zeros(3, np.float64)
    for k in range(3 * size):
        mean[k % 3] += sums[k] / (255.0 * clip.shape[0] * size * size)
    for pixel in range(size):
        for c in range(3):
            k = 3 * pixel + c
            offset[k] = of_mean[c, 0] * mean[0] + of_mean[c, 1] * mean[1] + of_mean[c, 2] * mean[2]
            for away in range(-reach, reach + 4):  # three more: they are taken by fours
                there = pixel + away
                inside = away <= reach and 0 <= there < size
                along[away + reach, k] = blur[pixel, there] if inside else np.float32(0)
            for away in range(-2, 3):
                colour[away + 2, k] = of_pixel[c, c + away] if 0 <= c + away < 3 else np.float32(0)


@_compiled
def _change(frame, blur, reach, along, colour, offset, rows, lines, x):
    """Blur down the columns, blur along the row, then colour: a row at a time, between margins that stay 0."""
    size, wide = rows.shape
    for row in range(size):
        values, out = frame[row], rows[row]
        for k in range(wide):
            out[k] = np.float32(values[k]) * np.float32(1 / 255)
    for row in range(size):
        line = lines[0, wide : 2 * wide]
        line[:] = np.float32(0)
        last = min(size - 1, row + reach)
        for other in range(max(0, row - reach), last + 1, 4):
            a, b, c, d = other, min(other + 1, last), min(other + 2, last), min(other + 3, last)
            of_a, of_b = blur[row, a], blur[row, b] if b == other + 1 else np.float32(0)
            of_c = blur[row, c] if c == other + 2 else np.float32(0)
            of_d = blur[row, d] if d == other + 3 else np.float32(0)
            row_a, row_b, row_c, row_d = rows[a], rows[b], rows[c], rows[d]
            for k in range(wide):
                line[k] += (of_a * row_a[k] + of_b * row_b[k]) + (of_c * row_c[k] + of_d * row_d[k])
        blurred = lines[0]
        if reach > 0:
            blurred = lines[1]
            line = blurred[wide : 2 * wide]
            line[:] = np.float32(0)
            for away in range(0, 2 * reach + 1, 4):
                start = wide + 3 * (away - reach)
                of_0, of_1, of_2, of_3 = along[away], along[away + 1], along[away + 2], along[away + 3]
                values = lines[0, start : start + wide + 9]
                for k in range(wide):
                    near = of_0[k] * values[k] + of_1[k] * values[k + 3]
                    line[k] += near + (of_2[k] * values[k + 6] + of_3[k] * values[k + 9])
        out, values = x[row], blurred[wide - 2 : 2 * wide + 2]
        c_0, c_1, c_2, c_3, c_4 = colour[0], colour[1], colour[2], colour[3], colour[4]
        for k in range(wide):
            before = c_0[k] * values[k] + c_1[k] * values[k + 1]
            value = offset[k] + before + c_2[k] * values[k + 2] + (c_3[k] * values[k + 3] + c_4[k] * values[k + 4])
            out[k] = min(max(value, np.float32(0)), np.float32(1))
