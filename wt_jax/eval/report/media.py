"""Clips as pictures inside an HTML file: each is one film strip, its frames side by side, which CSS plays.

Why strips of WebP and no video: a picture needs no permission to start, plays in step with its neighbors, stops where the
reader asks for less motion, can be printed, and every browser since 2020 shows it. Videos in data URIs do not play
everywhere, and an animated picture cannot be stopped. The price is that no frame is predicted from another, so strips are
small: at most FRAMES frames of SIDE pixels, a multiple of 16, so that no block of the codec has part in two frames. All
choices here are ours.
"""

import base64
from dataclasses import dataclass

import cv2
import numpy as np

FRAMES, SIDE = 10, 112
_QUALITY = 60


@dataclass(frozen=True)
class Strip:
    """A clip to play: the data URI of the strip and its number of frames."""

    uri: str
    frames: int


def strip(clip: np.ndarray) -> Strip:
    """A film strip of a (T, S, S, 3) uint8 clip: every n-th frame, so that at most FRAMES remain, brought to SIDE pixels."""
    clip = clip[:: -(-len(clip) // FRAMES)]
    # Small frames are enlarged too: a browser that does it mixes neighbors on the strip.
    kind = cv2.INTER_AREA if clip.shape[1] > SIDE else cv2.INTER_CUBIC
    tiles = [cv2.resize(frame, (SIDE, SIDE), interpolation=kind) for frame in clip]
    return Strip(data_uri(np.concatenate(tiles, axis=1)), len(tiles))


def sheet(pictures: np.ndarray, side: int, columns: int) -> str:
    """One picture of all (N, S, S, 3) uint8 pictures as squares of `side` pixels, row by row; its data URI."""
    rows = -(-len(pictures) // columns)
    whole = np.zeros((rows * side, columns * side, 3), np.uint8)
    for number, picture in enumerate(pictures):
        top, left = side * (number // columns), side * (number % columns)
        whole[top : top + side, left : left + side] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return data_uri(whole)


def data_uri(picture: np.ndarray, *, exact: bool = False) -> str:
    """A data URI of a (H, W, 3) uint8 RGB picture as WebP, or `exact`, also of (H, W, 4), as PNG."""
    kind, options = (".png", []) if exact else (".webp", [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    order = cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR
    _, coded = cv2.imencode(kind, cv2.cvtColor(np.ascontiguousarray(picture), order), options)
    return f"data:image/{kind[1:]};base64,{base64.b64encode(coded.tobytes()).decode()}"
