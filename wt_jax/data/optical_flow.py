"""Motion as pictures: the optical flow of a clip, or the edges of its magnitude, in three uint8 channels like RGB.

The flow is OpenCV's DIS (Kroeger et al. 2016, arXiv 1603.03590), between neighboring frames of the finished geometry, so
that a crop, a resize or a mirror image is in it. It runs in the data workers. MoDist's own recipe is not public; that these
are the choices, and the encoding, is our inference.

Encoding, with r = `REACH` * width, the largest motion per sample that is told apart:
    "flow"        (u, v, m): 128 + 127 u / r, 128 + 127 v / r and 255 m / r, u to the right, v down, m their length; clipped
    "flow_edges"  255 e / r, three times: e is the length of the Sobel gradient of m (in pixels per pixel, of 3 x 3 windows)
A still clip is (128, 128, 0), or black.
"""

import itertools
from typing import Any

import cv2
import numpy as np

REACH = 1 / 8  # of the clip's width, per sample


def encode_motion(clip: np.ndarray, kind: str) -> np.ndarray:
    """The motion of a clip as a clip.

    Args:
      clip: uint8 [T, S, S, 3] RGB, S at least `wt_jax.specs.LEAST_FLOW_SIZE`.
      kind: one of `wt_jax.specs.MOTIONS`.

    Returns:
      uint8 [T, S, S, 3]; entry t is the motion from frame t to t + 1, the last one stands twice. One frame has none.
    """
    reach = REACH * clip.shape[2]
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
    # A solver of its own for each call: it keeps buffers, and several threads work at once.
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    make: Any = None  # OpenCV then makes the array, which its declaration does not know
    flows = [solver.calc(before, after, make) for before, after in itertools.pairwise(gray)]
    flows = flows or [np.zeros((*clip.shape[1:3], 2), np.float32)]
    encode = _flow_picture if kind == "flow" else _edge_picture
    pictures = [encode(flow, reach) for flow in flows]
    return np.stack((pictures + pictures[-1:])[: len(clip)])


def _flow_picture(flow: np.ndarray, reach: float) -> np.ndarray:
    length = np.linalg.norm(flow, axis=-1, keepdims=True)
    picture = np.concatenate([128 + 127 * flow / reach, 255 * length / reach], axis=-1)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _edge_picture(flow: np.ndarray, reach: float) -> np.ndarray:
    length = np.linalg.norm(flow, axis=-1)
    # 1/8 makes the 3 x 3 Sobel kernel a mean slope per pixel.
    slopes = [cv2.Sobel(length, cv2.CV_32F, dx, dy, ksize=3, scale=1 / 8) for dx, dy in ((1, 0), (0, 1))]
    edge = np.clip(np.rint(255 * np.hypot(*slopes) / reach), 0, 255).astype(np.uint8)
    return np.repeat(edge[..., None], 3, axis=-1)
