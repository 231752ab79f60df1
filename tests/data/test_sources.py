"""sources: what is a data set, and what is wrong with one."""

import pickle

import numpy as np
import pytest

from wt_jax.data.records import Record, VideoList, mix
from wt_jax.data.sources.open import open_source
from wt_jax.errors import SourceError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write(folder, text, name="list.txt"):
    (folder / name).write_text(text)
    return str(folder / name)


def names(videos, folder):
    return [path.removeprefix(f"{folder}/") for path in videos.paths]


def test_class_folders(tmp_path):
    touch(tmp_path, "run/b.mp4", "run/a.AVI", "bend/c.webm", "bend/notes.txt", "bend/._c.webm")
    videos = open_source(str(tmp_path))
    assert videos.classes == ("bend", "run")
    assert names(videos, tmp_path) == ["bend/c.webm", "run/a.AVI", "run/b.mp4"]
    assert videos.labels.tolist() == [0, 1, 1]
    assert videos.labels.dtype == np.int32
    assert list(videos)[1] == videos[1] == Record(1, str(tmp_path / "run/a.AVI"), 1)


@pytest.mark.parametrize("tree", [("b.mp4", "a.mp4"), ("x/b.mp4", "x/a.mp4"), ("x/b.mp4", "a.mp4"), ("x/y/b.mp4", "z/a.mp4")])
def test_any_other_tree_is_unlabelled(tmp_path, tree):
    touch(tmp_path, *tree)
    videos = open_source(str(tmp_path))
    assert names(videos, tmp_path) == sorted(tree)
    assert videos.labels.tolist() == [-1, -1]
    assert videos.classes == ()


@pytest.mark.parametrize("separator", [" ", ", ", ",", "\t", "  "])
def test_list_of_paths_and_labels(tmp_path, separator):
    touch(tmp_path, "a.mp4", "my clips/b c.MOV", "d, e.avi")
    text = f"# a comment\na.mp4{separator}2\n\nmy clips/b c.MOV{separator}0\nd, e.avi{separator}2\n"
    videos = open_source(write(tmp_path, text))
    assert names(videos, tmp_path) == ["a.mp4", "my clips/b c.MOV", "d, e.avi"]
    assert videos.labels.tolist() == [2, 0, 2]
    assert videos.classes == ("0", "1", "2")


def test_list_without_labels_and_with_names(tmp_path):
    touch(tmp_path, "a 1.mp4", "b.mp4")
    assert open_source(write(tmp_path, "a 1.mp4\nb.mp4\n")).labels.tolist() == [-1, -1]
    assert open_source(write(tmp_path, "a 1.mp4 -1\nb.mp4 -1\n")).labels.tolist() == [-1, -1]
    videos = open_source(write(tmp_path, "a 1.mp4 Walk\nb.mp4 Bend\n"))
    assert videos.classes == ("Bend", "Walk")
    assert videos.labels.tolist() == [1, 0]


def test_root_and_absolute_paths(tmp_path):
    touch(tmp_path, "lists/x", "videos/a.mp4", "b.mp4")
    location = write(tmp_path / "lists", f"a.mp4 0\n{tmp_path}/b.mp4 1\n")
    assert names(open_source(location, root=str(tmp_path / "videos")), tmp_path) == ["videos/a.mp4", "b.mp4"]


