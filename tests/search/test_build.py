import json
import os
import shutil

import numpy as np
import pytest
from support.search import write_small_encoder, write_video

from wt_jax.search.engine import Engine
from wt_jax.search.store import open_store
from wt_jax.tools import search_index, search_query


def run_index(source, index, *more):
    search_index.main([str(source), f"--index={index}", "--workers=0", *map(str, more)])


def features_by_path(index) -> dict[str, np.ndarray]:
    with open_store(index) as store:
        found = store.snapshot()
    return {v.path: np.array(found.features[found.rows[found.video_ids == v.id]]) for v in found.videos.values()}


@pytest.fixture
def small(tmp_path, encoder_file):
    """Four videos, and their index."""
    for number in range(4):
        write_video(tmp_path / "videos" / f"{number}.mp4", number, seconds=2)
    run_index(tmp_path / "videos", tmp_path / "index", f"--encoder={encoder_file}")
    return tmp_path


def test_an_archive_is_indexed(index, archive, capsys):
    with open_store(index) as store:
        found = store.snapshot()
    assert len(found.videos) == 12
    assert {video.label for video in found.videos.values()} == {"a", "b", "c"}
    assert {video.duration for video in found.videos.values()} == {4.0}
    assert len(found.rows) == 12 * 7  # a second long, every half second
    assert found.times[:7].tolist() == [[s / 2, s / 2 + 1] for s in range(7)]
    run_index(archive, index)
    assert "nothing new; 12 unchanged; 0 could not be indexed" in capsys.readouterr().out


def test_the_worker_processes_of_the_loader_give_the_same(archive, index, encoder_file, tmp_path):
    run_index(archive, tmp_path / "index", f"--encoder={encoder_file}", "--workers=1")
    wanted = features_by_path(index)
    for path, features in features_by_path(tmp_path / "index").items():
        np.testing.assert_allclose(features, wanted[path], atol=1e-5)


def test_a_long_video_is_read_in_pieces(tmp_path, encoder_file, monkeypatch):
    from wt_jax.search import build

    write_video(tmp_path / "videos" / "long.mp4", 0, seconds=8)
    write_video(tmp_path / "videos" / "short.mp4", 1, seconds=1)
    run_index(tmp_path / "videos", tmp_path / "whole", f"--encoder={encoder_file}")
    monkeypatch.setattr(build, "_PIECE_BYTES", 1)  # four moments
    run_index(tmp_path / "videos", tmp_path / "pieces", f"--encoder={encoder_file}")
    wanted = features_by_path(tmp_path / "whole")
    for path, features in features_by_path(tmp_path / "pieces").items():
        np.testing.assert_allclose(features, wanted[path], atol=1e-5)


def test_every_moment_finds_itself_and_its_video(index):
    engine = Engine(index)
    scan = engine.scan
    for place in range(0, len(scan), 5):
        assert engine.search(scan, scan.unit(np.array([place]))).results[0].moment == scan.snapshot.rows[place]


def test_only_what_changed_is_read(small, capsys, monkeypatch):
    videos, index = small / "videos", small / "index"
    before = features_by_path(index)
    write_video(videos / "0.mp4", 10, seconds=2)  # changed
    os.utime(videos / "0.mp4", ns=(1, 1))
    (videos / "1.mp4").rename(videos / "moved.mp4")
    (videos / "2.mp4").unlink()
    write_video(videos / "new.mp4", 11, seconds=2)
    from wt_jax.search import build

    read, real = [], build.read_segments
    monkeypatch.setattr(build, "read_segments", lambda work, *rest: read.extend(work) or real(work, *rest))
    capsys.readouterr()
    run_index(videos, index)
    assert "1 added, 1 changed, 1 moved, 1 deleted; 1 unchanged" in capsys.readouterr().out
    assert sorted(os.path.basename(path) for path, _ in read) == ["0.mp4", "new.mp4"]
    after = features_by_path(index)
    assert sorted(map(os.path.basename, after)) == ["0.mp4", "3.mp4", "moved.mp4", "new.mp4"]
    assert np.array_equal(after[str(videos / "moved.mp4")], before[str(videos / "1.mp4")])
    assert not np.allclose(after[str(videos / "0.mp4")], before[str(videos / "0.mp4")])


def test_a_file_that_moved_onto_another_is_recognized(small):
    videos, index = small / "videos", small / "index"
    before = features_by_path(index)
    (videos / "1.mp4").replace(videos / "0.mp4")
    run_index(videos, index)
    after = features_by_path(index)
    assert sorted(map(os.path.basename, after)) == ["0.mp4", "2.mp4", "3.mp4"]
    assert np.array_equal(after[str(videos / "0.mp4")], before[str(videos / "1.mp4")])


