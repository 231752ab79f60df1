"""Cuts clips from what a decoder gives: the planes of 4:2:0 video are cropped and resized, and only then turned to RGB.

For small videos that takes half the time of turning each frame to RGB and resizing it. Compiled by Numba, which keeps the
code on disk; in whole numbers and IEEE float32, so that it is the same on each machine.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange
from numba import carray, float32, int32, int64, uint8, uint16, uint64

from wt_jax.compiled import compiled, pointer

# FFmpeg's numbers of colour spaces, and the shares of red and blue in luma: BT.709; none named, which FFmpeg takes as BT.601;
# BT.601 twice; BT.2020.
_SHARES = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
_ROWS = 4  # that are resized along their width at once, in the 64 bits of a word

Box = tuple[int, int, int, int]  # top, left, rows and columns


class Cut(NamedTuple):
    """What was drawn for a clip: its crop in pixels of the source frame, and whether it is mirrored."""

    top: int
    left: int
    rows: int
    columns: int
    flip: bool


class Planes:
    """A decoded picture of 8-bit 4:2:0 video that is shown upright.

    Attributes:
      frame: as the decoder gave it.
      factors: the row of `_FACTORS` that gives its colours.
      shape: (height, width, 3), as of the picture in RGB.
    """

    def __init__(self, frame: av.VideoFrame, factors: int):
        self.frame, self.factors = frame, factors
        self.shape = frame.height, frame.width, 3

    @functools.cached_property
    def memory(self) -> tuple[int, ...]:
        """The addresses of luma, blue and red, and the bytes of a line of luma and of chroma."""
        luma, blue, red = self.frame.planes
        return luma.buffer_ptr, blue.buffer_ptr, red.buffer_ptr, luma.line_size, blue.line_size

    def halved(self, boxes: tuple[Box, Box], times: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes of luma and of chroma, luma halved so many times, chroma once less."""
        luma, blue, red = self.frame.planes
        return _halved(luma, boxes[0], times), _halved(blue, boxes[1], times - 1), _halved(red, boxes[1], times - 1)


def planes_of(frame: av.VideoFrame) -> Planes | None:
    """The frame as planes, or None where they are not 4:2:0 of 8 bits, not upright, or of a colour space not known here."""
    row = _ROW_OF.get((frame.format.name, frame.colorspace, frame.color_range))
    return None if row is None or round(frame.rotation / 90) else Planes(frame, row)


def _factors(space: int, full_range: bool) -> list[float]:
    """How planes become RGB: ITU-R BT.601, BT.709, BT.2020.

    Black in luma, the factor of luma, and those of chroma: of red in red, of blue and of red in green, which are subtracted,
    and of blue in blue.
    """
    red, blue = _SHARES[space]
    green = 1 - red - blue
    luma, chroma = (1, 1) if full_range else (255 / 219, 255 / 224)
    of_red, of_blue = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    return [0 if full_range else 16, luma, of_red, of_blue * blue / green, of_red * red / green, of_blue]


_FACTORS = np.array([_factors(space, full_range) for space in _SHARES for full_range in (False, True)], np.float32)
# What a frame says of its colours -> its row of the factors. Formats named yuvj have the full range whatever else they say.
_ROW_OF = {
    (name, space, levels.value): 2 * place + (name == "yuvj420p" or levels == ColorRange.JPEG)
    for name in ("yuv420p", "yuvj420p")
    for place, space in enumerate(_SHARES)
    for levels in (ColorRange.UNSPECIFIED, ColorRange.MPEG, ColorRange.JPEG)
}


