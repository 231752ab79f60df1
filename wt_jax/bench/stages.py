"""Where the time of one training element goes, on one core: milliseconds per video by stage."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from wt_jax.data.pipeline import crop_clips
from wt_jax.data.sampling import random_windows
from wt_jax.data.video import decode
from wt_jax.data.video.cache import KeptReader
from wt_jax.data.video.decode import open_reader, probe
from wt_jax.specs import ClipView


def time_stages(paths: Sequence[str], views: Mapping[str, ClipView], batch_size: int, repeats: int = 3) -> dict[str, float]:
    """Milliseconds per video of each stage, the least of some repeats.

    "read" is the whole file from the operating system's cache; "probe" opens a video and lists its packets, which is not
    repeated while it is remembered; "decode" opens it and yields the wanted frames; "geometry" crops, resizes, flips and turns
    to RGB; "batch" stacks; "transfer" brings a batch to the first device of JAX.
    """
    import jax

    rng = np.random.default_rng(0)
    windows = {path: random_windows(probe(path), views, rng) for path in paths}
    wanted = {path: np.unique(np.concatenate(list(windows[path].values()))) for path in paths}
    kept = {}
    for path in paths[:batch_size]:
        with open_reader(path) as reader:
            kept[path] = KeptReader(reader.info, dict(reader.frames(wanted[path], planes=True)))
    clips = [crop_clips(kept[path], windows[path], views, rng) for path in kept]
    batch = {name: np.stack([clip[name] for clip in clips]) for name in views}

    def probe_anew(path: str) -> None:
        decode.forget()
        probe(path)

    def read_frames(path: str) -> None:
        with open_reader(path) as reader:
            for _ in reader.frames(wanted[path], planes=True):
                pass

    return {
        "read": _time(lambda path: Path(path).read_bytes(), paths, repeats),
        "probe": _time(probe_anew, paths, repeats),
        "decode": _time(read_frames, [path for path in paths if probe(path)], repeats),
        "geometry": _time(lambda path: crop_clips(kept[path], windows[path], views, rng), list(kept), repeats),
        "batch": _time(lambda _: [np.stack([clip[name] for clip in clips]) for name in views], [None], repeats) / len(clips),
        "transfer": _time(lambda _: jax.block_until_ready(jax.device_put(batch)), [None], repeats) / len(clips),
    }


def _time(work: Callable, items: Sequence, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for item in items:
            work(item)
        times.append((time.perf_counter() - start) / len(items))
    return 1000 * min(times)
