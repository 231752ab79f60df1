"""The pipeline's memory stays where it is, and its worker too."""

import os
import statistics

import numpy as np
import pytest
from support.video_files import write_video

from wt_jax.bench.memory import memory_of
from wt_jax.data.pipeline import train_batches
from wt_jax.data.records import VideoList
from wt_jax.specs import ClipView

VIEWS = {"a": ClipView("a", num_frames=4, size=16, flip_probability=0.5), "b": ClipView("b", num_frames=4, size=16)}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_twenty_thousand_batches_leave_memory_as_it_was(tmp_path, workers):
    """Memory of the process and its worker from batch 1,000 to 3,000 against the last 2,000, by less than 2 %."""
    if not memory_of(os.getpid()):
        pytest.skip("this system does not tell the memory of a process")
    paths = tuple(write_video(tmp_path / f"{place}.mp4", 12 + place) for place in range(20))
    (tmp_path / "bad.mp4").write_text("no video")
    videos = VideoList((*paths, str(tmp_path / "bad.mp4")), np.full(21, -1, np.int32))
    seen = []
    for number, _ in enumerate(
        train_batches(videos, VIEWS, seed=0, batch_size=2, num_steps=20_000, workers=workers, threads=1)
    ):
        if number % 100 == 0:
            seen.append(memory_of(os.getpid()))
    before, after = statistics.median(seen[10:30]), statistics.median(seen[-20:])
    print(f"{workers} workers: {before:.1f} MiB, then {after:.1f} MiB, {after / before - 1:+.2%}")
    assert after < 1.02 * before
