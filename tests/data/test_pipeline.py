"""pipeline: a batch is a pure function of seed and step; bad videos are replaced, counted and named."""

import itertools
import tracemalloc
import weakref
from dataclasses import dataclass

import numpy as np
import pytest
from av import VideoFrame
from support.batches import VIEWS, digest, digests
from support.video_files import frame_numbers, write_video

from wt_jax.data.pipeline import crop_clips, describe_failure, eval_batches, train_batches
from wt_jax.data.records import VideoList
from wt_jax.data.sampling import random_windows
from wt_jax.data.sources.open import open_source
from wt_jax.data.video import decode
from wt_jax.data.video.yuv420 import planes_of
from wt_jax.data.views import apply_view
from wt_jax.errors import VideoError
from wt_jax.specs import ClipView

EVAL = ClipView(num_frames=4, size=16, crop="center")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine readable videos of 12 to 36 frames in three classes."""
    folder = tmp_path_factory.mktemp("videos")
    for index in range(9):
        (folder / f"class{index % 3}").mkdir(exist_ok=True)
        write_video(folder / f"class{index % 3}" / f"{index}.mp4", 12 + 3 * index)
    return folder


@pytest.fixture(scope="module")
def videos(folder):
    return open_source(str(folder))


@pytest.fixture(scope="module")
def damaged(videos, tmp_path_factory):
    """The nine, with two that cannot be decoded at places 2 and 5."""
    bad = tmp_path_factory.mktemp("bad") / "text.mp4"
    bad.write_text("no video")
    paths, labels = list(videos.paths), videos.labels.tolist()
    for place, path in ((2, str(bad)), (5, str(bad.parent / "absent.mp4"))):
        paths.insert(place, path)
        labels.insert(place, 0)
    return VideoList(tuple(paths), np.array(labels, np.int32), videos.classes)


def test_shapes_types_and_epochs(videos):
    batches = list(train_batches(videos, VIEWS, seed=0, batch_size=3, num_steps=6))
    for batch in batches:
        assert set(batch) == {"query", "key", "weak", "label", "video", "failed"}
        assert batch["query"].shape == batch["key"].shape == (3, 4, 16, 16, 3)
        assert batch["weak"].shape == (3, 8, 24, 24, 3)
        assert all(batch[name].dtype == np.uint8 for name in VIEWS)
        assert all(batch[name].dtype == np.int32 and batch[name].shape == (3,) for name in ("label", "video", "failed"))
        np.testing.assert_array_equal(batch["label"], videos.labels[batch["video"]])
        assert (batch["failed"] == -1).all()
    order = np.concatenate([batch["video"] for batch in batches]).tolist()
    assert sorted(order[:9]) == sorted(order[9:]) == list(range(9))
    assert order[:9] != order[9:]


def test_views_show_the_frames_they_should(videos):
    for batch in train_batches(videos, VIEWS, seed=1, batch_size=9, num_steps=4):
        for query, key, weak in zip(*(np.split(batch[name], 9) for name in VIEWS), strict=True):
            query, key, weak = frame_numbers(query), frame_numbers(key), frame_numbers(weak)
            assert query == [query[0] + 2 * place for place in range(4)]
            assert key == [query[0] + place for place in range(4)]  # the same window
            assert weak == [weak[0] + place for place in range(8)]


def test_one_opening_serves_the_probe_and_all_views(videos, monkeypatch):
    calls, plain = [], decode._opened
    monkeypatch.setattr(decode, "_opened", lambda source, **given: calls.append(source) or plain(source, **given))
    monkeypatch.setattr(decode, "_known", {})
    next(train_batches(videos, VIEWS, seed=1, batch_size=6, num_steps=1, threads=0))
    assert len(calls) == len(set(calls)) == 6


@dataclass(frozen=True)
class InRgb:
    """A reader whose frames come as RGB."""

    reader: decode.Reader

    @property
    def info(self) -> decode.VideoInfo:
        return self.reader.info

    def frames(self, indices: np.ndarray, planes: bool = False):
        return self.reader.frames(indices)


def test_clips_are_those_of_decoding_everything_first(videos):
    for seed in range(5):
        path = videos.paths[seed]
        with decode.open_reader(path) as reader:
            windows = random_windows(reader.info, VIEWS, np.random.default_rng(seed))
            clips = crop_clips(reader, windows, VIEWS, np.random.default_rng(seed))
            from_rgb = crop_clips(InRgb(reader), windows, VIEWS, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        for name, view in VIEWS.items():
            expected = apply_view(decode.decode(path, windows[name]), view, rng)
            np.testing.assert_array_equal(from_rgb[name], expected)
            assert np.abs(clips[name] - expected.astype(float)).mean() < 2


def test_full_frames_are_not_kept():
    """200 frames of 640 x 480 pass by; a handful at most is there at any time."""

    class Passing:
        def frames(self, indices, planes=False):
            for index in indices.tolist():
                yield index, np.full((480, 640, 3), index, np.uint8)

    frames = {name: np.arange(200) for name in ("a", "b")}
    view = ClipView(num_frames=200, size=8)
    tracemalloc.start()
    clips = crop_clips(Passing(), frames, {"a": view, "b": view}, np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert clips["a"][:, 0, 0, 0].tolist() == list(range(200))
    assert peak < 5 * 480 * 640 * 3


def test_decoded_frames_are_not_kept():
    """The same of frames as the decoder gives them: four at a time take 2 MiB as RGB, with those before them eight."""
    alive, most = weakref.WeakSet(), []

    class Kept(list):
        __hash__ = object.__hash__

    class Passing:
        def frames(self, indices, planes=False):
            for index in indices.tolist():
                picture = planes_of(VideoFrame(512, 340, "yuv420p"))
                picture = picture._replace(planes=Kept(picture.planes))
                alive.add(picture.planes)
                most.append(len(alive))
                yield index, picture
                del picture

    view = ClipView(num_frames=100, size=8)
    crop_clips(Passing(), {name: np.arange(100) for name in "ab"}, {"a": view, "b": view}, np.random.default_rng(0))
    assert 4 <= max(most) <= 9


def test_frames_and_clips_of_different_lengths_are_refused(videos):
    view = ClipView(num_frames=4, size=16, crop="center")
    with decode.open_reader(videos.paths[0]) as reader, pytest.raises(ValueError, match=r"frames for a clip of"):
        crop_clips(reader, {"a": np.arange(5)}, {"a": view}, None, out={"a": np.zeros((4, 16, 16, 3), np.uint8)})


def test_batches_do_not_depend_on_hosts_threads_or_where_they_start(damaged):
    expected = digests(damaged, 5)
    assert len(set(expected)) == 5
    assert digests(damaged, 5, threads=0) == expected
    assert digests(damaged, 5, threads=4) == expected
    assert digests(damaged, 5, hosts=2) == expected
    assert digests(damaged, 5, hosts=4) == expected
    assert digests(damaged, 2, start_step=3) == expected[3:]
    assert digests(damaged, 2, hosts=2, start_step=3) == expected[3:]
    endless = train_batches(damaged, VIEWS, seed=3, batch_size=8, start_step=1)
    assert [digest(batch) for batch in itertools.islice(endless, 3)] == expected[1:4]
    other = train_batches(damaged, VIEWS, seed=4, batch_size=8, num_steps=1)
    assert digest(next(other)) != expected[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(damaged, workers):
    expected = digests(damaged, 5)
    assert digests(damaged, 4, workers=workers, start_step=1) == expected[1:]


def test_substitutes_are_counted_and_named(damaged):
    batches = list(train_batches(damaged, VIEWS, seed=5, batch_size=11, num_steps=4))
    for batch in batches:
        assert sorted(batch["failed"])[-2:] == [2, 5]
        assert (np.sort(batch["failed"])[:-2] == -1).all()
        assert not {2, 5} & set(batch["video"].tolist())
        np.testing.assert_array_equal(batch["label"], damaged.labels[batch["video"]])
    assert describe_failure(damaged[2]).endswith("text.mp4: Invalid data found when processing input")
    assert describe_failure(damaged[5]).endswith("absent.mp4: No such file or directory")
    assert "can be decoded now" in describe_failure(damaged[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_bad_videos_stops_the_run(damaged, workers):
    batches = train_batches(damaged.select([2, 5]), VIEWS, seed=0, batch_size=2, workers=workers)
    with pytest.raises(VideoError, match=r"16 videos in a row could not be decoded; last: .*\.mp4: "):
        next(batches)


@pytest.mark.parametrize(("hosts", "workers"), [(1, 0), (2, 0), (4, 0), (1, 2)])
def test_evaluation_shows_each_video_once(damaged, hosts, workers):
    parts = [
        list(eval_batches(damaged, EVAL, windows=3, batch_size=4, host=host, num_hosts=hosts, workers=workers))
        for host in range(hosts)
    ]
    assert {len(part) for part in parts} == {3}
    seen = []
    for part in parts:
        for batch in part:
            assert batch["clip"].shape == (4 // hosts, 3, 4, 16, 16, 3)
            assert batch["clip"].dtype == np.uint8
            assert batch["valid"].dtype == np.bool_
            assert batch["video"].dtype == batch["label"].dtype == np.int32
            seen += zip(batch["video"].tolist(), batch["label"].tolist(), batch["valid"].tolist(), strict=True)
            assert not batch["clip"][~batch["valid"]].any()
    expected = [(record.index, record.label, record.index not in (2, 5)) for record in damaged]
    assert sorted(seen) == [(-1, -1, False), *expected]
    if hosts == 1:
        assert [video for video, _, _ in seen] == [*range(11), -1]


def test_evaluation_windows_are_spread(videos):
    batch = next(eval_batches(videos.select([0]), EVAL, windows=3, batch_size=1))
    assert videos.paths[0].endswith("0.mp4")  # 12 frames
    assert frame_numbers(batch["clip"]) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def test_evaluation_crops_follow_each_other_within_a_window(tmp_path):
    path = write_video(tmp_path / "marked.mp4", 12, height=32, width=96, marked=True)
    clips = next(eval_batches(VideoList((path,), np.array([0])), EVAL, windows=3, crops=3, batch_size=1))["clip"][0]
    assert clips.shape == (9, 4, 16, 16, 3)
    clips = clips.reshape(3, 3, 4, 16, 16, 3).astype(float)
    # White is the top left quarter: of the left third the upper half, of the middle one a quarter, of the right one nothing.
    np.testing.assert_allclose((clips > 200).mean(axis=(2, 3, 4, 5)), [[0.5, 0.25, 0.0]] * 3, atol=0.05)
    # The lower right pixel is the frame's gray, the same in all crops of a window.
    grays = np.round((clips[..., -1, -1, 0] - 10) / 3)
    np.testing.assert_array_equal(grays, np.arange(12).reshape(3, 1, 4).repeat(3, axis=1))
    one = next(eval_batches(VideoList((path,), np.array([0])), EVAL, windows=3, batch_size=1))["clip"][0]
    np.testing.assert_array_equal(one, clips[:, 1])


def test_evaluation_resumes(damaged):
    whole = [digest(batch) for batch in eval_batches(damaged, EVAL, windows=1, batch_size=2)]
    assert [digest(batch) for batch in eval_batches(damaged, EVAL, windows=1, batch_size=2, start=4)] == whole[4:]
    assert list(eval_batches(damaged, EVAL, windows=1, batch_size=2, start=6)) == []


def test_wrong_calls(videos):
    with pytest.raises(ValueError, match="shared evenly by 2 hosts"):
        train_batches(videos, VIEWS, seed=0, batch_size=3, num_hosts=2)
    with pytest.raises(ValueError, match="host 2 is not in"):
        train_batches(videos, VIEWS, seed=0, batch_size=4, host=2, num_hosts=2)
    with pytest.raises(ValueError, match="at least one video"):
        train_batches(videos.select([]), VIEWS, seed=0, batch_size=4)
    with pytest.raises(ValueError, match="must not be called 'label'"):
        train_batches(videos, {"label": EVAL}, seed=0, batch_size=4)
    with pytest.raises(ValueError, match="crops must be one of"):
        eval_batches(videos, EVAL, windows=1, crops=2, batch_size=4)
    with pytest.raises(ValueError, match="without randomness"):
        eval_batches(videos, VIEWS["key"], windows=1, batch_size=4)