def cut_planes(pictures: Sequence[Planes], places: Sequence[int], cut: Cut, clip: np.ndarray) -> None:
    """Crops, resizes and mirrors pictures as `wt_jax.data.views.cut_frame` says, chroma interpolated linearly as luma is.

    Args:
      pictures: pictures of one size.
      places: where in the clip each goes.
      cut: the crop, within the pictures.
      clip: uint8 [T, size, size, 3], contiguous; written to.

    Raises:
      ValueError: the crop is not within the pictures, or a place not within the clip.
    """
    height, width, _ = pictures[0].shape
    if min(cut[:2]) < 0 or cut.top + cut.rows > height or cut.left + cut.columns > width:
        raise ValueError(f"{cut} is not within a picture of {height} x {width}")
    if not 0 <= min(places) <= max(places) < len(clip):
        raise ValueError(f"places {list(places)} are not within a clip of {len(clip)} frames")
    halvings, before, boxes, tables = _plan(cut, clip.shape[1])
    if halvings:
        small = [picture.halved(before, halvings) for picture in pictures]
        memory = [(*(plane.ctypes.data for plane in planes), planes[0].strides[0], planes[1].strides[0]) for planes in small]
    else:
        memory = [picture.memory for picture in pictures]
    sources = [(*where, picture.factors, place) for where, picture, place in zip(memory, pictures, places, strict=True)]
    _cut(np.array(sources, np.int64), boxes, tables, _FACTORS, clip)


