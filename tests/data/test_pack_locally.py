"""Packing on one machine: by videos, resumable, one pack for all runs that name it."""

import json
import logging
import threading
from pathlib import Path

import pytest
from support.training import small_config
from support.video_files import write_video

from wt_jax import progress
from wt_jax.data import pack_locally, packing
from wt_jax.data.pack_locally import make_pack, open_pack, pack, short_side_for
from wt_jax.data.packing import PackSettings, plan_shards
from wt_jax.data.sources.index import rows_of
from wt_jax.data.sources.open import open_source
from wt_jax.data.video.decode import probe
from wt_jax.data.video.reader import read_record, unpack_record
from wt_jax.errors import ConfigError, SourceError
from wt_jax.specs import AudioView, Choice, ClipView
from wt_jax.train.videos import open_videos


@pytest.fixture
def videos(tmp_path):
    """Six videos of 64 x 48 pixels in two classes."""
    for index in range(6):
        path = tmp_path / "videos" / "ab"[index % 2] / f"{index}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, 8 + index, height=48, width=64)
    return open_source(str(tmp_path / "videos"))


@pytest.fixture
def encoded(monkeypatch):
    """Numbers of frames of the clips that were encoded; an entry "stop" set to n interrupts the n-th."""
    plain, counts = packing.encode_clip, []

    def encode(frames, times, *rest):
        if len(counts) + 1 == encode.stop:
            raise KeyboardInterrupt
        counts.append(len(times))
        return plain(frames, times, *rest)

    encode.stop = 0
    monkeypatch.setattr(packing, "encode_clip", encode)
    return encode, counts


def sizes(folder):
    return [
        min(unpack_record(read_record(path))[0][side] for side in ("width", "height")) for path in open_source(folder).paths
    ]


def test_the_shorter_side_is_that_of_the_field():
    assert short_side_for([ClipView(size=224), ClipView(size=96)]) == 256
    assert short_side_for([Choice((ClipView(size=112), ClipView(size=112, reverse=True)))]) == 128
    assert short_side_for([ClipView(size=64)]) == 74
    assert short_side_for([ClipView(size=1)]) >= PackSettings(short_side=16).short_side
    with pytest.raises(ValueError, match="AudioView reads something else"):
        short_side_for([ClipView(), AudioView()])


def test_a_call_that_was_stopped_loses_only_the_video_under_way(videos, tmp_path, encoded):
    encode, counts = encoded
    out = str(tmp_path / "out")
    shards = plan_shards(rows_of(videos), out, PackSettings(per_shard=4))
    encode.stop = 4
    with pytest.raises(KeyboardInterrupt):
        pack(shards, out)
    assert not list(Path(out).glob("clips*"))  # three of four videos are no shard
    encode.stop = 0
    rows = pack(shards, out)
    assert len(counts) == 6
    assert [row["path"] for row in rows] == [
        *(f"clips-00000-of-00002.array_record#{i}" for i in range(4)),
        *(f"clips-00001-of-00002.array_record#{i}" for i in range(2)),
    ]
    assert [row["frames"] for row in rows] == [probe(path).num_frames for path in videos.paths]
    assert not list(Path(out).glob(".*"))


def test_parts_that_only_wait_to_be_joined_are_not_packed_again(videos, tmp_path, encoded, monkeypatch):
    counts, out = encoded[1], str(tmp_path / "out")
    shards = plan_shards(rows_of(videos), out, PackSettings())

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pack_locally, "_join", killed)
        with pytest.raises(KeyboardInterrupt):
            pack(shards, out)
    assert len(pack(shards, out)) == len(counts) == 6


def test_progress_counts_videos(videos, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    out = str(tmp_path / "out")
    with caplog.at_level(logging.INFO, "wt_jax"):
        pack(plan_shards(rows_of(videos), out, PackSettings(per_shard=4)), out)
    lines = [line for line in caplog.messages if line.startswith("packed")]
    assert [line.partition("  ")[0] for line in lines] == [f"packed: {i} of 6 ({i / 6:.0%})" for i in range(1, 7)]


def test_two_calls_at_once_pack_once(videos, tmp_path, encoded):
    out = str(tmp_path / "out")
    shards = plan_shards(rows_of(videos), out, PackSettings(per_shard=4))
    calls = [threading.Thread(target=pack, args=(shards, out)) for _ in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert len(encoded[1]) == 6
    assert len(open_source(out)) == 6


def test_a_pack_serves_later_runs_with_clips_as_large(videos, tmp_path, encoded):
    out = str(tmp_path / "out")
    make_pack(videos, out, 32, 0)
    packed = open_pack(videos, out, 0.0)
    assert sizes(out) == [32] * 6
    assert packed.labels.tolist() == videos.labels.tolist()
    make_pack(videos, out, 24, 0)
    assert len(encoded[1]) == 6
    with pytest.raises(SourceError, match=r"shorter side of 32 pixels, these clips need 40; name another folder"):
        make_pack(videos, out, 40, 0)
    with pytest.raises(SourceError, match="holds a pack of other videos"):
        make_pack(videos.select(range(5)), out, 32, 0)


def test_what_is_begun_is_finished_as_it_was_begun(videos, tmp_path, encoded):
    encode, _ = encoded
    encode.stop, out = 4, str(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        make_pack(videos, out, 32, 0)
    encode.stop = 0
    make_pack(videos, out, 24, 0)
    assert sizes(out) == [32] * 6


def test_lists_that_are_not_packed(videos, tmp_path):
    folder = tmp_path / "videos"
    with pytest.raises(SourceError, match="does not pack a mixture"):
        make_pack(open_source(f"mix:1*{folder},2*{folder}"), str(tmp_path / "out"), 32, 0)
    (tmp_path / "moments.csv").write_text(f"path,time\n{videos.paths[0]},0.1\n{videos.paths[0]},0.2\n")
    with pytest.raises(SourceError, match="does not pack a list of moments"):
        make_pack(open_source(str(tmp_path / "moments.csv")), str(tmp_path / "out"), 32, 0)


def test_too_many_broken_videos_are_named(videos, tmp_path):
    (tmp_path / "videos" / "a" / "text.mp4").write_text("no video")
    listed, out = open_source(str(tmp_path / "videos")), str(tmp_path / "out")
    make_pack(listed, out, 32, 0)
    assert len(open_pack(listed, out, 0.2)) == 6
    with pytest.raises(SourceError, match=r"1 of 7 videos cannot be packed, the first: .*text\.mp4 .*max_bad_fraction is 0\.1"):
        open_pack(listed, out, 0.1)


def test_a_run_reads_both_lists_from_their_packs(videos, tmp_path):
    folder = str(tmp_path / "videos")
    config = small_config(data__train=folder, data__test=folder, data__pack=str(tmp_path / "packs"))
    for part in ("train", "test"):
        found = open_videos(config, part)
        assert [Path(path).parent for path in found.paths] == [tmp_path / "packs" / part] * 6
        assert found.classes == ("a", "b")
        assert sizes(str(tmp_path / "packs" / part)) == [20] * 6
        assert json.loads((tmp_path / "packs" / part / "pack.json").read_text())["short_side"] == 20
    assert open_videos(small_config(data__train=folder), "train").paths == videos.paths


def test_methods_that_hear_cannot_train_from_a_pack(videos, tmp_path):
    config = small_config("video_speech", data__train=str(tmp_path / "videos"), data__pack=str(tmp_path / "packs"))
    with pytest.raises(ConfigError, match=r"config\.data\.pack: a pack keeps pictures alone"):
        open_videos(config, "train")
