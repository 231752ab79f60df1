"""Every kind of view: the same batches wherever they are made, and what they show is what they say."""

import csv
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from support.batches import digest
from support.sounds import tone, write_sounding
from support.video_files import frame_numbers, write_video

from wt_jax.data import pipeline
from wt_jax.data.boxes import crop_boxes
from wt_jax.data.feature_store import clips_path, geometry_path
from wt_jax.data.pipeline import describe_failure, eval_batches, train_batches
from wt_jax.data.records import VideoList
from wt_jax.data.video import decode
from wt_jax.data.video.yuv420 import Crop
from wt_jax.data.views import crop_frame
from wt_jax.errors import SourceError
from wt_jax.specs import AudioView, BoxView, Choice, ClipView, FeatureView

COUNT, ONSETS, TIME = 6, np.linspace(0.7, 1.3, 6), 1.5
SMALL = ClipView("a", num_frames=4, size=16, flip_probability=0.5)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Six videos of two seconds with a tone each, and two that are bad: without sound, and no video at all."""
    folder = tmp_path_factory.mktemp("kinds")
    paths = [write_sounding(folder / f"{number}.mp4", onset, seconds=2.0, codec="aac") for number, onset in enumerate(ONSETS)]
    paths += [write_video(folder / "silent.mp4", 40), str(folder / "text.mp4")]
    (folder / "text.mp4").write_text("no video")
    labels = np.arange(len(paths), dtype=np.int32) % 2
    return VideoList(tuple(paths), labels, ("x", "y"), {"time": (str(TIME),) * len(paths)})


@pytest.fixture(scope="module")
def untimed(videos):
    return VideoList(videos.paths, videos.labels, videos.classes)


@pytest.fixture(scope="module")
def store(videos, tmp_path_factory):
    """Features of five clips of each video but the last two: row, clip, 0."""
    path = tmp_path_factory.mktemp("store") / "features.npz"
    clips = np.zeros((COUNT, 5, 3), np.float16)
    clips[..., 0], clips[..., 1] = np.arange(COUNT)[:, None], np.arange(5)
    np.save(clips_path(path), clips)
    np.save(geometry_path(path), np.repeat(clips[..., :1] * 10 + clips[..., 1:2], 7, axis=-1).astype(np.float32))
    np.savez(path, path=np.array(videos.paths[:COUNT]))
    return str(path)


@pytest.fixture(scope="module")
def table(videos, tmp_path_factory):
    """Each video has two boxes at its key frame, the first with two classes; the silent one has none."""
    path = tmp_path_factory.mktemp("boxes") / "boxes.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        for number in range(COUNT):
            left = 0.1 + number / 20
            rows.writerow([number, f"{TIME:.3f}", left, 0.2, 0.9, 0.8, 1, 77])
            rows.writerow([number, f"{TIME:.3f}", left, 0.2, 0.9, 0.8, 3, 77])
            rows.writerow([videos.paths[number], 99, 0, 0, 1, 1, 2])
            rows.writerow([number, TIME, 0.5, 0.5, 0.6, 0.6, ""])
        rows.writerow(["silent", TIME, "", "", "", "", ""])
    return str(path)


@pytest.fixture(scope="module")
def kinds(store, table):
    """Views by what they are to show: each a run of its own."""
    moving = ClipView("a", num_frames=3, size=16, stride=0.5, unit="video", ramp=2, reverse=True)
    return {
        "clip": {"one": SMALL, "two": moving, "far": ClipView("b", num_frames=2, size=12, gap=5, record=True)},
        "choice": {"one": Choice((SMALL, ClipView("a", num_frames=4, stride=8, size=16))), "two": SMALL},
        "audio": {"sound": AudioView("a", seconds=0.25, rate=8000), "clip": SMALL},
        "features": {"near": FeatureView(store, count=2, dim=3), "all": FeatureView(store, count=5, dim=3, draw="spread")},
        "boxes": {"boxes": BoxView(table, most=3, classes=4), "clip": ClipView("a", num_frames=2, size=16, record=True)},
    }


def batches(videos, views, steps, *, batch_size=8, seed=3, **options):
    return list(train_batches(videos, views, seed=seed, batch_size=batch_size, num_steps=steps, **options))


@pytest.mark.parametrize("kind", ["clip", "choice", "audio", "features", "boxes"])
def test_the_same_batch_wherever_it_is_made(kind, kinds, videos, untimed):
    videos, views = videos if kind == "boxes" else untimed, kinds[kind]
    expected = [digest(batch) for batch in batches(videos, views, 4)]
    assert len(set(expected)) == 4
    assert [digest(batch) for batch in batches(videos, views, 4, threads=0)] == expected
    assert [digest(batch) for batch in batches(videos, views, 3, start_step=1, workers=1)] == expected[1:]
    halves = [batches(videos, views, 4, host=host, num_hosts=2) for host in range(2)]
    for number, parts in enumerate(zip(*halves, strict=True)):
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        assert digest(joined) == expected[number]


def test_arrays_of_every_kind(kinds, videos):
    views = {f"{kind}_{name}": view for kind, some in kinds.items() for name, view in some.items() if name != "far"}
    views |= {"boxes_clip": ClipView("a", num_frames=2, size=16, record=True)}
    for batch in batches(videos, views, 2):
        for name, (shape, dtype) in pipeline.batch_arrays(views).items():
            assert batch[name].shape == (8, *shape)
            assert batch[name].dtype == np.dtype(dtype)
        assert set(batch) == {*pipeline.batch_arrays(views), "label", "video", "failed"}


def test_bad_videos_of_every_kind_are_replaced_counted_and_named(kinds, videos, untimed):
    """Without sound, a row or a key frame a video is bad like one that cannot be decoded, for that method alone."""
    for kind, bad in (("clip", [7]), ("audio", [6, 7]), ("features", [6, 7]), ("boxes", [7])):
        seen = np.concatenate([batch["failed"] for batch in batches(videos if kind == "boxes" else untimed, kinds[kind], 2)])
        assert sorted(set(seen.tolist())) == [-1, *bad]
    assert "silent.mp4: it has no audio track" in describe_failure(untimed[6], kinds["audio"])
    assert "features.npz has no features of it" in describe_failure(untimed[7], kinds["features"])
    assert "text.mp4: Invalid data" in describe_failure(untimed[7], kinds["audio"])
    unknown = VideoList(videos.paths, videos.labels, videos.classes, {"time": ("1.0",) * 8})
    assert "boxes.csv has no row of '0' at 1.0 s" in describe_failure(unknown[0], kinds["boxes"])
    late = VideoList(videos.paths, videos.labels, videos.classes, {"time": ("3.0",) * 8})
    assert "its time 3.0 s is behind its end, at 2.00 s" in describe_failure(late[0], kinds["clip"])


def test_a_feature_run_opens_no_video(kinds, untimed, monkeypatch):
    monkeypatch.setattr(decode, "_opened", lambda *_, **__: pytest.fail("a video was opened"))
    monkeypatch.setattr(pipeline, "find_video", lambda *_: pytest.fail("a video was looked up"))
    some = untimed.select(range(COUNT))
    for batch in batches(some, kinds["features"], 3, threads=0):
        np.testing.assert_array_equal(batch["all"][..., 0], np.repeat(batch["video"][:, None], 5, axis=1))
        np.testing.assert_array_equal(batch["all"][..., 1], np.tile(np.arange(5), (8, 1)))
        assert (batch["near"][:, 0, 1] != batch["near"][:, 1, 1]).all()
        np.testing.assert_array_equal(batch["near.geometry"][..., 0], batch["near"][..., 0] * 10 + batch["near"][..., 1])
    drawn = np.concatenate([batch["near"][..., 1] for batch in batches(some, kinds["features"], 40)])
    assert np.abs(np.bincount(drawn.ravel().astype(int)) / drawn.size - 0.2).max() < 0.05
    with pytest.raises(SourceError, match=r"asks for 6 clips of 3 numbers, .* holds 5 clips of 3"):
        batches(some, {"near": FeatureView(kinds["features"]["near"].store, count=6, dim=3)}, 1)
    with pytest.raises(SourceError, match="holds no features of clips"):
        batches(some, {"near": FeatureView("nowhere.npz", count=1, dim=3)}, 1)


def test_one_opening_serves_all_clips_of_a_video(kinds, untimed, monkeypatch):
    calls, plain = [], decode._opened
    monkeypatch.setattr(decode, "_opened", lambda source, **given: calls.append(source) or plain(source, **given))
    some = untimed.select(range(COUNT))
    batches(some, kinds["clip"] | {"sound": AudioView("b", seconds=0.25)}, 1, batch_size=6, threads=0)
    assert sorted(calls) == sorted(some.paths)


def test_sound_begins_with_the_first_frame_of_the_clip_of_its_window(untimed):
    views = {"clip": ClipView("a", num_frames=1, size=16), "sound": AudioView("a", seconds=0.25)}
    for batch in batches(untimed.select(range(COUNT)), views, 4):
        for clip, sound, video in zip(batch["clip"], batch["sound"], batch["video"], strict=True):
            start = frame_numbers(clip)[0] / 25
            expected = tone(start + np.arange(4000) / 16000, ONSETS[video])
            assert np.abs(sound / 32768 - expected).max() < 0.06


def test_choice_of_one_view_is_that_view(untimed):
    some = untimed.select(range(COUNT))
    views = {"one": SMALL, "two": ClipView("b", num_frames=2, size=12)}
    plain = batches(some, views, 3)
    for ours, theirs in zip(batches(some, views | {"one": Choice((SMALL,))}, 3), plain, strict=True):
        assert not ours.pop("one.choice").any()
        assert digest(ours) == digest(theirs)


def test_choices_are_equally_frequent_and_name_what_is_shown(untimed):
    variants = tuple(ClipView("a", num_frames=2, size=4, stride=stride) for stride in (1, 5, 9, 40))
    drawn = []
    for batch in batches(untimed.select(range(COUNT)), {"clip": Choice(variants)}, 40, batch_size=12):
        numbers = np.array(frame_numbers(batch["clip"])).reshape(12, 2)
        strides = np.array([variant.stride for variant in variants])[batch["clip.choice"]]
        np.testing.assert_array_equal(numbers[:, 1] - numbers[:, 0], strides)
        drawn += batch["clip.choice"].tolist()
        # A short variant may start where a long one cannot.
        assert batch["clip.choice"].dtype == np.int32
    counts = np.bincount(drawn, minlength=4)
    assert ((counts - 120) ** 2 / 120).sum() < 16.3  # chi-square of 3 degrees of freedom, one in a thousand


def test_geometry_applied_to_the_whole_frame_reproduces_the_clip(tmp_path):
    """Frames of noise, stored without loss: each clip is cut anew from what its geometry says."""
    rng = np.random.default_rng(0)
    frames = cv2.resize(rng.integers(0, 256, (10, 9, 30)).astype(np.uint8), (48, 40)).reshape(40, 48, 30)
    frames = np.ascontiguousarray(frames.reshape(40, 48, 10, 3).transpose(2, 0, 1, 3))
    path = tmp_path / "noise.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 40, "bgr0"
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    videos = VideoList((str(path),), np.array([-1], np.int32))
    views = {
        "random": ClipView("a", num_frames=4, size=16, flip_probability=0.5, record=True),
        "center": ClipView("b", num_frames=2, stride=3, size=16, crop="center", reverse=True, record=True),
        "whole": ClipView("c", num_frames=10, unit="video", stride=1, size=16, crop="resize", record=True),
    }
    flips = set()
    for batch in batches(videos, views, 20, batch_size=1):
        for name, view in views.items():
            flip, *edges, start, end = batch[f"{name}.geometry"][0].tolist()
            top, left, bottom, right = (round(edge * side) for edge, side in zip(edges, (40, 48, 40, 48), strict=True))
            crop = Crop(top, left, bottom - top, right - left, bool(flip))
            first, last = round(start * 10), round(end * 10) - 1
            indices = np.linspace(first, last, view.num_frames).round().astype(int)
            for shown, index in zip(batch[name][0], indices[::-1] if view.reverse else indices, strict=True):
                ours = np.empty((16, 16, 3), np.uint8)
                crop_frame(frames[index], crop, ours)
                assert np.abs(ours.astype(int) - shown).max() <= 1
            flips.add((name, flip))
    assert {("random", 0.0), ("random", 1.0), ("center", 0.0)} <= flips
    np.testing.assert_array_equal(batch["whole.geometry"][0], [0, 0, 0, 1, 1, 0, 1])


def test_evaluation_has_the_geometry_of_each_clip(untimed):
    view = ClipView(num_frames=5, stride=2, size=16, crop="center")
    batch = next(eval_batches(untimed.select([0, 7]), view, windows=3, crops=3, batch_size=2))
    assert batch["geometry"].shape == (2, 9, 7)
    assert not batch["geometry"][1].any()
    # 50 frames; windows of 9 frames from 0, 20.5 and 41. The frames are squares, so that three crops are one.
    times = np.array([[0, 9], [21, 30], [41, 50]]) / 50
    np.testing.assert_allclose(batch["geometry"][0, :, 5:], times.repeat(3, axis=0), atol=1e-6)
    np.testing.assert_array_equal(batch["geometry"][0, :, :5], np.tile([0, 0, 0, 1, 1], (9, 1)))


def test_evaluation_crops_have_geometry_of_their_own(tmp_path):
    path = write_video(tmp_path / "wide.mp4", 12, height=32, width=96)
    view = ClipView(num_frames=4, size=16, crop="center")
    batch = next(eval_batches(VideoList((path,), np.array([0])), view, windows=2, crops=3, batch_size=1))
    np.testing.assert_allclose(batch["geometry"][0, :, 2], np.tile([0, 1 / 3, 2 / 3], 2), atol=1e-6)
    np.testing.assert_allclose(batch["geometry"][0, :, 4], np.tile([1 / 3, 2 / 3, 1], 2), atol=1e-6)


def test_windows_are_centered_on_the_time_of_a_record(videos):
    view = ClipView(num_frames=5, stride=2, size=16, crop="center")
    for batch in batches(videos.select(range(COUNT)), {"clip": view}, 2, batch_size=6):
        assert frame_numbers(batch["clip"]) == [33, 35, 37, 39, 41] * 6  # frame 37 is on show at 1.5 s
    batch = next(eval_batches(videos.select([0]), view, windows=1, batch_size=1))
    assert frame_numbers(batch["clip"]) == [33, 35, 37, 39, 41]
    with pytest.raises(ValueError, match="windows must be 1 where records have a time"):
        eval_batches(videos, view, windows=2, batch_size=1)


def test_boxes_follow_the_crop_and_the_flip(videos, table):
    views = {
        "clip": ClipView("a", num_frames=2, size=16, flip_probability=0.5, record=True),
        "whole": ClipView("b", num_frames=1, size=16, crop="resize", record=True),
        "boxes": BoxView(table, most=3, classes=4),
        "all": BoxView(table, most=1, classes=3, window="b"),
    }
    for batch in batches(videos.select(range(COUNT)), views, 6):
        for row, video in enumerate(batch["video"].tolist()):
            stored = np.array([[0.1 + video / 20, 0.2, 0.9, 0.8], [0.5, 0.5, 0.6, 0.6]], np.float32)
            np.testing.assert_allclose(batch["all"][row], stored[:1], rtol=1e-6)
            np.testing.assert_array_equal(batch["all.labels"][row], [[True, False, True]])
            moved, part = crop_boxes(stored, batch["clip.geometry"][row])
            kept = part >= 0.1
            assert batch["boxes.valid"][row].tolist() == [index < kept.sum() for index in range(3)]
            np.testing.assert_array_equal(batch["boxes"][row, : kept.sum()], moved[kept])
            labels = np.array([[True, False, True, False], [False] * 4])
            np.testing.assert_array_equal(batch["boxes.labels"][row, : kept.sum()], labels[kept])
            assert not batch["boxes"][row, kept.sum() :].any()


def test_a_key_frame_without_boxes_has_none(videos, table):
    clip = ClipView("a", num_frames=1, size=16, record=True)
    silent = VideoList(videos.paths[6:7], videos.labels[6:7], videos.classes, {"time": (str(TIME),)})
    (batch,) = batches(silent, {"clip": clip, "boxes": BoxView(table, most=3, classes=3)}, 1, batch_size=1)
    assert batch["failed"] == [-1]
    assert not batch["boxes.valid"].any()


def test_views_that_cannot_be(videos, untimed, table, tmp_path):
    boxes, clip = BoxView(table, most=1, classes=3), ClipView("a", num_frames=1, size=16, record=True)
    for views, fault in (
        ({"a.b": SMALL}, "must not be called 'a.b'"),
        ({"boxes": boxes}, "need one clip with record=True in window 'a', got 0"),
        ({"boxes": boxes, "one": SMALL}, "got 0"),
        ({"boxes": boxes, "one": clip, "two": clip}, "got 2"),
    ):
        with pytest.raises(ValueError, match=fault):
            train_batches(videos, views, seed=0, batch_size=2)
    with pytest.raises(ValueError, match="need a list with a column 'time'"):
        next(train_batches(untimed, {"boxes": boxes, "clip": clip}, seed=0, batch_size=2))
    with pytest.raises(TypeError, match=r"'odd': str is not one of \['ClipView'"):
        train_batches(videos, {"odd": "clip"}, seed=0, batch_size=2)
    with pytest.raises(SourceError, match=r"'boxes' has 2 classes, .*boxes\.csv has class 3"):
        next(train_batches(videos, {"boxes": BoxView(table, 1, 2), "clip": clip}, seed=0, batch_size=2))
    for line in ("a,1,0.5,0.1,0.4,0.9,1", "a,1,0,0,2,1,1", "a,1,0,0,1,1,x", "a,1,0,0", "a"):
        (tmp_path / "odd.csv").write_text(f"a,1,0,0,1,1,1\n{line}\n")
        with pytest.raises(SourceError, match=r"odd\.csv, line 2: expected video,second"):
            next(train_batches(videos, {"b": BoxView(str(tmp_path / "odd.csv"), 1, 2), "c": clip}, seed=0, batch_size=2))
        (tmp_path / "odd.csv").unlink()


def test_boxes_through_geometry_and_back():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((50, 2, 2)), axis=1).astype(np.float32)
    boxes = np.concatenate([corners[:, 0], corners[:, 1]], axis=1)
    moved, part = crop_boxes(boxes, np.array([0, 0, 0, 1, 1, 0, 1], np.float32))
    np.testing.assert_array_equal(moved, boxes)  # the whole frame is the identity
    np.testing.assert_allclose(part, 1, rtol=1e-6)
    flip = np.array([1, 0, 0, 1, 1, 0, 1], np.float32)
    np.testing.assert_allclose(crop_boxes(crop_boxes(boxes, flip)[0], flip)[0], boxes, atol=1e-6)
    quarter = np.array([0, 0, 0.5, 0.5, 1, 0, 1], np.float32)  # top right
    moved, part = crop_boxes(np.array([[0.25, 0.25, 0.75, 0.75], [0, 0.6, 1, 1]], np.float32), quarter)
    np.testing.assert_allclose(moved[0], [0, 0.5, 0.5, 1])
    np.testing.assert_allclose(part, [0.25, 0])
