"""Tar shards of WebDataset as a source."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from support.video_files import write_video

from wt_jax.data.pack_locally import make_pack, open_pack
from wt_jax.data.sources.open import open_source
from wt_jax.data.video.reader import file_of, find_video, open_video
from wt_jax.errors import SourceError, VideoError


@pytest.fixture
def contents(tmp_path):
    """Two video files of 9 and 12 frames."""
    return [Path(write_video(tmp_path / f"source{frames}.mp4", frames)).read_bytes() for frames in (9, 12)]


def write_shard(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_shards_are_a_source_with_random_access(contents, tmp_path):
    first, second = contents
    members = {"a/0.mp4": first, "a/0.cls": b"2\n", "a/0.json": b"{}", "a/1.cls": b"0", "a/1.mp4": second}
    write_shard(tmp_path / "set" / "000.tar", members)
    long = "x" * 120  # its member has two headers
    write_shard(tmp_path / "set" / "001.tar", {f"{long}.mp4": second, f"{long}.cls": b"1"})
    videos = open_source(str(tmp_path / "set"))
    assert videos.labels.tolist() == [2, 0, 1]
    assert videos.classes == ("0", "1", "2")
    for path, content, frames in zip(videos.paths, (first, second, second), (9, 12, 12), strict=True):
        with open_video(path) as reader:
            assert reader.info.num_frames == frames
        assert find_video(path).source == content
        assert file_of(path).endswith(".tar")
    same = np.stack(list(find_video(videos.paths[0]).read_all()))
    np.testing.assert_array_equal(same, np.stack(list(find_video(str(tmp_path / "source9.mp4")).read_all())))


def test_one_shard_without_classes_can_be_packed(contents, tmp_path):
    shard = write_shard(tmp_path / "set" / "one.tar", {"0.mp4": contents[0], "1.MP4": contents[1], "notes.txt": b"-"})
    videos = open_source(str(shard))
    assert videos.labels.tolist() == [-1, -1]
    assert videos.classes == ()
    make_pack(videos, str(tmp_path / "packed"), 16, 0)
    assert len(open_pack(videos, str(tmp_path / "packed"), 0.0)) == 2


def test_faults_are_named(contents, tmp_path):
    video = contents[0]
    shard = write_shard(tmp_path / "some.tar", {"0.mp4": video, "0.cls": b"1", "1.mp4": video})
    with pytest.raises(SourceError, match=r"1 of 2 videos have a class"):
        open_source(str(shard))
    for name, members, mode, message in (
        ("text.tar", {"a.txt": b"-"}, "w", "no video in it"),
        ("word.tar", {"0.mp4": video, "0.cls": b"run"}, "w", r"0\.cls holds no integer"),
        ("gz.tar", {"0.mp4": video}, "w:gz", "a compressed one has no random access"),
    ):
        with pytest.raises(SourceError, match=message):
            open_source(str(write_shard(tmp_path / name, members, mode)))
    (name,) = open_source(str(write_shard(tmp_path / "cut.tar", {"0.mp4": video}))).paths
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[:1000])
    with pytest.raises(VideoError, match="it ends within the video"):
        find_video(name)


def test_tar_files_beside_videos_are_left_out(contents, tmp_path):
    write_shard(tmp_path / "set" / "0.tar", {"0.mp4": contents[0]})
    (tmp_path / "set" / "1.mp4").write_bytes(contents[1])
    assert [path.rpartition("/")[2] for path in open_source(str(tmp_path / "set")).paths] == ["1.mp4"]
