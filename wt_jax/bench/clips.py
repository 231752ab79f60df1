"""Makes the clips that the loader is measured on where no archive is at hand: real H.264 files of moving texture.

Each clip pans over a field of noise with detail at every scale, while textured discs cross it at speeds of their own, under
a little sensor noise: so motion vectors, residuals and bit rate are of the kind that a codec meets in footage. What they
show means nothing.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from wt_jax.files import atomic_path

WIDTH, HEIGHT, RATE, SECONDS = 340, 256, 30, 10
_DISCS = 5


def make_clips(folder: Path, count: int = 48, gop: int = 250, seed: int = 0) -> None:
    """Writes `folder`/NNNN.mp4, 340 x 256, 10 s at 30 frames a second, with a keyframe every `gop` frames at the latest.

    Clip i is drawn from (seed, i). Files that are already there stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder / f"{index:04d}.mp4", gop, (seed, index)) for index in range(count)]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_make_clip, jobs))


def _make_clip(job: tuple[Path, int, tuple[int, ...]]) -> None:
    path, gop, seed = job
    if path.exists():
        return
    rng = np.random.default_rng(seed)
    with atomic_path(path) as draft, av.open(str(draft), "w") as container:
        # x264's defaults, as most archives have them: medium, CRF 23, B-frames.
        options = {"g": str(gop), "threads": "1"}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for index, picture in enumerate(_pictures(rng)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _pictures(rng: np.random.Generator):
    """The frames of one clip, uint8 [HEIGHT, WIDTH, 3]."""
    field = _texture(rng, 2 * HEIGHT, 2 * WIDTH)
    discs = [_texture(rng, 96, 96) for _ in range(_DISCS)]
    mask = (np.hypot(*np.mgrid[-1:1:96j, -1:1:96j]) < 1)[..., None]
    start, speed = rng.uniform(0.3, 0.7, 2), rng.uniform(-0.03, 0.03, 2)  # of the field's free room, per second
    places, speeds = rng.uniform(0, 1, (_DISCS, 2)), rng.uniform(-0.4, 0.4, (_DISCS, 2))  # of the frame, per second
    room = np.array((HEIGHT, WIDTH))
    for index in range(RATE * SECONDS):
        seconds = index / RATE
        top, left = (start + speed * seconds) * room
        shift = np.array([[1, 0, -left], [0, 1, -top]], np.float32)
        picture = cv2.warpAffine(field, shift, (WIDTH, HEIGHT)).astype(np.float32)
        for disc, place, velocity in zip(discs, places, speeds, strict=True):
            y, x = ((place + velocity * seconds) % 1 * (room - 96)).astype(int)
            box = picture[y : y + 96, x : x + 96]
            box[:] = np.where(mask, disc, box)
        noise = rng.normal(0, 2, (HEIGHT, WIDTH, 1))
        yield np.clip(picture + noise, 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise of all scales, uint8 [height, width, 3]."""
    picture = np.zeros((height, width, 3), np.float32)
    for scale in (4, 8, 16, 32, 64):
        coarse = rng.normal(size=(height // scale + 2, width // scale + 2, 3)).astype(np.float32)
        picture += scale**0.7 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 48 * picture / picture.std(), 0, 255).astype(np.uint8)
