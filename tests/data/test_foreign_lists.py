"""Lists, indexes and folders as other programs and people write them: read, or named with what to do; nothing vanishes."""

import codecs
import logging
import os

import cv2
import numpy as np
import pytest
from support.video_files import frame_numbers, write_video

from wt_jax.data.sources.index import rows_of
from wt_jax.data.sources.open import open_source
from wt_jax.data.video.reader import find_video, open_video
from wt_jax.errors import SourceError, VideoError
from wt_jax.tools.check_videos import check_videos
from wt_jax.tools.make_lists import make_lists


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "wt_jax")
    return caplog


def opened(folder, content, name="list.csv"):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_source(str(folder / name))


def contents(videos):
    return [(os.path.basename(record.path), videos.classes[record.label]) for record in videos]


RIGHT = [("a.mp4", "0"), ("b.mp4", "1")]


@pytest.mark.parametrize("text", ["path,label\na.mp4,0\nb.mp4,1\n", "a.mp4 0\nb.mp4 1\n", "path;label\na.mp4;0\nb.mp4;1\n"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
def test_marks_encodings_and_line_ends(folder, text, ends, mark, encoding):
    assert contents(opened(folder, mark + text.replace("\n", ends).encode(encoding))) == RIGHT


@pytest.mark.parametrize(
    "text",
    [
        "path\tlabel\na.mp4\t0\nb.mp4\t1\n",
        "path, label\na.mp4, 0\nb.mp4, 1\n",
        "Path,Label\na.mp4,0\nb.mp4,1\n",
        " path ,label \na.mp4,0\nb.mp4,1\n",
        "path,label,,\na.mp4,0,,\nb.mp4,1,,\n",
        "path,label\na.mp4,0,,\nb.mp4,1,,\n",
        "sep=;\npath;label\na.mp4;0\nb.mp4;1\n",
        '"path","label"\n"a.mp4","0"\n"b.mp4","1"\n',
        "path,label\na.mp4,0.0\nb.mp4,1.0\n",
        ",path,label\n0,a.mp4,0\n1,b.mp4,1\n",
        "a 0\nb 1\n",
        "a,0\nb,1\n",
        "path,label\na,0\nb,1\n",
    ],
)
def test_tables_of_other_programs(folder, text):
    assert contents(opened(folder, text)) == RIGHT


def test_lines_end_only_at_line_ends(tmp_path):
    names = [f"a{sign}b.mp4" for sign in "\x0b\x0c\x1c\x85\u2028\u2029"]
    for name in names:
        (tmp_path / name).touch()
    videos = opened(tmp_path, "".join(f"{name}\n" for name in names))
    assert [os.path.basename(path) for path in videos.paths] == names


def test_a_latin_1_list_is_named_or_means_the_bytes_of_a_name(tmp_path):
    with pytest.raises(SourceError, match=r"b\\udce9\.mp4: no UTF-8, in which encoding is the list"):
        opened(tmp_path, "b\xe9.mp4\n".encode("latin-1"))
    with pytest.raises(SourceError, match="line 1: the label is no UTF-8"):
        opened(tmp_path, "a.mp4 caf\xe9\n".encode("latin-1"))


NAMES = [
    "a\rb.mp4",
    "a\nb.mp4",
    ' "a", b.mp4',
    "#a.mp4",
    "a\u2028b.mp4",
    "a\x0bb.mp4",
    os.fsdecode(b"\xff\xfe.mp4"),
    " a.mp4",
    "a;b\t.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_goes_to_an_index_and_back(tmp_path, name):
    (tmp_path / "videos").mkdir()
    try:
        os.rename(write_video(tmp_path / "a.mp4", 5), tmp_path / "videos" / name)
    except OSError:
        pytest.skip("this file system takes no such name")
    write_video(tmp_path / "videos" / "z.mp4", 3)
    check_videos(open_source(str(tmp_path / "videos")), tmp_path / "index.csv")
    videos = open_source(str(tmp_path / "index.csv"))
    assert videos.paths == open_source(str(tmp_path / "videos")).paths
    assert sorted(videos.columns["frames"]) == ["3", "5"]
    again = check_videos(videos, tmp_path / "again.csv")
    assert open_source(str(tmp_path / "again.csv")).paths == videos.paths
    assert [row["path"] for row in again] == list(videos.paths)


def test_every_list_logs_what_it_gave_and_what_it_left_out(folder, log):
    opened(folder, "# mine\npath,label\na.mp4,0\nb.mp4,1\na.mp4,0\n#b.mp4,1\n")
    assert "list.csv: 3 rows, 2 videos, 2 classes, 3 labels; without 2 lines that start with #" in log.text
    log.clear()
    opened(folder, "path,class\na.mp4,0\nb.mp4,1\n")
    assert "2 rows, 2 videos, 0 classes, 0 labels; without labels, as no column is called `label`" in log.text
    assert "(there are path, class)" in log.text


def test_a_folder_logs_what_it_left_out(tmp_path, log):
    for name in ("run/a.mp4", "run/.a.mp4", "bend/b.mp4", "bend/notes.txt", "bend/c.zip", "bend/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "run" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "bend" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    videos = open_source(str(tmp_path))
    assert [os.path.basename(path) for path in videos.paths] == ["b.mp4", "a.mp4"]
    assert videos.classes == ("bend", "run")
    for part in (
        "2 videos, 2 classes, 2 labels; without 2 files of the kind .txt",
        "1 files of the kind .zip",
        "1 hidden files",
        "1 links to nothing",
        "1 links that lead back to a folder above them",
    ):
        assert part in log.text
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "c.mp4").touch()
    assert open_source(str(tmp_path)).classes == ()
    assert "3 videos, no labels, as they do not lie in folders of two or more classes" in log.text


def test_sparse_labels_make_as_many_classes_as_there_are(folder, log):
    videos = opened(folder, "a.mp4 7\nb.mp4 1000000\n", "list.txt")
    assert videos.classes == ("7", "1000000")
    assert videos.labels.tolist() == [0, 1]
    assert "labels up to 1000000 for 2 classes" in log.text
    assert len(opened(folder, "a.mp4 7\nb.mp4 399\n", "list.txt").classes) == 400
    named = opened(folder, "path,label,name\na.mp4,5000,bend\nb.mp4,9000,walk\n")
    assert (named.classes, named.labels.tolist()) == (("bend", "walk"), [0, 1])
    # An index keeps the names, and so do lists that lack some of the classes.
    assert [row["name"] for row in rows_of(videos)] == ["7", "1000000"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0 -1\nb.mp4 0 -1\n", r"line 1: .*`path start label`.*CSV file with the header `path,label`"),
        ("a.mp4 0 3\nb.mp4 0 2 4\n", r"line 1: .*several labels.*one label per video"),
        ("a.mp4,0,3\n", r"line 1: .*several labels"),
        ("a.mp4 0.5\nb.mp4 1.5\n", "line 1: the label 0.5 is neither a name nor an integer"),
        ("a.mp4 99999999999\n", "label 99999999999 is no number of a class"),
        ("c 0\n", r"line 1: expected `path label` with a video .*neither .*/c nor a video of this name is there"),
        ("video,label\na.mp4,0\n", "A CSV file needs a header with a column `path`"),
    ],
)
def test_other_layouts_are_refused_with_a_remedy(folder, text, message):
    with pytest.raises(SourceError, match=message) as caught:
        opened(folder, text)
    assert "\n" not in str(caught.value)


def write_frames(folder, count=6, start=1, name="img_{:05d}.jpg"):
    folder.mkdir(parents=True)
    for index in range(count):
        cv2.imwrite(str(folder / name.format(start + index)), np.full((32, 48, 3), 10 + 3 * index, np.uint8))


def test_folders_of_frames_are_videos(tmp_path, log):
    for place, video in enumerate(("bend/x", "bend/y", "walk/z")):
        write_frames(tmp_path / video, 6 + place)
    (tmp_path / "bend" / "cover.jpg").touch()
    videos = open_source(str(tmp_path))
    assert videos.classes == ("bend", "walk")
    assert [os.path.relpath(path, tmp_path) for path in videos.paths] == ["bend/x", "bend/y", "walk/z"]
    assert "1 files of the kind .jpg" in log.text
    with open_video(videos.paths[1]) as reader:
        assert reader.info.num_frames == 7
        pictures = [picture for _, picture in reader.frames(np.array([1, 6]))]
    assert frame_numbers(np.stack(pictures)) == [1, 6]
    rows = check_videos(videos, tmp_path / "index.csv", every_frame=True)
    assert [(row["frames"], row["codec"], row["status"]) for row in rows] == [(n, "mjpeg", "ok") for n in (6, 7, 8)]


@pytest.mark.parametrize("text", ["x 0\ny 1\n", "x 6 0\ny 6 1\n", "path,label\nx,0\ny,1\n", "x\ny\n"])
def test_lists_of_folders_of_frames(tmp_path, text):
    write_frames(tmp_path / "x")
    write_frames(tmp_path / "y")
    videos = opened(tmp_path, text)
    assert [os.path.basename(path) for path in videos.paths] == ["x", "y"]
    assert videos.labels.tolist() in ([0, 1], [-1, -1])


def test_frames_have_the_times_of_their_numbers(tmp_path):
    write_frames(tmp_path / "x", 4, start=8, name="frame{}.png")
    (tmp_path / "x" / "frame9.png").unlink()
    (tmp_path / "x" / "frame11.png").write_bytes(b"damaged")
    video = find_video(str(tmp_path / "x"))
    with video.open() as reader:
        assert reader.info.pts.tolist() == [0, 2, 3]
    with pytest.raises(VideoError, match="1 of 3 frames cannot be decoded"):
        video.check()
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="a folder without numbered images"):
        find_video(str(tmp_path / "empty"))


def test_official_lists_find_folders_of_frames(tmp_path):
    write_frames(tmp_path / "videos" / "7")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "labels.json").write_text('{"Holding something": "0"}')
    for part, key in (("train", "7"), ("validation", "8")):
        (tmp_path / "notes" / f"{part}.json").write_text(f'[{{"id": "{key}", "template": "Holding [something]"}}]')
    make_lists("ssv2", tmp_path / "notes", tmp_path / "videos", tmp_path / "out")
    assert open_source(str(tmp_path / "out" / "ssv2_train.csv")).paths == (str(tmp_path / "videos" / "7"),)