def test_an_unreadable_video_is_named_kept_and_tried_again_once_it_changes(small, capsys):
    videos, index = small / "videos", small / "index"
    (videos / "bad.mp4").write_bytes(b"no video at all" * 100)
    run_index(videos, index)
    printed = capsys.readouterr()
    assert "bad.mp4" in printed.out
    assert "not indexed" in printed.err  # the log
    with open_store(index) as store:
        (failure,) = store.failures()
        assert failure.path.endswith("bad.mp4")
    write_video(videos / "bad.mp4", 5, seconds=2)
    run_index(videos, index)
    with open_store(index) as store:
        assert not store.failures()
        assert store.num_videos() == 5
    (videos / "bad.mp4").write_bytes(b"broken now")  # what was indexed must not be found any more
    run_index(videos, index)
    with open_store(index) as store:
        assert store.num_videos() == 4


def test_a_file_that_changes_while_it_is_read_is_not_kept(small, monkeypatch):
    from wt_jax.search import clips

    real, calls = clips.state_of, []
    write_video(small / "videos" / "new.mp4", 9, seconds=2)

    def changing(path):
        calls.append(path)
        return real(path) + ("" if calls.count(path) < 2 or not path.endswith("new.mp4") else "1")

    monkeypatch.setattr(clips, "state_of", changing)
    run_index(small / "videos", small / "index")
    with open_store(small / "index") as store:
        (failure,) = store.failures()
        assert "changed while it was read" in failure.reason
    monkeypatch.undo()
    run_index(small / "videos", small / "index")
    with open_store(small / "index") as store:
        assert store.num_videos() == 5


def test_another_encoder_is_refused(small, capsys):
    write_small_encoder(small / "other.wtx", seed=1)
    with pytest.raises(SystemExit):
        run_index(small / "videos", small / "index", f"--encoder={small / 'other.wtx'}")
    assert "was made by another encoder (the hash of its weights is" in capsys.readouterr().err
    shutil.copyfile(small / "other.wtx", small / "index" / "encoder.wtx")
    with pytest.raises(SystemExit):
        search_query.main([str(small / "videos" / "0.mp4"), f"--index={small / 'index'}"])
    assert "is not the encoder that made the index" in capsys.readouterr().err


def test_other_settings_are_refused(small, capsys):
    with pytest.raises(SystemExit):
        run_index(small / "videos", small / "index", "--length=3")
    assert "was made with --length=1" in capsys.readouterr().err


def test_parts_join_to_the_whole(archive, index, encoder_file, tmp_path, capsys):
    for part in (1, 2, 3):
        run_index(archive, tmp_path / f"part{part}", f"--encoder={encoder_file}", f"--part={part}/3")
    parts = ",".join(str(tmp_path / f"part{part}") for part in (1, 2, 3))
    for _ in range(2):  # again changes nothing
        search_index.main([f"--index={tmp_path / 'joined'}", f"--merge={parts}", "--recall"])
    assert "R@1 " in capsys.readouterr().out
    joined, wanted = features_by_path(tmp_path / "joined"), features_by_path(index)
    assert joined.keys() == wanted.keys()
    for path in wanted:
        np.testing.assert_allclose(joined[path], wanted[path], atol=1e-5)
    write_small_encoder(tmp_path / "other.wtx", seed=1)
    run_index(archive / "a", tmp_path / "foreign", f"--encoder={tmp_path / 'other.wtx'}")
    with pytest.raises(SystemExit):
        search_index.main([f"--index={tmp_path / 'joined'}", f"--merge={tmp_path / 'foreign'}"])
    assert "differ in fingerprint" in capsys.readouterr().err


def test_the_query_command_finds_the_video(index, archive, tmp_path, capsys):
    clip, labels = archive / "b" / "04.mp4", tmp_path / "labels.json"
    order = [str(clip), f"--index={index}", "--from=1", "--to=2", "--top=3", "--json", f"--fiftyone={labels}"]
    search_query.main(order)
    answer = json.loads(capsys.readouterr().out)
    assert answer["alike"]
    best = answer["results"][0]
    assert (best["video"], best["start"], best["label"]) == (str(clip), 1.0, "b")
    assert best["score"] > 0.999
    found = json.loads(labels.read_text())["labels"][str(clip)][0]
    assert (found["label"], found["timestamps"], found["confidence"]) == ("b", [1.0, best["end"]], best["score"])
    assert len(answer["results"]) == 3
    search_query.main([f"moment:{best['moment']}", f"--index={index}", "--one_per_video", "--label=a,c", "--top=4"])
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if ".mp4" in line]) == 4
    assert all("/b/" not in line for line in lines)
    for wrong, message in (("--from=9", "leaves nothing"), ("--top=0", "--top must be 1"), ("--where=x", "COLUMN=VALUE")):
        with pytest.raises(SystemExit):
            search_query.main([str(clip), f"--index={index}", wrong])
        assert message in capsys.readouterr().err
