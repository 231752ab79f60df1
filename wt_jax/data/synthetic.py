"""The embedded data set: a small labelled set of real mp4 files in which motion, and nothing else, names the video.

A video is a stream of shapes on a plain ground. Each shape lives for half a second, then another one appears somewhere
else, with another outline, size and angle; a few are visible at any time. All shapes of a video show the *same motion*
(kind and speed). So two stretches of one video that do not overlap share its motion and nothing else, and a network that
is to recognize videos has to see motion.

Classes (`MOTIONS`) are kinds of motion. A shape has a place on a torus, an angle and a size; each of these is drawn
uniformly at its birth, and a motion shifts them along a path that leaves that distribution as it is. The distribution
of a single frame is therefore the same in every class: one frame says nothing about the label.

Shortcuts and limits, to be known before a number from this set is believed:
* Looks are useless by construction, which real videos do not grant: there a background often names the video. The colors
  are the same everywhere, so nothing has to be learnt to ignore them.
* Overlapping stretches show the same shapes, so training takes stretches that lie apart (`config.clip.gap`).
* Speed varies between videos, so it identifies a video too and is learnt beside the kind of motion.
* Directions differ between the shapes of a video, so none names it or its class, and a video that is mirrored, turned or
  reversed in time keeps its class: what is learnt is the kind and the rhythm of motion. (Classes that differed in their axis
  alone, or as a quarter turn and a half turn at once do, were distinguished in some runs and not in others: docs/results.md.)
* Some classes differ little within a clip, such as a shape that turns to and fro ("twist") and one that goes on ("spin").
* Many videos share a class, so instance discrimination meets false negatives: what the weak teacher is meant to soften.
* A few hundred videos of 32 x 32 pixels prove that the machinery learns; they prove nothing about Kinetics.

`python -m wt_jax.data.synthetic FOLDER` writes it.
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from wt_jax.files import atomic_path

MOTIONS = ("blink", "circle", "drift", "leap", "pulse", "rest", "shake", "spin", "swap", "swing", "twist")
ALONG_AXES = ("bob", "climb", "slide", "sway")  # further motions, for `synthetic_variants`
RATE = 25  # frames per second
LIFE = 12  # frames a shape lives


@dataclass(frozen=True)
class Scene:
    """What all videos of a set have in common; lengths are in frame widths.

    Attributes:
      shapes: visible at any time.
      radii: smallest and largest radius of a shape.
      step: by frame, of motions in a line, at speed 1.
      swing: amplitude of swinging motions.
      speeds: lowest and highest, of a video; at speed 1 a swing takes 8 frames.
    """

    shapes: int = 5
    radii: tuple[float, float] = (0.14, 0.22)
    step: float = 0.07
    swing: float = 0.16
    speeds: tuple[float, float] = (0.5, 1.8)


SCENE = Scene()
# No lookahead and one thread: the same frames make the same file.
H264 = {"crf": "18", "preset": "veryfast", "tune": "zerolatency", "g": "8", "bf": "0", "threads": "1"}
_OUTLINES = (np.add, np.hypot, np.maximum)  # diamond, ellipse, rectangle: where outline(|u|, |v|) <= 1
_GROUND, _BODY, _MARK = np.array(((60, 60, 60), (230, 200, 90), (60, 200, 230)), np.float32)  # RGB


def motion_path(motion: str, speed: float, time: np.ndarray, rng: np.random.Generator, scene: Scene = SCENE) -> np.ndarray:
    """Shift of a shape in x, y, size and angle at `time` (T,) in frames: (4, T) float.

    x and y are in frame widths, size is a phase of the size range (1 is from smallest to largest), the angle in radians.
    The phase of a swing, which way a symmetric motion goes, and the direction of "drift", "leap" and "swing" are drawn.
    """
    path = np.zeros((4, len(time)))
    way = rng.choice((-1.0, 1.0))
    swing = 2 * np.pi * (time * speed / 8 + rng.uniform())
    line = way * scene.step * speed * time
    direction = rng.uniform(0, 2 * np.pi) if motion in ("drift", "leap", "swing") else 0.0
    along = np.array([[np.cos(direction)], [np.sin(direction)]])
    match motion:
        case "drift" | "slide":
            path[:2] = along * line
        case "climb":
            path[1] = line
        case "swing" | "sway":
            path[:2] = along * scene.swing * np.sin(swing)
        case "bob":
            path[1] = scene.swing * np.sin(swing)
        case "leap":  # as far as "swing" swings on average, with a rest after each
            path[:2] = along * scene.swing / np.sqrt(2) * np.sign(np.sin(swing))
        case "circle":
            path[:2] = scene.swing * np.cos(swing), way * scene.swing * np.sin(swing)
        case "shake":
            path[:2] = scene.swing / 2 * rng.normal(size=(2, len(time)))
        case "rest":
            pass
        case "pulse":
            path[2] = way * speed * time / 4
        case "blink":  # between small and large at once
            path[2] = np.sign(np.sin(swing)) / 2
        case "spin":
            path[3] = way * speed * time * 2 * np.pi / 16
        case "twist":
            path[3] = np.pi / 3 * np.sin(swing)
        case "swap":  # a half turn at once: the two colors change places
            path[3] = np.pi / 2 * np.sign(np.sin(swing))
        case _:
            raise ValueError(f"unknown motion {motion!r}; choose one of {', '.join(MOTIONS + ALONG_AXES)}")
    return path


def _paint_shape(
    frames: np.ndarray, birth: int, life: int, motion: str, speed: float, rng: np.random.Generator, scene: Scene
) -> None:
    """Paint one shape from its birth to its death over (T, size, size, 3) float32 frames."""
    alive = frames[max(birth, 0) : birth + life]
    size = frames.shape[1]
    path = motion_path(motion, speed, np.arange(life), rng, scene)
    dx, dy, dsize, dangle = path[:, -birth if birth < 0 else 0 :][:, : len(alive)]
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    low, high = np.log(scene.radii)
    # Past the end of the size range the phase runs back, so that a uniform start stays uniform.
    phase = np.abs((rng.uniform(-1, 1) + dsize + 1) % 2 - 1)
    radius = np.exp(low + (high - low) * phase).astype(np.float32)[:, None, None]
    angle = (rng.uniform(0, 2 * np.pi) + dangle).astype(np.float32)[:, None, None]
    gap_x = ((grid - (rng.uniform() + dx).astype(np.float32)[:, None] + 0.5) % 1 - 0.5)[:, None, :]
    gap_y = ((grid - (rng.uniform() + dy).astype(np.float32)[:, None] + 0.5) % 1 - 0.5)[:, :, None]
    u = (np.cos(angle) * gap_x + np.sin(angle) * gap_y) / radius
    v = (np.cos(angle) * gap_y - np.sin(angle) * gap_x) / radius
    outline = _OUTLINES[rng.integers(len(_OUTLINES))]
    distance = outline(np.abs(u), np.abs(v) / np.float32(rng.uniform(0.4, 0.7)))
    cover = np.clip((1 - distance) * size * radius / 2 + 0.5, 0, 1)[..., None]
    alive += cover * (np.where((u > 0)[..., None], _BODY, _MARK) - alive)


def render(
    motion: str, rng: np.random.Generator, *, frames: int = 96, size: int = 32, life: int = LIFE, scene: Scene = SCENE
) -> np.ndarray:
    """One video of the motion, (frames, size, size, 3) uint8 RGB, one speed throughout.

    Shapes live `life` frames; from `frames` on they live as long as the video.
    """
    speed = rng.uniform(*scene.speeds)
    picture = np.broadcast_to(_GROUND, (frames, size, size, 3)).copy()
    for _ in range(scene.shapes):
        for birth in range(-int(rng.integers(life)), frames, life) if life < frames else (0,):
            _paint_shape(picture, birth, life, motion, speed, rng, scene)
    return (picture + np.float32(0.5)).astype(np.uint8)


def write_mp4(path: Path, frames: np.ndarray, rate: int | Fraction = RATE, crf: int = 18) -> None:
    """Write (T, H, W, 3) uint8 RGB frames (even sides) as H.264, a key frame every 8 frames; the lower `crf`, the better."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={**H264, "crf": str(crf)})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = index, 1 / Fraction(rate)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def write_dataset(folder: Path, *, train: int = 484, test: int = 484, frames: int = 96, size: int = 32, seed: int = 0) -> None:
    """Write `folder`/{train,test}/MOTION/NNNN.mp4, the classes evenly filled, every video drawn from (seed, part, index).

    Files that are already there stay, so an interrupted call can be repeated.
    """
    jobs = [
        (folder / part / motion / f"{index:04d}.mp4", motion, (seed, number, index), frames, size)
        for number, (part, count) in enumerate((("train", train), ("test", test)))
        for index, motion in zip(range(count), MOTIONS * (count // len(MOTIONS) + 1), strict=False)
    ]
    # Spawned, not forked: the caller may already run JAX's threads.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_write_one, jobs, chunksize=16))


def _write_one(job: tuple[Path, str, tuple[int, ...], int, int]) -> None:
    path, motion, seed, frames, size = job
    if path.exists():
        return
    with atomic_path(path) as draft:  # an unfinished file must never pass for a video of the set
        write_mp4(draft, render(motion, np.random.default_rng(seed), frames=frames, size=size))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m wt_jax.data.synthetic FOLDER")
    write_dataset(Path(sys.argv[1]))