def test_classes_file_names_integers(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    write(tmp_path, "bend\nwalk\nwave\n", "classes.txt")
    videos = open_source(write(tmp_path, "a.mp4 1\nb.mp4 0\n"))
    assert videos.classes == ("bend", "walk", "wave")
    with pytest.raises(SourceError, match=r"label 3 has no name in .*classes\.txt"):
        open_source(write(tmp_path, "a.mp4 3\n"))


def test_csv(tmp_path):
    touch(tmp_path, "a.mp4", "b, c.mp4", "d.mp4")
    text = 'label,path,name,person\n0,a.mp4,wave,7\n2,"b, c.mp4",bend,8\n0,d.mp4,wave,8\n'
    videos = open_source(write(tmp_path, text, "index.csv"))
    assert names(videos, tmp_path) == ["a.mp4", "b, c.mp4", "d.mp4"]
    assert videos.labels.tolist() == [0, 2, 0]
    assert videos.classes == ("wave", "1", "bend")
    assert videos.columns == {"name": ("wave", "bend", "wave"), "person": ("7", "8", "8")}
    assert open_source(write(tmp_path, "path,label\na.mp4,x\nd.mp4,y\n")).classes == ("x", "y")
    assert open_source(write(tmp_path, "path,person\na.mp4,7\n")).labels.tolist() == [-1]


def test_select_and_pickle():
    labels = np.array([1, 0, 1], np.int32)
    videos = VideoList(("a", "b", "c"), labels, ("x", "y"), {"person": ("1", "2", "3")})
    part = pickle.loads(pickle.dumps(videos.select(np.array([2, 0]))))
    assert list(part) == [Record(0, "c", 1), Record(1, "a", 1)]
    assert part.classes == ("x", "y")
    assert part.columns == {"person": ("3", "1")}
    assert videos[-1] == Record(2, "c", 1)
    with pytest.raises(IndexError):
        videos[3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the list is empty"),
        ("# only this\n\n", "the list is empty"),
        ("path,label\n", "the list is empty"),
        ("a.mp4 0\nb.xyz 1\n", r"line 2: expected `path label`.*\.mp4.*'b.xyz 1'"),
        ("a.mp4 0 12\n", "line 1: expected `path label`"),
        ("# first\na.mp4 0\na.mp4\n", "line 3: no label, but line 2 has an integer label"),
        ("a.mp4 0\na.mp4 walk\n", "line 2: a label by name, but line 1 has an integer label"),
        ("path,label\na.mp4,0\na.mp4\n", "line 3: expected the columns path,label, got 'a.mp4'"),
        ("path,label\na.mp4,0\na.mp4,\n", "line 3: no label, but line 2"),
        ("path,label,name\na.mp4,0,x\na.mp4,0,y\n", "line 3: label 0 is called 'y', above it is 'x'"),
    ],
)
def test_faulty_lists(tmp_path, text, message):
    touch(tmp_path, "a.mp4")
    with pytest.raises(SourceError, match=message) as caught:
        open_source(write(tmp_path, text))
    assert "list.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_faulty_locations(tmp_path):
    touch(tmp_path, "a.mp4", "folder/readme.txt")
    (tmp_path / "binary").write_bytes(b"\xfe\x00\x81\xff")
    for name, message in {
        "nowhere": "no such file or folder",
        "folder": r"no video below this folder; looked for .*\.mp4.*\.webm",
        "a.mp4": "a single video; give the folder",
        "binary": "no text file",
    }.items():
        with pytest.raises(SourceError, match=message):
            open_source(str(tmp_path / name))


def test_missing_files_are_tolerated_up_to_a_share(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    location = write(tmp_path, "a.mp4\nb.mp4\nx.mp4\ny.mp4\nz.mp4\nw.mp4\n")
    with pytest.raises(SourceError, match=r"4 of 6 .*x\.mp4, .*y\.mp4, .*z\.mp4, \.\.\.\).*data\.max_bad_fraction"):
        open_source(location)
    assert len(open_source(location, max_bad_fraction=0.7)) == 6


def test_times_of_records(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    videos = open_source(write(tmp_path, "path,label,time\na.mp4,0,1.5\na.mp4,1,12\nb.mp4,0,\n"))
    assert [record.time for record in videos] == [1.5, 12.0, None]
    assert [record.time for record in videos.select([2, 0])] == [None, 1.5]
    plain = open_source(write(tmp_path, "b.mp4 0\n", "plain.txt"))
    assert plain[0].time is None
    both = mix([plain, videos], [1, 1])
    assert [record.time for record in both] == [None, 1.5, 12.0, None]
    for time in ("soon", "-1", "inf", "nan"):
        with pytest.raises(SourceError, match=f"line 3: expected seconds from the start of the video, got time '{time}'"):
            open_source(write(tmp_path, f"path,time\na.mp4,1\na.mp4,{time}\n"))
