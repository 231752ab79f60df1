import errno
import os
from dataclasses import replace

import numpy as np
import pytest
import support.search  # noqa: F401  skips all where the extra is missing

from wt_jax.errors import SearchError
from wt_jax.search import store as store_module
from wt_jax.search.store import Failure, VideoEntry, create_store, open_store

DIM = 6


def entry(name: str, **more) -> VideoEntry:
    return VideoEntry(f"/videos/{name}", "10:20", f"hash of {name}", 3.0, **more)


def moments(seed: int, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    features = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return features, np.stack([np.arange(count), np.arange(count) + 1], axis=1).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    create_store(tmp_path / "index", DIM, {"fingerprint": "f", "roots": []})
    return tmp_path / "index"


def test_what_is_added_is_there_after_opening_anew(folder):
    features, times = moments(0)
    with open_store(folder) as store:
        store.add([(entry("a.mp4", label="jump", columns={"person": "eva"}), features, times)])
        store.fail([Failure("/videos/b.mp4", "1:2", "damaged")])
    with open_store(folder) as store:
        found = store.snapshot()
    (video,) = found.videos.values()
    assert (video.path, video.label, dict(video.columns)) == ("/videos/a.mp4", "jump", {"person": "eva"})
    assert np.array_equal(found.features[found.rows], features)
    assert np.array_equal(found.times, times)
    assert [(f.path, f.reason) for f in found.failures] == [("/videos/b.mp4", "damaged")]


def test_rows_of_a_killed_process_are_written_over(folder):
    with open_store(folder) as store:
        store.add([(entry("a.mp4"), *moments(0))])
        with (folder / "features-0.f32").open("ab") as file:
            file.write(b"half a batch")
        store.add([(entry("b.mp4"), *moments(1))])
        found = store.snapshot()
    assert np.array_equal(found.features[found.rows], np.concatenate([moments(0)[0], moments(1)[0]]))
    assert (folder / "features-0.f32").stat().st_size == 6 * DIM * 4


def test_a_commit_that_fails_leaves_what_was_there(folder, monkeypatch):
    with open_store(folder) as store:
        store.add([(entry("a.mp4"), *moments(0))])

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(store_module, "_append", full)
            with pytest.raises(SearchError, match=r"the disk is full; make room.*the same command goes on"):
                store.add([(entry("b.mp4"), *moments(1))])
        assert [video.path for video in store.videos()] == ["/videos/a.mp4"]
        store.add([(entry("b.mp4"), *moments(1))])
        assert store.num_moments() == 6


def test_a_video_that_is_added_again_replaces_its_moments(folder):
    with open_store(folder) as store:
        store.add([(entry("a.mp4"), *moments(0))])
        store.add([(entry("a.mp4"), *moments(1, count=2))])
        found = store.snapshot()
    assert len(found.videos) == 1
    assert np.array_equal(found.features[found.rows], moments(1, count=2)[0])


def test_names_may_hold_any_bytes(folder):
    path = os.fsdecode(b"/videos/\xff\xfe <b>.mp4")
    with open_store(folder) as store:
        store.add([(VideoEntry(path, "1:1", "c", 1.0), *moments(0))])
        store.fail([Failure(path + "x", "1:1", "damaged")])
        assert store.videos()[0].path == path
        assert store.failures()[0].path == path + "x"


def test_compacting_drops_dead_rows_and_keeps_the_live_ones(folder):
    with open_store(folder) as store:
        store.add([(entry("dead.mp4"), *moments(0, count=2000)), (entry("a.mp4"), *moments(1))])
        reader = store.snapshot()
        dead = next(video.id for video in store.videos() if video.path.endswith("dead.mp4"))
        store.delete([dead])
        assert store.compact()
        assert not store.compact()
        found = store.snapshot()
    assert found.rows.tolist() == [0, 1, 2]
    assert np.array_equal(found.features[found.rows], moments(1)[0])
    assert np.array_equal(reader.features[reader.rows[-3:]], moments(1)[0])  # an older snapshot reads on
    with open_store(folder) as store:
        assert store.num_rows() == 3


def test_two_writers_are_refused(folder):
    refused = pytest.raises(SearchError, match="another process is writing this index")
    with open_store(folder) as one, open_store(folder) as two, one.lock(), refused, two.lock():
        pass


def test_a_truncated_file_of_features_is_named(folder):
    with open_store(folder) as store:
        store.add([(entry("a.mp4"), *moments(0))])
    os.truncate(folder / "features-0.f32", 10)
    with pytest.raises(SearchError, match="shorter than the index says"):
        open_store(folder)


def test_moved_videos_keep_their_moments(folder):
    with open_store(folder) as store:
        store.add([(entry("a.mp4"), *moments(0)), (entry("b.mp4"), *moments(1))])
        a, b = store.videos()
        # They have changed places.
        store.update([replace(a, path=b.path), replace(b, path=a.path)])
        assert [video.path for video in store.videos()] == ["/videos/b.mp4", "/videos/a.mp4"]
        assert store.num_moments() == 6


def test_no_index_is_named(tmp_path):
    with pytest.raises(SearchError, match="holds no index; make one"):
        open_store(tmp_path)
