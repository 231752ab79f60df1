"""The odd videos of the docstring of `wt_jax.data.video.decode`, each as a real file, down to the clips of training."""

import os
import shutil
import tempfile
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from support.video_files import frame_numbers, remux, write_audio, write_video

from wt_jax.data.pipeline import train_batches
from wt_jax.data.records import VideoList
from wt_jax.data.video.decode import check, decode, open_reader, probe
from wt_jax.errors import VideoError
from wt_jax.specs import ClipView

VIEWS = {"a": ClipView("a", num_frames=8, stride=2, size=16), "b": ClipView("b", num_frames=8, size=16, crop="center")}


def batch_of(*paths, step=0):
    videos = VideoList(tuple(map(str, paths)), np.full(len(paths), -1, np.int32))
    return next(train_batches(videos, VIEWS, seed=0, batch_size=len(paths), start_step=step, num_steps=1, threads=0))


@pytest.mark.parametrize(("height", "width"), [(31, 47), (2, 90), (90, 2), (33, 32)])
def test_odd_sizes(tmp_path, height, width):
    path = write_video(tmp_path / "a.mov", 12, codec="png", height=height, width=width)
    assert decode(path, [3, 9]).shape == (2, height, width, 3)
    assert frame_numbers(decode(path, [3, 9])) == [3, 9]
    batch = batch_of(path)
    assert batch["failed"].tolist() == [-1]
    assert frame_numbers(batch["b"]) == list(range(frame_numbers(batch["b"])[0], frame_numbers(batch["b"])[0] + 8))


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options"),
    [
        ("ten_bit.mkv", "libx264", "yuv420p10le", {}),
        ("ten_bit.mp4", "libx265", "yuv420p10le", {"x265-params": "keyint=8:log-level=none"}),
        ("full_chroma.mp4", "libx264", "yuv444p", {}),
        ("gray.mkv", "ffv1", "gray", {}),
        ("alpha.mov", "png", "rgba", {}),
        ("alpha.mkv", "ffv1", "yuva420p", {}),
        ("interlaced.mp4", "libx264", "yuv420p", {"x264-params": "interlaced=1"}),
    ],
)
def test_pixels_become_8_bit_rgb(tmp_path, name, codec, pixels, options):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    path = write_video(tmp_path / name, 20, codec=codec, pixels=pixels, height=64, width=96, options=options)
    with av.open(path) as container:
        frame = next(container.decode(video=0))
        assert frame.format.name == pixels
        assert frame.interlaced_frame == (name == "interlaced.mp4")
    assert check(path).num_frames == 20
    frames = decode(path, [19, 0, 7])
    assert frames.dtype == np.uint8
    assert frame_numbers(frames) == [19, 0, 7]


