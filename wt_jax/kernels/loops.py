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


def color_blur(clips: Shape) -> Kernel:
    """From clips (B, T, S, S, 3) uint8, sigma (B,), of_pixel and of_mean (B, 3, 3) to x, see `operations.color_blur`."""
    return Kernel(_color_blur, *clips[:3])


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


def _color_blur(address):
    arguments = words(address)
    count, frames, size = arguments[5], arguments[6], arguments[7]
    wide = 3 * size  # a row of a frame
    shape = (count, frames, size, wide)
    clips, x = carray(pointer(arguments[0]), shape, np.uint8), _floats(arguments[4], shape)
    sigma = _floats(arguments[1], count)
    of_pixel, of_mean = _floats(arguments[2], (count, 3, 3)), _floats(arguments[3], (count, 3, 3))
    # What lies outside a frame (the last of the rows, also as -1), or of a row, is 0.
    rows, lines = np.zeros((size + 1, wide), np.float32), np.zeros((2, 3 * wide), np.float32)
    weights, corrections = np.zeros(size + 1, np.float32), np.empty(wide, np.float32)
    color, offset = np.empty((5, wide), np.float32), np.empty(wide, np.float32)
    former, reach = -1, 0
    # Each thread has neighboring frames, and so prepares few clips.
    thread, threads = _thread(), _threads()
    for task in range(count * frames * thread // threads, count * frames * (thread + 1) // threads):
        clip, frame = task // frames, task % frames
        if clip != former:
            former, reach = clip, _gaussian(sigma[clip], weights, corrections)
            _colors(of_pixel[clip], of_mean[clip], clips[clip], color, offset)
        _change(clips[clip, frame], reach, weights, corrections, color, offset, rows, lines, x[clip, frame])


_NOTHING = 1e-8  # weights below are negligible in a sum of 1


@_compiled
def _gaussian(sigma, weights, corrections):
    """Fills in the weights of neighbors by their distance, of what lies farther 0, and what the sum at each value of a row is
    to be multiplied by, as it lacks what lies outside. Returns how far there are weights.
    """
    size = len(weights) - 1
    weights[:] = np.float32(0)
    total, reach = 0.0, size - 1
    for away in range(size):
        weights[away] = math.exp(-min(away * away / (2.0 * sigma * sigma), 40.0))
        total += weights[away] if away == 0 else 2 * weights[away]
    while reach > 0 and weights[reach] <= _NOTHING * total:
        weights[reach] = np.float32(0)
        reach -= 1
    for pixel in range(size):
        inside = 0.0
        for away in range(-min(reach, pixel), min(reach, size - 1 - pixel) + 1):
            inside += weights[abs(away)]
        corrections[3 * pixel] = corrections[3 * pixel + 1] = corrections[3 * pixel + 2] = 1 / inside
    return reach


@_compiled
def _colors(of_pixel, of_mean, clip, color, offset):
    """What each value of a row and those up to two values away are multiplied by to give a color; and the offset."""
    size = clip.shape[1]
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
            for away in range(-2, 3):
                color[away + 2, k] = of_pixel[c, c + away] if 0 <= c + away < 3 else np.float32(0)


@_compiled
def _change(frame, reach, weights, corrections, color, offset, rows, lines, x):
    """Blur down the columns, blur along the row, then color, a row at a time; neighbors by two distances at once."""
    size, wide = x.shape
    for row in range(size):
        values, out = frame[row], rows[row]
        for k in range(wide):
            out[k] = np.float32(values[k]) * np.float32(1 / 255)
    padded = lines[0]
    line, blurred = padded[wide : 2 * wide], lines[1, wide : 2 * wide]
    c_0, c_1, c_2, c_3, c_4 = color[0], color[1], color[2], color[3], color[4]
    for row in range(size):
        correction, own = corrections[3 * row], rows[row]
        weight = weights[0] * correction
        for k in range(wide):
            line[k] = weight * own[k]
        for away in range(1, reach + 1, 2):
            near, far = weights[away] * correction, weights[away + 1] * correction
            a, b = rows[max(row - away, -1)], rows[min(row + away, size)]
            c, d = rows[max(row - away - 1, -1)], rows[min(row + away + 1, size)]
            for k in range(wide):
                line[k] += near * (a[k] + b[k]) + far * (c[k] + d[k])
        values = padded
        if reach > 0:
            values, weight = lines[1], weights[0]
            for k in range(wide):
                blurred[k] = weight * line[k]
            for away in range(1, reach + 1, 2):
                near, far, start = weights[away], weights[away + 1], wide - 3 * away
                a, b = padded[start : start + wide], padded[start + 6 * away : start + 6 * away + wide]
                c, d = padded[start - 3 : start - 3 + wide], padded[start + 6 * away + 3 : start + 6 * away + 3 + wide]
                for k in range(wide):
                    blurred[k] += near * (a[k] + b[k]) + far * (c[k] + d[k])
        out, values = x[row], values[wide - 2 : 2 * wide + 2]
        for k in range(wide):
            before = c_0[k] * values[k] + c_1[k] * values[k + 1]
            value = before + c_2[k] * values[k + 2] + (c_3[k] * values[k + 3] + c_4[k] * values[k + 4])
            out[k] = min(max(offset[k] + corrections[k] * value, np.float32(0)), np.float32(1))