@functools.lru_cache(maxsize=64)
def _plan(cut: Cut, size: int) -> tuple[int, tuple[Box, Box], np.ndarray, np.ndarray]:
    """How a cut is made.

    Returns:
      How often luma is halved, and chroma once less.
      The boxes of luma and of chroma that are needed before that.
      int64 [2, 4]: the same boxes after that, in what `_halved` gives.
      uint64 [2, 4, size], of luma and of chroma: for each row of the target the first of its two rows and the weight of the
      second in 256ths; then the same for columns.
    """
    top, left, rows, columns, flip = cut
    low, high = (top // 2, left // 2), ((top + rows + 1) // 2, (left + columns + 1) // 2)
    chroma = *low, high[0] - low[0], high[1] - low[1]
    halvings = halvings_of(rows, columns, size)
    rows, columns, fewer = rows >> halvings, columns >> halvings, max(halvings - 1, 0)
    tall, wide = chroma[2] >> fewer, chroma[3] >> fewer
    boxes = [(0, 0, rows, columns), (0, 0, tall, wide)] if halvings else [cut[:4], chroma]
    tables = np.empty((2, 4, size), np.uint64)
    _fill(tables[0, :2], 0, rows, rows, False)
    _fill(tables[0, 2:], 0, columns, columns, flip)
    # A cut that begins in an odd row begins in the middle of a sample of chroma.
    sample = 2 ** (fewer + 1)  # pixels
    _fill(tables[1, :2], top % 2 / sample, (rows << halvings) / sample, tall, False)
    _fill(tables[1, 2:], left % 2 / sample, (columns << halvings) / sample, wide, flip)
    return halvings, (cut[:4], chroma), np.array(boxes, np.int64), tables


@compiled("void(u8[:,::1],f8,f8,i8,b1)")
def _fill(table, begin, covered, count, mirrored):
    """Fills in the tables of one direction, for targets that cover so many of `count` samples, beginning in the first."""
    size = table.shape[1]
    for place in range(size):
        at = min(max(begin + (place + 0.5) * (covered / size) - 0.5, 0.0), count - 1.0)
        first = min(int64(at), max(count - 2, 0))
        target = size - 1 - place if mirrored else place
        table[0, target], table[1, target] = first, int64((at - first) * 256 + 0.5)


def _halved(plane: av.video.plane.VideoPlane, box: Box, times: int) -> np.ndarray:
    """A part of a plane, `halved`: uint8, its rows without a gap within."""
    top, left, rows, columns = box
    return halved(np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[top : top + rows, left : left + columns], times)


def halvings_of(rows: int, columns: int, size: int) -> int:
    """How often a crop is halved before it is interpolated: while both its sides are at least twice the target's."""
    return max((min(rows, columns) // size).bit_length() - 1, 0)


def halved(part: np.ndarray, times: int) -> np.ndarray:
    """A picture or plane, uint8 [H, W, ...], each value the mean of two by two, so many times; an odd last row is left out."""
    for _ in range(times):
        rows, columns = part.shape[0] // 2, part.shape[1] // 2
        part = cv2.resize(part[: 2 * rows, : 2 * columns], (columns, rows), interpolation=cv2.INTER_AREA)
    return part


@compiled()
def _across(start_of_plane, line, box, tables, words, found, out):
    """Interpolates rows of a plane linearly to the target's width, in 256ths of a level; out is uint16 [rows, size].

    Four rows at once, 16 bits of a word each: levels below 256 times 256ths that sum to 256 do not pass them.
    """
    top, left, rows, width = box
    across, by = tables[2], tables[3]
    size = len(across)
    for start in range(0, rows, _ROWS):
        first = start_of_plane + (top + start) * line + left
        # Where less than four are left, the last stands for the others.
        last = rows - 1 - start
        a, b = _bytes(first, width), _bytes(first + min(1, last) * line, width)
        c, d = _bytes(first + min(2, last) * line, width), _bytes(first + min(3, last) * line, width)
        for x in range(width):
            words[x] = uint64(a[x]) | uint64(b[x]) << uint64(16) | uint64(c[x]) << uint64(32) | uint64(d[x]) << uint64(48)
        words[width] = words[width - 1]
        for j in range(size):
            left_word, right_word = words[across[j]], words[across[j] + uint64(1)]
            found[j] = (left_word << uint64(8)) + (right_word - left_word) * by[j]
        for row in range(min(_ROWS, rows - start)):
            to, shift = out[start + row], uint64(16 * row)
            for j in range(size):
                to[j] = uint16(found[j] >> shift)


@compiled()
def _bytes(address, count):
    return carray(pointer(address), count, np.uint8)


@compiled()
def _level(value):
    """The nearest of the 256 levels; value is 0.5 more than it means."""
    return uint8(min(max(int32(value), int32(0)), int32(255)))


@compiled("void(i8[:,::1],i8[:,::1],u8[:,:,::1],f4[:,::1],u1[:,:,:,::1])")
def _cut(sources, boxes, tables, factors, clip):
    """Cuts pictures by a plan. A source is the addresses of three planes, the bytes of a line of luma and of chroma, the row
    of the factors, and the place in the clip."""
    size, tall, low = clip.shape[1], boxes[0, 2], boxes[1, 2]
    words, found = np.empty(max(boxes[0, 3], boxes[1, 3]) + 1, np.uint64), np.empty(size, np.uint64)
    lumas = np.empty((tall, size), np.uint16)
    of_blue, of_red = np.empty((low, size), np.uint16), np.empty((low, size), np.uint16)
    colours = np.empty((3, size), np.uint8)
    reds, greens, blues = colours[0], colours[1], colours[2]
    share = float32(1 / 65536)  # of a level: 256ths of 256ths
    for number in range(len(sources)):
        luma, blue, red, luma_line, chroma_line, kind, place = sources[number]
        _across(luma, luma_line, boxes[0], tables[0], words, found, lumas)
        _across(blue, chroma_line, boxes[1], tables[1], words, found, of_blue)
        _across(red, chroma_line, boxes[1], tables[1], words, found, of_red)
        black, gain, red_in_red, blue_in_green, red_in_green, blue_in_blue = factors[kind]
        for row in range(size):
            luma_at, chroma_at = int64(tables[0, 0, row]), int64(tables[1, 0, row])
            luma_below, chroma_below = min(luma_at + 1, tall - 1), min(chroma_at + 1, low - 1)
            y0, y1 = lumas[luma_at], lumas[luma_below]
            b0, b1 = of_blue[chroma_at], of_blue[chroma_below]
            r0, r1 = of_red[chroma_at], of_red[chroma_below]
            luma_by, chroma_by = float32(tables[0, 1, row]) * share, float32(tables[1, 1, row]) * share
            luma_rest, chroma_rest = float32(1 / 256) - luma_by, float32(1 / 256) - chroma_by
            for j in range(size):
                y = float32(y0[j]) * luma_rest + float32(y1[j]) * luma_by
                b = float32(b0[j]) * chroma_rest + float32(b1[j]) * chroma_by - float32(128)
                r = float32(r0[j]) * chroma_rest + float32(r1[j]) * chroma_by - float32(128)
                y = (y - black) * gain + float32(0.5)
                reds[j] = _level(y + red_in_red * r)
                greens[j] = _level(y - blue_in_green * b - red_in_green * r)
                blues[j] = _level(y + blue_in_blue * b)
            to = clip[place, row].reshape(3 * size)
            for j in range(size):
                to[3 * j], to[3 * j + 1], to[3 * j + 2] = reds[j], greens[j], blues[j]