def test_rows_of_an_interlaced_video_stay_where_they_are(tmp_path):
    """Both fields are shown as stored: alternating black and white rows survive, blending would make them gray."""
    comb = np.zeros((64, 96, 3), np.uint8)
    comb[::2] = 255
    path = str(tmp_path / "comb.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"x264-params": "interlaced=1", "qp": "1"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv444p"
        for place in range(4):
            frame = av.VideoFrame.from_ndarray(comb, format="rgb24")
            frame.pts = place
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    picture = decode(path, [2])[0]
    assert picture[::2].min() > 240
    assert picture[1::2].max() < 15


def test_one_frame_and_fewer_than_a_clip_are_looped(tmp_path):
    one, five = write_video(tmp_path / "one.mp4", 1), write_video(tmp_path / "five.mp4", 5)
    assert probe(one).num_frames == 1
    assert probe(one).duration > 0
    assert frame_numbers(batch_of(one)["a"]) == [0] * 8
    assert frame_numbers(batch_of(five)["a"]) == [0, 2, 4, 1, 3, 0, 2, 4]


def test_the_content_tells_the_format_and_not_the_name(tmp_path):
    source = Path(write_video(tmp_path / "a.mkv", 10))
    wrong = source.rename(tmp_path / "a.avi")
    assert frame_numbers(decode(str(wrong), [9, 4])) == [9, 4]


@pytest.mark.parametrize("name", ["ラーメン 🎬.mp4", "a b'c\".mp4", "100%d.mp4", "what?#x=1&y.mp4", "new\nline.mp4", "-f.mp4"])
def test_names_of_all_kinds(tmp_path, name):
    path = Path(write_video(tmp_path / "a.mp4", 6)).rename(tmp_path / name)
    assert frame_numbers(decode(str(path), [5])) == [5]


def test_a_name_that_is_no_text(tmp_path):
    try:
        path = shutil.copy(write_video(tmp_path / "a.mp4", 6), os.fsencode(tmp_path) + b"/\xff\xfe.mp4")
    except OSError:
        pytest.skip("this file system takes no such name")
    assert frame_numbers(decode(os.fsdecode(path), [5])) == [5]
    with pytest.raises(VideoError, match=r"a.b.mp4: .*embedded null"):
        probe("a\0b.mp4")


def test_what_may_not_be_read_is_named():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = write_video(Path(folder, "a.mp4"), 4)
        os.chmod(path, 0)
        root = os.geteuid() == 0
        if root:  # For root nothing is forbidden: be somebody else.
            os.seteuid(65534)
        try:
            with pytest.raises(VideoError, match=r"a\.mp4: Permission denied"):
                probe(path)
        finally:
            if root:
                os.seteuid(0)


@pytest.mark.parametrize("atomic", [True, False])
def test_a_file_replaced_between_two_readings_is_looked_at_anew(tmp_path, atomic):
    path = write_video(tmp_path / "a.mp4", 40)
    assert max(frame_numbers(batch_of(path)["a"])) > 10
    other = write_video(tmp_path / "b.mp4", 9)
    if atomic:
        os.replace(other, path)
    else:
        shutil.copy(other, path)
    for step in range(3):
        batch = batch_of(path, step=step)
        assert batch["failed"].tolist() == [-1]
        assert max(frame_numbers(batch["a"])) < 9


def test_a_file_replaced_while_it_is_open_is_read_to_its_end(tmp_path):
    path, other = write_video(tmp_path / "a.mp4", 40), write_video(tmp_path / "b.mp4", 9)
    probe(path)
    with open_reader(path) as reader:
        os.replace(other, path)
        assert [index for index, _ in reader.frames(np.arange(30, 40))] == list(range(30, 40))
    assert probe(path).num_frames == 9


def test_bad_videos_among_good_ones(tmp_path):
    """Audio only, a cover picture, cut off before its index, zero bytes, a folder: each is named, and none stops the rest."""
    good = [write_video(tmp_path / f"good{place}.mp4", 20 + place) for place in range(3)]
    whole = Path(good[0]).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    write_audio(tmp_path / "audio.mp4")
    causes = {
        "cut": "Invalid data",
        "empty": "Invalid data",
        "folder": "Is a directory|Invalid data",
        "audio": "no video stream",
    }
    bad = [str(tmp_path / f"{name}.mp4") for name in causes]
    for path, cause in zip(bad, causes.values(), strict=True):
        with pytest.raises(VideoError, match=cause) as caught:
            probe(path)
        assert str(caught.value).startswith(path)
    batch = batch_of(*good, *bad)
    assert sorted(batch["failed"].tolist()) == [-1, -1, -1, 3, 4, 5, 6]
    assert set(batch["video"].tolist()) <= {0, 1, 2}


def test_a_truncated_file_gives_clips_of_what_is_left(tmp_path):
    path = Path(remux(Path(write_video(tmp_path / "a.mp4", 80)), tmp_path / "cut.mp4", options={"movflags": "faststart"}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    left = check(str(path)).num_frames
    assert 30 < left < 80
    batch = batch_of(path)
    assert batch["failed"].tolist() == [-1]
    assert max(frame_numbers(batch["a"])) < left


def test_pictures_left_out_do_not_change_those_that_are_read(tmp_path, shared_data):
    """Against a plain pass that decodes everything, on B-frames that are referred to, open and long groups, and real clips."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3)).astype(np.uint8)
    noise = np.stack([cv2.GaussianBlur(picture, (0, 0), 3) for picture in noise])
    paths = [str(shared_data / "clips" / name) for name in ("bikes.mp4", "carphone_pristine.mp4")]
    for number, options in enumerate(
        ({"bf": "8", "b_strategy": "0"}, {"x264-params": "b-pyramid=2:bframes=3:open-gop=1:keyint=12"})
    ):
        paths.append(str(tmp_path / f"{number}.mp4"))
        with av.open(paths[-1], "w") as container:
            stream = container.add_stream("libx264", rate=25, options=options)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for place, picture in enumerate(noise):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = place
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    for path in paths:
        with av.open(path) as container:
            plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        rng = np.random.default_rng(1)
        for _ in range(6):
            some = np.sort(rng.choice(len(plain), 5, replace=False))
            for place, picture in zip(some, decode(path, some), strict=True):
                np.testing.assert_array_equal(picture, plain[place], err_msg=f"{path}, frame {place}")
