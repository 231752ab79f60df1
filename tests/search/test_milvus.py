from dataclasses import replace

import numpy as np
import pytest
from support.search import queries, snapshot

pytest.importorskip("pymilvus", reason="the extra `milvus` is not installed")
pytest.importorskip("milvus_lite", reason="the extra `milvus` is not installed")

from wt_jax.errors import SearchError
from wt_jax.search.milvus import MilvusIndex, freeze_center
from wt_jax.search.scan import Scan, center_of
from wt_jax.search.store import VideoEntry, create_store, open_store


def frozen(count: int) -> Scan:
    shot = snapshot(count)
    return Scan(replace(shot, settings={"center": shot.features.mean(axis=0).tolist()}))


@pytest.fixture(scope="module")
def scan() -> Scan:
    return frozen(1500)


@pytest.fixture(scope="module")
def milvus(scan, tmp_path_factory):
    index = MilvusIndex(str(tmp_path_factory.mktemp("milvus") / "moments.db"), "moments", "fingerprint")
    assert index.fill(scan) == 1500
    yield index
    index.close()


def test_it_answers_as_the_scan_in_memory(milvus, scan):
    for query in queries(10):
        hits, wanted = milvus.search(scan, query, 10), scan.search(query, 10)
        assert hits.places.tolist() == wanted.places.tolist()
        np.testing.assert_allclose(hits.scores, wanted.scores, atol=1e-5)


def test_filters_are_its_own(milvus, scan):
    query = queries(1)[0]
    hits = milvus.search(scan, query, 5, videos=[3, 4, 5])
    assert hits.places.tolist() == scan.search(query, 5, np.isin(scan.snapshot.video_ids, [3, 4, 5])).places.tolist()
    hits = milvus.search(scan, query, 5, label="class2")
    assert {scan.snapshot.videos[v].label for v in scan.snapshot.video_ids[hits.places].tolist()} == {"class2"}
    assert not len(milvus.search(scan, query, 5, label='x" or label == "class2').places)


def test_only_what_is_new_is_sent(milvus, scan):
    assert milvus.fill(scan) == 0


def test_features_of_a_center_that_moves_are_not_sent(milvus):
    with pytest.raises(SearchError, match="may still move"):
        milvus.fill(Scan(snapshot(100)))


def test_what_is_gone_is_deleted(tmp_path):
    large, small = frozen(300), frozen(200)
    index = MilvusIndex(str(tmp_path / "moments.db"), "moments", "fingerprint")
    try:
        index.fill(large)
        assert index.fill(small) == 0
        assert len(index.search(small, queries(1)[0], 200).places) == 200
    finally:
        index.close()


def test_the_center_is_kept_in_the_index(tmp_path):
    create_store(tmp_path, 6, {"fingerprint": "f", "roots": []})
    with open_store(tmp_path) as store:
        store.add([(VideoEntry("/v/a.mp4", "1:1", "a", 1.0), np.full((1, 6), 2, np.float32), np.zeros((1, 2), np.float32))])
        freeze_center(store)
        store.add([(VideoEntry("/v/b.mp4", "1:1", "b", 1.0), np.full((1, 6), 9, np.float32), np.zeros((1, 2), np.float32))])
        freeze_center(store)
        assert center_of(store.snapshot()).tolist() == [2.0] * 6
