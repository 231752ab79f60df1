"""A small encoder without Flax and videos whose motion names them, for the tests of the search.

Test modules that import this are skipped where the extra is not installed.
"""

from pathlib import Path

import numpy as np
import pytest

from wt_jax.search.store import Snapshot, VideoEntry
from wt_jax.specs import ClipView

for _package in ("faiss", "flatbuffers", "starlette"):
    pytest.importorskip(_package, reason="the extra `search` is not installed")

VIEW = ClipView(num_frames=8, stride=1.0, size=32, crop="center")
DIM = 48
SNAPSHOT_DIM = 32


def write_small_encoder(path: Path, seed: int = 0) -> None:
    """An encoder of random projections of what changes from frame to frame; quick to compile, and no two clips look alike."""
    import jax.numpy as jnp

    from wt_jax.search.exported import write_exported

    def apply(weights, clips):
        x = clips.astype(jnp.float32) / 255.0
        x = x.reshape(x.shape[0], 8, 8, 4, 8, 4, 3).mean(axis=(3, 5))
        x = jnp.concatenate([jnp.diff(x, axis=1).reshape(x.shape[0], -1), 0.1 * x[:, ::4].reshape(x.shape[0], -1)], axis=1)
        return x @ weights["projection"]

    rng = np.random.default_rng(seed)
    weights = {"projection": rng.normal(size=(7 * 192 + 2 * 192, DIM)).astype(np.float32)}
    write_exported(path, f"small {seed}", VIEW, apply, weights)


def write_video(path: Path, seed: int, seconds: float = 4.0, size: int = 48, rate: int = 12) -> None:
    """An H.264 video of a few drifting discs."""
    import av

    rng = np.random.default_rng(seed)
    places, speeds = rng.uniform(0, size, (4, 2)), rng.normal(0, 20, (4, 2))
    colors, radii = rng.integers(60, 255, (4, 3)), rng.uniform(4, 9, 4)
    y, x = np.mgrid[:size, :size]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "threads": "1", "g": "12"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(round(seconds * rate)):
            picture = np.full((size, size, 3), 40, np.uint8)
            for place, speed, color, radius in zip(places, speeds, colors, radii, strict=True):
                center = (place + speed * number / rate) % size
                picture[(x - center[0]) ** 2 + (y - center[1]) ** 2 < radius**2] = color
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def snapshot(count: int = 4000, per_video: int = 10, seed: int = 0, features=None) -> Snapshot:
    rng = np.random.default_rng(seed)
    features = (rng.normal(size=(count + 7, SNAPSHOT_DIM)) + 3).astype(np.float32) if features is None else features
    rows = np.arange(count) + 7  # the first are dead
    ids = (np.arange(count) // per_video + 1).astype(np.int32)
    videos = {
        int(i): VideoEntry(
            f"/v/{'ab'[i % 2]}/{i}.mp4", f"1:{i}", "", float(i), f"class{i % 5}", {"person": f"p{i % 3}"}, int(i)
        )
        for i in np.unique(ids)
    }
    times = np.stack([np.arange(count) % per_video, np.arange(count) % per_video + 1], axis=1).astype(np.float32)
    return Snapshot(1, {}, videos, (), rows, ids, times, features)


def queries(count: int = 40) -> np.ndarray:
    rows = np.random.default_rng(1).normal(size=(count, SNAPSHOT_DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
