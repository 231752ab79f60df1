"""Figures of docs/methods.md that need no other code, each as a table in Markdown; `wt-jax bench-fidelity --figure`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from wt_jax.augment.color import color_map
from wt_jax.config import OptimConfig
from wt_jax.errors import SourceError
from wt_jax.methods.forward import student_then_teacher
from wt_jax.models.norm import Norm
from wt_jax.specs import PixelSpec
from wt_jax.train.optim import make_optimizer

STEPS = 3000


def prototypes() -> str:
    """What weight decay of 0.1 and gradients of chance make of frozen prototypes in 3,000 steps, and of ones that are not."""
    first = jnp.asarray(np.random.default_rng(0).normal(size=(64, 16)), jnp.float32)

    def after(name: str, frozen: Mapping[str, float]) -> np.ndarray:
        optimizer = make_optimizer(OptimConfig(name=name, weight_decay=0.1), optax.constant_schedule(0.01), frozen=frozen)

        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            params, state = carry
            updates, state = optimizer.update({"prototypes": jax.random.normal(key, first.shape)}, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = {"prototypes": first}
        keys = jax.random.split(jax.random.key(0), STEPS)
        (params, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, keys))((params, optimizer.init(params)))
        return np.asarray(params["prototypes"])

    lines = ["| optimizer | bits that changed, frozen | not frozen |", "| --- | ---: | ---: |"]
    for name in ("sgd", "lars", "adam", "adamw"):
        found = [after(name, frozen) for frozen in ({"prototypes": STEPS}, {})]
        bits = [np.bitwise_count(x.view(np.uint32) ^ np.asarray(first).view(np.uint32)).sum() for x in found]
        lines.append(f"| {name} | {bits[0]} of {32 * first.size} | {bits[1]} |")
    return "\n".join(lines)


class Normalized(nn.Module):
    """A network that is its norm alone, of so many parts of the batch."""

    parts: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, None]:
        """(B, D) -> the same shape."""
        kind = "sub_batch" if self.parts > 1 else "batch"
        return Norm(kind, sub_batches=self.parts)(x, train), None


def shared(parts: int, shuffled: int) -> float:
    """Correlation, over 64 videos of 32 numbers, of what normalization adds to a query and to its key.

    Args:
      parts: of the batch, each normalized by itself.
      shuffled: parts that the keys are dealt out among; 1: not at all.
    """
    rng = np.random.default_rng(0)
    content = rng.normal(size=(64, 32))
    query, key = (jnp.asarray(content + 0.3 * rng.normal(size=content.shape), jnp.float32) for _ in range(2))
    network = Normalized(parts)
    variables = network.init(jax.random.key(0), query, False)
    arguments = (network, variables, [query], network, variables, [[key]])
    (new_query,), (new_key,), _ = student_then_teacher(*arguments, parts=shuffled)
    one, other = (np.asarray(new - old).ravel() for new, old in ((new_query, query), (new_key, key)))
    return float(np.corrcoef(one, other)[0, 1])


def leak() -> str:
    """What a key's BatchNorm tells of its query's, before and after the videos are shuffled among its parts."""
    lines = [
        "| parts of 64 videos | common, before | after | correlation of what normalization adds, before | after |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for parts in (2, 4, 8):
        common = f"{64 // parts} | {64 // parts**2}"
        lines.append(f"| {parts} | {common} | {shared(parts, 1):.2f} | {shared(parts, parts):.2f} |")
    return "\n".join(lines)


def hue(videos: Path) -> str:
    """The turn of the HSV hue of colorful pixels over the one that was asked for: by our matrix, and by one in YIQ.

    Raises:
      SourceError: there is no video in the folder.
    """
    found = sorted(file for kind in ("mp4", "avi", "webm", "mkv") for file in videos.rglob(f"*.{kind}"))
    pixels = np.concatenate([frame.reshape(-1, 3) for file in found for frame in _frames(file)] or [np.zeros((0, 3))])
    pixels = pixels[np.ptp(pixels, axis=1) > 0.1]
    if not len(pixels):
        raise SourceError(f"{videos} holds no video with colors; name a folder of mp4, avi, webm or mkv files")
    luma = np.array(((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)))

    def turned(matrix: np.ndarray, turn: float) -> str:
        new = pixels @ matrix.T
        ratio = ((_hue(new) - _hue(pixels) + 0.5 - turn) % 1 - 0.5 + turn) / turn
        change = np.abs(new - pixels).mean() / np.abs(_turned_hsv(pixels, turn) - pixels).mean()
        return f"{ratio.mean():.2f} ({np.percentile(ratio, 5):.2f} to {np.percentile(ratio, 95):.2f}) | {change:.2f}"

    lines = [f"{len(pixels):,} pixels of {len(found)} videos", ""]
    lines += ["| turn | about gray | change over HSV's | in YIQ | change |", "| ---: | ---: | ---: | ---: | ---: |"]
    for turn in (0.02, 0.05, 0.1, 0.15, 0.25, 0.5):
        c, s = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
        yiq = np.linalg.inv(luma) @ np.array(((1, 0, 0), (0, c, s), (0, -s, c))) @ luma
        draws = jnp.array([0.5, 0.5, 0.5, turn + 0.5, 0.0, 1.0])
        ours = np.asarray(color_map(draws, PixelSpec(jitter_probability=1.0, hue=0.5))[0])
        lines.append(f"| {turn:g} | {turned(ours, turn)} | {turned(yiq, turn)} |")
    return "\n".join(lines)


def _turned_hsv(rgb: np.ndarray, turn: float) -> np.ndarray:
    hsv = cv2.cvtColor(rgb.reshape(-1, 1, 3).astype(np.float32), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 360 * turn) % 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[:, 0]


def _frames(file: Path) -> list[np.ndarray]:
    """Up to three frames, each the 11th after the one before, 112 x 112 in [0, 1]."""
    video, frames = cv2.VideoCapture(str(file)), []
    good, frame = video.read()
    while good and len(frames) < 3:
        frames.append(cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), (112, 112), interpolation=cv2.INTER_AREA) / 255.0)
        for _ in range(10):
            video.grab()
        good, frame = video.read()
    return frames


def _hue(rgb: np.ndarray) -> np.ndarray:
    """In [0, 1); moved into range first, as a common offset changes no hue."""
    rgb = (rgb - rgb.min(axis=1, keepdims=True)).astype(np.float32)
    return cv2.cvtColor(rgb.reshape(-1, 1, 3), cv2.COLOR_RGB2HSV)[:, 0, 0] / 360
