"""Cuts clips from what a decoder gives: the planes of 4:2:0 video are cropped and resized, and only then turned to RGB.

For small videos that takes a quarter of the time of turning each frame to RGB and resizing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import av
import av.video.plane
import cv2
import numpy as np
from av.video.reformatter import ColorRange

from wt_jax.kernels import yuv420

# FFmpeg's numbers of color spaces, and the shares of red and blue in luma: BT.709; none named, which FFmpeg takes as BT.601;
# BT.601 twice; BT.2020.
_SHARES = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}

Box = tuple[int, int, int, int]  # top, left, rows and columns


class Crop(NamedTuple):
    """What was drawn for a clip: its crop in pixels of the source frame, and whether it is mirrored."""

    top: int
    left: int
    rows: int
    columns: int
    flip: bool


class Planes(NamedTuple):
    """A decoded picture of 8-bit 4:2:0 video that is shown upright.

    Attributes:
      planes: luma, blue and red, as the decoder gave them, or uint8 arrays [rows, columns].
      source: their addresses, the bytes of a line of luma and of chroma, and the row of `_FACTORS` that gives the colors.
      shape: (height, width, 3), as of the picture in RGB.
    """

    planes: tuple[av.video.plane.VideoPlane | np.ndarray, ...]
    source: tuple[int, ...]
    shape: tuple[int, int, int]


def planes_of(frame: av.VideoFrame) -> Planes | None:
    """The frame as planes, as it is stored; None where they are not 4:2:0 of 8 bits, or of a color space not known here."""
    row = _ROW_OF.get((frame.format.name, frame.colorspace, frame.color_range))
    if row is None:
        return None
    luma, blue, red = planes = frame.planes
    source = luma.buffer_ptr, blue.buffer_ptr, red.buffer_ptr, luma.line_size, blue.line_size, row
    return Planes(planes, source, (luma.height, luma.width, 3))


def compact(picture: Planes) -> Planes:
    """A copy without the decoder's padding, a quarter of the memory of a small picture."""
    height, width, _ = picture.shape
    sizes = (height, width), *[(-(-height // 2), -(-width // 2))] * 2
    planes = tuple(lines[:rows, :columns].copy() for lines, (rows, columns) in zip(lines_of(picture), sizes, strict=True))
    source = *(plane.ctypes.data for plane in planes), planes[0].strides[0], planes[1].strides[0], picture.source[-1]
    return Planes(planes, source, picture.shape)


def lines_of(picture: Planes) -> list[np.ndarray]:
    """Luma, blue and red, uint8 [rows, bytes of a line], with what pads their lines; no copies."""
    _, _, _, luma, chroma, _ = picture.source
    buffers = zip(picture.planes, (luma, chroma, chroma), strict=True)
    return [np.frombuffer(cast(Any, plane), np.uint8).reshape(-1, line) for plane, line in buffers]


def _factors(space: int, full_range: bool) -> list[float]:
    """How planes become RGB: ITU-R BT.601, BT.709, BT.2020; in 8192ths, by which 256ths of a level become 32nds.

    The factor of luma; what is subtracted from that, in 32nds of a level, less the half for rounding; and those of chroma: of
    red in red, of blue and of red in green, which are subtracted, and of blue in blue.
    """
    red, blue = _SHARES[space]
    green = 1 - red - blue
    luma, chroma = (1, 1) if full_range else (255 / 219, 255 / 224)
    of_red, of_blue = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    factors = [of_red, of_blue * blue / green, of_red * red / green, of_blue]
    black = 0 if full_range else 16
    return [8192 * luma, 32 * (luma * black - 0.5), *(8192 * factor for factor in factors)]


_FACTORS = np.rint([_factors(space, full_range) for space in _SHARES for full_range in (False, True)]).astype(np.int16)
# What a frame says of its colors -> its row of the factors. Formats named yuvj have the full range whatever else they say.
_ROW_OF = {
    (name, space, levels.value): 2 * place + (name == "yuvj420p" or levels == ColorRange.JPEG)
    for name in ("yuv420p", "yuvj420p")
    for place, space in enumerate(_SHARES)
    for levels in (ColorRange.UNSPECIFIED, ColorRange.MPEG, ColorRange.JPEG)
}


def crop_planes(pictures: Sequence[Planes], places: Sequence[int], cut: Crop, clip: np.ndarray) -> None:
    """Crops, resizes and mirrors pictures as `wt_jax.data.views.crop_frame` says, chroma interpolated linearly as luma is.

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
    halvings = halvings_of(cut.rows, cut.columns, clip.shape[1])
    if halvings:
        boxes = cut[:4], yuv420.chroma_box(*cut[:4])
        small = [_halved(picture, boxes, halvings) for picture in pictures]  # alive until they have been read
        sources = [
            (*(plane.ctypes.data for plane in planes), planes[0].strides[0], planes[1].strides[0], picture.source[-1])
            for planes, picture in zip(small, pictures, strict=True)
        ]
    else:
        sources = [picture.source for picture in pictures]
    yuv420.cut(np.array(sources, np.int64), np.array(places, np.int64), cut[:4], cut.flip, halvings, _FACTORS, clip)


def _halved(picture: Planes, boxes: tuple[Box, Box], times: int) -> list[np.ndarray]:
    """Parts of luma, blue and red, `halved` so many times, chroma once less: uint8, without gaps."""
    parts = []
    for lines, box, fewer in zip(lines_of(picture), (boxes[0], boxes[1], boxes[1]), (0, 1, 1), strict=True):
        top, left, rows, columns = box
        part = halved(lines[top : top + rows, left : left + columns], times - fewer)
        parts.append(np.ascontiguousarray(part))  # also where nothing was halved: the kernel reads as far as a line goes
    return parts


def halvings_of(rows: int, columns: int, size: int) -> int:
    """How often a crop is halved before it is interpolated: while both its sides are at least twice the target's."""
    return max((min(rows, columns) // size).bit_length() - 1, 0)


def halved(part: np.ndarray, times: int) -> np.ndarray:
    """A picture or plane, uint8 [H, W, ...], each value the mean of two by two, so many times; an odd last row is left out."""
    for _ in range(times):
        rows, columns = part.shape[0] // 2, part.shape[1] // 2
        part = cv2.resize(part[: 2 * rows, : 2 * columns], (columns, rows), interpolation=cv2.INTER_AREA)
    return part
