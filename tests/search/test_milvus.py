from dataclasses import replace

import numpy as np
import pytest
from support.search import queries, snapshot

pytest.importorskip("pymilvus", reason="the extra `milvus` is not installed")
pytest.importorskip("milvus_lite", reason="the extra `milvus` is not installed")
pytest.importorskip("pyarrow", reason="the extra `milvus` is not installed")

import pyarrow.parquet as pq

from wt_jax.errors import SearchError
from wt_jax.search.milvus import MilvusIndex, freeze_center
from wt_jax.search.parquet import PART_OFFSET, write_parquet
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


def test_another_indexs_center_is_taken_but_never_mixed(tmp_path):
    for name, value in (("one", 2), ("two", 9)):
        create_store(tmp_path / name, 6, {"fingerprint": "f", "roots": []})
        with open_store(tmp_path / name) as store:
            entry = VideoEntry("/v/a.mp4", "1:1", "a", 1.0)
            store.add([(entry, np.full((1, 6), value, np.float32), np.zeros((1, 2), np.float32))])
    with open_store(tmp_path / "one") as one, open_store(tmp_path / "two") as two:
        with pytest.raises(SearchError, match="one has not kept its center yet"):
            freeze_center(two, one)
        freeze_center(one)
        freeze_center(two, one)
        assert center_of(two.snapshot()).tolist() == [2.0] * 6
        two.set_setting("center", [9.0] * 6)
        with pytest.raises(SearchError, match="another center already"):
            freeze_center(two, one)


def test_parquet_files_hold_what_is_sent_to_the_server(tmp_path):
    scan = frozen(300)
    files = write_parquet(scan, tmp_path, part=2)
    assert sorted(path.name[:2] for path in files) == ["a-", "b-"]  # one per folder
    rows = {row["moment"]: row for path in files for row in pq.read_table(path).to_pylist()}
    assert sorted(rows) == (scan.snapshot.rows + 2 * PART_OFFSET).tolist()
    index = MilvusIndex(str(tmp_path / "moments.db"), "moments", "fingerprint")
    try:
        index.fill(scan)
        sent = index._client.query(index._name, filter="", output_fields=["*"], limit=300)
    finally:
        index.close()
    for row in sent:
        found = rows[row["moment"] + 2 * PART_OFFSET]
        np.testing.assert_allclose(found["feature"], row["feature"], atol=1e-6)
        assert (found["video"] - 2 * PART_OFFSET, found["label"]) == (row["video"], row["label"])
    assert len(sent) == 300


def test_parquet_files_that_are_there_are_left_and_changed_content_has_another_name(tmp_path):
    scan = frozen(300)
    first = write_parquet(scan, tmp_path)
    first[0].write_bytes(b"as it was")
    assert write_parquet(scan, tmp_path) == first
    assert first[0].read_bytes() == b"as it was"
    videos = dict(scan.snapshot.videos)
    videos[1] = replace(videos[1], label="another")  # of the folder b
    changed = write_parquet(Scan(replace(scan.snapshot, videos=videos)), tmp_path)
    assert len(set(changed) - set(first)) == 1
    with pytest.raises(SearchError, match="may still move"):
        write_parquet(Scan(snapshot(100)), tmp_path)


def test_a_packed_shard_has_a_file_of_its_own(tmp_path):
    scan = frozen(40)
    videos = {i: replace(v, path=f"/v/part-{i % 2}.array_record#{i}") for i, v in scan.snapshot.videos.items()}
    files = write_parquet(Scan(replace(scan.snapshot, videos=videos)), tmp_path)
    assert sorted(path.name.rpartition("-")[0] for path in files) == ["part-0_array_record", "part-1_array_record"]


def test_the_command_writes_parquet_files(index, tmp_path, capsys):
    import shutil

    from wt_jax.tools import search_index

    shutil.copytree(index, tmp_path / "index")
    search_index.main([f"--index={tmp_path / 'index'}", f"--parquet={tmp_path / 'files'}", "--part=1/2"])
    assert "3 Parquet files" in capsys.readouterr().out
    assert sum(pq.read_metadata(path).num_rows for path in (tmp_path / "files").iterdir()) == 12 * 7
