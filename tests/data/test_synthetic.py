"""The embedded data set keeps its promises."""

from pathlib import Path

import numpy as np
import pytest

from wt_jax.data.sources.open import open_source
from wt_jax.data.synthetic import MOTIONS, render, write_dataset
from wt_jax.data.video.decode import decode, probe


def test_files_are_real_videos_and_a_second_call_changes_nothing(tmp_path):
    write_dataset(tmp_path, train=11, test=11, frames=24)
    videos = open_source(str(tmp_path / "train"))
    assert videos.classes == MOTIONS
    assert sorted(videos.labels) == list(range(11))
    before = {r.path: Path(r.path).read_bytes() for r in videos}
    assert probe(videos[0].path).num_frames == 24
    write_dataset(tmp_path, train=11, test=11, frames=24)
    assert before == {r.path: Path(r.path).read_bytes() for r in videos}


def test_a_second_writing_gives_the_same_bytes(tmp_path):
    for place in ("first", "second"):
        write_dataset(tmp_path / place, train=16, test=0)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / place).rglob("*.mp4")} for place in ("first", "second"))
    assert len(first) == 16
    assert first == second


def test_a_file_shows_what_was_rendered(tmp_path):
    write_dataset(tmp_path, train=11, test=0, frames=24)
    record = open_source(str(tmp_path / "train"))[0]
    index = int(record.path.rsplit("/", 1)[1].removesuffix(".mp4"))
    expected = render(MOTIONS[record.label], np.random.default_rng((0, 0, index)), frames=24)
    shown = decode(record.path, np.arange(24)).astype(int)
    assert np.abs(shown - expected).mean() < 12  # chroma is stored at half the resolution


@pytest.mark.parametrize("motion", MOTIONS)
def test_something_moves(motion):
    frames = render(motion, np.random.default_rng(0)).astype(int)
    assert np.abs(np.diff(frames, axis=0)).mean() > 1


def test_one_frame_has_the_same_statistics_in_every_class():
    """Mean color, contrast and edges of single frames differ between classes by no more than between draws of one."""

    def statistics(motion, seeds):
        rows = []
        for seed in seeds:
            frame = render(motion, np.random.default_rng((7, seed)), frames=40)[20].astype(float)
            edges = np.abs(np.diff(frame, axis=0)).mean(), np.abs(np.diff(frame, axis=1)).mean()
            rows.append((*frame.mean((0, 1)), frame.std(), *edges))
        return np.array(rows)

    samples = {motion: statistics(motion, range(k * 100, k * 100 + 40)) for k, motion in enumerate(MOTIONS)}
    everything = np.concatenate(list(samples.values()))
    # Standard error of a class mean over 40 independent videos; four of them would be a one in ten thousand chance.
    error = everything.std(axis=0) / np.sqrt(40)
    for motion, rows in samples.items():
        assert (np.abs(rows.mean(axis=0) - everything.mean(axis=0)) < 4 * error).all(), motion
