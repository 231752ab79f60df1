"""The embedded data set: a small labelled set of real mp4 files in which motion, and nothing else, names the video.

Every video is a montage of takes. All takes of a video show the *same motion* (kind and speed), each performed by other
figures before another background: shapes, colours, texture, number, places, sizes and angles are drawn anew for every take.
So two stretches of one video share its motion and nothing else, and a network that recognises videos has to see motion.

Classes (`MOTIONS`) are kinds of motion. A figure has a place on a torus, an angle and a size; each of these is drawn
uniformly for each take, and a motion shifts one of them along a path that keeps that distribution uniform. The
distribution of a single frame is therefore exactly the same in every class: one frame says nothing about the label.

Shortcuts that remain, and what they mean:
* Static looks are useless by construction, which real videos do not grant: there a background often names the video.
* Speed varies between videos, so it also identifies a video and is learnt beside the kind of motion.
* Horizontal mirroring maps every class onto itself, vertical mirroring does not, and neither does reversing time.
* Many videos share a class, so instance discrimination meets false negatives: what the weak teacher is meant to soften.
* A few hundred videos of 32 x 32 pixels prove that the machinery learns; they prove nothing about Kinetics.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

MOTIONS = ("slide", "rise", "fall", "sway", "bob", "circle", "grow", "shrink", "pulse", "spin")
RATE = 25  # frames per second
_SIZES = (0.10, 0.24)  # smallest and largest radius of a figure, as a share of the frame


def motion_path(
    motion: str, speed: float, phase: float, time: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shifts (x, y, size, angle) of a figure at `time` (T,) in frames, each (T,) float.

    x and y are in frame widths (y down), size is a phase of the size cycle (1 is from smallest to largest), angle is in
    radians. `speed` is about 1; `phase` in [0, 1) says where in its cycle a swinging motion begins, and (above or below
    a half) which way a symmetric one turns.
    """
    none = np.zeros(len(time))
    cycle = 2 * np.pi * (time * speed / 8 + phase)
    way = 1.0 if phase < 0.5 else -1.0
    line = 0.05 * speed * time
    match motion:
        case "slide":
            return way * line, none, none, none
        case "rise":
            return none, -line, none, none
        case "fall":
            return none, line, none, none
        case "sway":
            return 0.1 * np.sin(cycle), none, none, none
        case "bob":
            return none, 0.1 * np.sin(cycle), none, none
        case "circle":
            return 0.1 * np.cos(cycle), way * 0.1 * np.sin(cycle), none, none
        case "grow":
            return none, none, speed * time / 10, none
        case "shrink":
            return none, none, -speed * time / 10, none
        case "pulse":
            return none, none, 0.5 * np.sin(cycle), none
        case "spin":
            return none, none, none, way * speed * time * 2 * np.pi / 12
    raise ValueError(f"unknown motion {motion!r}; choose one of {', '.join(MOTIONS)}")


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A smooth random colour field, (size, size, 3) float in [0, 255]."""
    cells = int(rng.integers(2, 7))
    coarse = rng.uniform(0, 1, (cells, cells, 3)) * rng.uniform(0.1, 0.4) + rng.uniform(0, 0.7, 3)
    place = np.arange(size) * cells / size
    low = place.astype(int)
    share = place - low
    high = (low + 1) % cells
    rows = coarse[low] * (1 - share)[:, None, None] + coarse[high] * share[:, None, None]
    field = rows[:, low] * (1 - share)[None, :, None] + rows[:, high] * share[None, :, None]
    return 255 * np.clip(field, 0, 1)


def _take(rng: np.random.Generator, motion: str, speed: float, time: np.ndarray, size: int) -> np.ndarray:
    """One take: (T, size, size, 3) uint8."""
    frames = np.broadcast_to(rng.uniform(0, 255, 3), (len(time), size, size, 3)).copy()
    grid = (np.arange(size) + 0.5) / size
    low, high = np.log(_SIZES)
    for _ in range(int(rng.integers(3, 6))):
        dx, dy, dsize, dangle = motion_path(motion, speed, rng.uniform(), time)
        x, y, angle = rng.uniform() + dx, rng.uniform() + dy, rng.uniform(0, 2 * np.pi) + dangle
        # The size runs up and down its cycle for a swing, and starts again from the other end for growth and shrinking.
        phase = rng.uniform() + dsize
        radius = np.exp(low + (high - low) * (phase % 1.0))
        gap_x = (grid[None, :] - x[:, None] + 0.5) % 1 - 0.5
        gap_y = (grid[None, :] - y[:, None] + 0.5) % 1 - 0.5
        cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
        u = (cos * gap_x[:, None, :] + sin * gap_y[:, :, None]) / radius[:, None, None]
        v = (cos * gap_y[:, :, None] - sin * gap_x[:, None, :]) / radius[:, None, None]
        power, squeeze = rng.choice([1.0, 2.0, 6.0]), rng.uniform(0.45, 0.75)
        distance = (np.abs(u) ** power + np.abs(v / squeeze) ** power) ** (1 / power)
        edge = 1 / (size * radius[:, None, None])
        cover = np.clip((1 - distance) / (2 * edge) + 0.5, 0, 1)[..., None]
        first, second = rng.uniform(0, 255, (2, 3))
        colour = np.where((np.sin(rng.uniform(2, 6) * u) > 0)[..., None], first, second)
        frames = frames * (1 - cover) + colour * cover
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def render(motion: str, rng: np.random.Generator, *, frames: int = 64, size: int = 32) -> np.ndarray:
    """One video of the motion, (frames, size, size, 3) uint8 RGB: takes of 8 to 12 frames, one speed throughout."""
    speed = rng.uniform(0.75, 1.3)
    takes, start = [], 0
    while start < frames:
        stop = min(frames, start + int(rng.integers(8, 13)))
        takes.append(_take(rng, motion, speed, np.arange(start, stop), size))
        start = stop
    return np.concatenate(takes)


def write_mp4(path: Path, frames: np.ndarray, rate: int = RATE) -> None:
    """Write (T, H, W, 3) uint8 RGB frames (even sides) as H.264, one key frame every 12 frames."""
    with av.open(str(path), "w") as container:
        options = {"crf": "18", "preset": "veryfast", "g": "12", "threads": "1"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
