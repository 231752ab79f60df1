"""Search among real videos, with a small random encoder: what holds for any encoder."""

import numpy as np
import pytest
import support.search  # noqa: F401  skips all where the extra is missing

from wt_jax.bench.excerpts import joined, rates, write_excerpt
from wt_jax.data.sources.open import open_source
from wt_jax.data.synthetic import write_mp4
from wt_jax.data.video.reader import open_video
from wt_jax.eval.protocols.base import Encoded
from wt_jax.eval.protocols.retrieval import Retrieval
from wt_jax.eval.splits import leave_one_group_out
from wt_jax.search.engine import Engine, recall
from wt_jax.tools import search_index


@pytest.fixture(scope="module")
def people(shared_data, encoder_file, tmp_path_factory):
    """The index of the Weizmann clips, and their list."""
    folder = tmp_path_factory.mktemp("people") / "index"
    source = shared_data / "weizmann" / "index.csv"
    search_index.main([str(source), f"--index={folder}", f"--encoder={encoder_file}", "--workers=0"])
    return Engine(folder), open_source(str(source))


def test_every_moment_of_every_clip_finds_itself(people):
    engine, videos = people
    scan = engine.scan
    assert len(scan.snapshot.videos) == len(videos) == 72
    for place, moment in enumerate(scan.snapshot.rows.tolist()):
        best = engine.search(scan, scan.unit(np.array([place])), count=1).results[0]
        assert best.moment == moment or best.score > 1 - 1e-6  # a clip that stands still has equal moments


def test_recall_with_a_person_left_out_is_that_of_the_evaluation(people):
    engine, videos = people
    shot = engine.scan.snapshot
    by_path = {video.path: video.id for video in shot.videos.values()}
    values = np.stack([shot.features[shot.rows[shot.video_ids == by_path[path]]].mean(axis=0) for path in videos.paths])
    result = Retrieval(ks=(1, 5, 10), center=(True,)).run(
        Encoded(values.astype(np.float64)), np.array(videos.labels), videos.classes, leave_one_group_out(videos, "person", "")
    )
    found = recall(engine.scan, "person")
    assert found == {k: pytest.approx(float(np.mean(result.values[f"recall@{k}"])), abs=1e-9) for k in (1, 5, 10)}


def test_an_excerpt_is_cropped_slowed_and_found(archive, encoder_file, tmp_path):
    """The measurement: excerpts that begin between two moments are found, those of another video are not."""
    (tmp_path / "videos").mkdir()
    frames = joined(open_source(str(archive)), 500, seed=0)
    assert frames.shape == (500, 96, 96, 3)
    write_mp4(tmp_path / "videos" / "long.mp4", frames[:400])
    search_index.main([str(tmp_path / "videos"), f"--index={tmp_path / 'i'}", f"--encoder={encoder_file}", "--workers=0"])
    engine, inside, outside = Engine(tmp_path / "i"), [], []
    for first in (4, 31, 57, 111, 205, 318):
        inside.append((tmp_path / f"{first}.mp4", first / 25))
        write_mp4(inside[-1][0], frames[first : first + 50], crf=30)
        outside.append((tmp_path / f"other{first}.mp4", first / 25))
        write_mp4(outside[-1][0], frames[440:490])
    assert rates(engine, inside, 2.0)["place"] == 1
    assert rates(engine, outside, 2.0)["place"] < 1
    write_excerpt(tmp_path / "altered.mp4", frames[:50], np.random.default_rng(0))
    with open_video(str(tmp_path / "altered.mp4")) as reader:
        assert (reader.info.width, reader.info.height, reader.info.num_frames) == (86, 86, 50)
        assert float(reader.info.duration) == pytest.approx(2.2, abs=0.01)
