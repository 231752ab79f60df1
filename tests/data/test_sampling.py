"""sampling: which frames a view shows, in exact arithmetic."""

from fractions import Fraction

import numpy as np
import pytest

from wt_jax.data.sampling import centered_start, frame_indices, random_windows, segments, spread_windows
from wt_jax.data.video.decode import VideoInfo
from wt_jax.specs import AudioView, ClipView


def video(pts, end, time_base=Fraction(1, 25)):
    return VideoInfo(np.array(pts, np.int64), end, time_base, np.array(pts[:1], np.int64), 48, 32)


def even(num_frames, first=0):
    return video(range(first, first + num_frames), first + num_frames)


@pytest.mark.parametrize(
    ("stride", "expected"),
    [
        (1, [5, 6, 7, 8, 9]),
        (2, [5, 7, 9, 11, 13]),
        (1.5, [5, 7, 8, 10, 11]),  # 0, 1.5, 3, 4.5, 6: halves go up
        (0.5, [5, 6, 6, 7, 7]),
        (Fraction(4, 3), [5, 6, 8, 9, 10]),  # 0, 1.33, 2.67, 4, 5.33
        (4, [5, 9, 13, 17, 1]),  # 21 is frame 1 of the second round
    ],
)
def test_steps_in_frames(stride, expected):
    view = ClipView(num_frames=5, stride=stride)
    np.testing.assert_array_equal(frame_indices(even(20), view, 5), expected)


def test_one_tenth_is_one_tenth():
    """Every fifth multiple of 0.1 is a half, which floating point would put on either side."""
    view = ClipView(num_frames=36, stride=0.1)
    expected = [(2 * place + 10) // 20 for place in range(36)]
    np.testing.assert_array_equal(frame_indices(even(20), view, 0), expected)


def test_steps_in_seconds_follow_a_variable_frame_rate():
    info = video([0, 1, 2, 10, 11, 30], 31)  # units of 1/25 s: frame 2 is on show for 8 units, frame 4 for 19
    view = ClipView(num_frames=8, stride=0.16, unit="seconds")  # 4 units
    # From frame 0 at 0: 0 4 8 12 16 20 24 28.
    np.testing.assert_array_equal(frame_indices(info, view, 0), [0, 2, 2, 4, 4, 4, 4, 4])
    # From frame 1 at 1: 1 5 9 13 17 21 25 29.
    np.testing.assert_array_equal(frame_indices(info, view, 1), [1, 2, 2, 4, 4, 4, 4, 4])
    # From frame 4 at 11: 11 15 19 23 27 | 31 35 39 -> 0 4 8.
    np.testing.assert_array_equal(frame_indices(info, view, 4), [4, 4, 4, 4, 4, 0, 2, 2])


def test_the_first_time_stamp_need_not_be_zero():
    view = ClipView(num_frames=6, stride=Fraction(2, 25), unit="seconds")
    for first in (-3, 7, 1000):
        np.testing.assert_array_equal(frame_indices(even(9, first), view, 1), [1, 3, 5, 7, 0, 2])


def test_seconds_and_frames_agree_at_a_constant_rate():
    info = video(range(0, 300 * 1001, 1001), 300 * 1001, Fraction(1, 30000))
    seconds = ClipView(num_frames=16, stride=Fraction(4 * 1001, 30000), unit="seconds")
    frames = ClipView(num_frames=16, stride=4)
    for start in range(300):
        np.testing.assert_array_equal(frame_indices(info, seconds, start), frame_indices(info, frames, start))


def test_random_windows_fit_share_and_cover():
    views = {
        "long": ClipView("a", num_frames=8, stride=2),  # spans 15 frames
        "short": ClipView("a", num_frames=4, stride=1),
        "timed": ClipView("a", num_frames=3, stride=0.08, unit="seconds"),
        "other": ClipView("b", num_frames=4, stride=1),
    }
    rng, info = np.random.default_rng(0), even(20)
    draws = [random_windows(info, views, rng) for _ in range(400)]
    for draw in draws:
        assert draw["long"][0] == draw["short"][0] == draw["timed"][0]
        assert all((np.diff(indices) > 0).all() for indices in draw.values())  # nothing loops
    assert {int(draw["long"][0]) for draw in draws} == set(range(6))
    assert {int(draw["other"][0]) for draw in draws} == set(range(17))
    assert abs(np.corrcoef([(draw["long"][0], draw["other"][0]) for draw in draws], rowvar=False)[0, 1]) < 0.15


def test_starts_are_uniform():
    starts = [
        int(random_windows(even(10), {"v": ClipView(num_frames=6)}, np.random.default_rng(seed))["v"][0])
        for seed in range(2000)
    ]
    counts = np.bincount(starts)
    assert len(counts) == 5
    assert counts.min() > 320


@pytest.mark.parametrize("unit", ["frames", "seconds"])
def test_short_videos_loop_from_their_first_frame(unit):
    view = ClipView(num_frames=7, stride=1 if unit == "frames" else 0.04, unit=unit)
    for num_frames in (1, 2, 3, 6):
        expected = [place % num_frames for place in range(7)]
        draw = random_windows(even(num_frames), {"v": view}, np.random.default_rng(1))
        np.testing.assert_array_equal(draw["v"], expected)
        np.testing.assert_array_equal(spread_windows(even(num_frames), view, 2), [expected] * 2)


@pytest.mark.parametrize("unit", ["frames", "seconds"])
def test_spread_windows(unit):
    view = ClipView(num_frames=5, stride=1 if unit == "frames" else 0.04, unit=unit)
    starts = [[int(indices[0]) for indices in spread_windows(even(20), view, count)] for count in (1, 2, 4)]
    assert starts == [[7], [0, 15], [0, 5, 10, 15]]
    with pytest.raises(ValueError, match="count"):
        spread_windows(even(20), view, 0)


def test_the_last_window_in_seconds_ends_on_the_last_frame():
    info = video([0, 1, 2, 10, 11, 30], 31)
    view = ClipView(num_frames=2, stride=0.8, unit="seconds")  # 20 units: from 10 to 30 fits, from 11 to 31 does not
    np.testing.assert_array_equal(spread_windows(info, view, 2)[-1], [3, 5])


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_the_whole_video_of_as_many_frames_is_each_frame_once(count):
    view = ClipView(num_frames=count, unit="video", stride=1)
    np.testing.assert_array_equal(random_windows(even(count), {"v": view}, np.random.default_rng(0))["v"], np.arange(count))


@pytest.mark.parametrize(
    ("num_frames", "part", "expected"),
    [
        (9, 1, [0, 2, 4, 6, 8]),  # from the first to the last
        (20, 0.5, [0, 2, 5, 7, 9]),  # 10 frames, 9 apart: 0, 2.25, 4.5, 6.75, 9
        (3, 1, [0, 1, 1, 2, 2]),  # 0, 0.5, 1, 1.5, 2: frames repeat, nothing loops
        (16, Fraction(1, 8), [0, 0, 1, 1, 1]),  # two frames
        (4, 0.1, [0, 0, 0, 0, 0]),  # less than a frame
    ],
)
def test_steps_as_a_fraction_of_the_video(num_frames, part, expected):
    view = ClipView(num_frames=5, unit="video", stride=part)
    np.testing.assert_array_equal(frame_indices(even(num_frames), view, 0), expected)
    starts = {int(random_windows(even(num_frames), {"v": view}, np.random.default_rng(n))["v"][0]) for n in range(200)}
    assert starts == set(range(num_frames - expected[-1]))


def test_gaps_as_fractions_of_the_video():
    views = {name: ClipView(name, num_frames=2, unit="video", stride=0.1, gap=0.5) for name in "ab"}
    for seed in range(50):
        windows = random_windows(even(40), views, np.random.default_rng(seed))
        assert abs(windows["a"][0] - windows["b"][0]) >= 20


@pytest.mark.parametrize("unit", ["frames", "seconds", "video"])
def test_a_ramp_moves_all_but_the_first_and_the_last_sample(unit):
    stride = {"frames": 5, "seconds": 0.2, "video": 0.8}[unit]
    info, uniform = even(60), ClipView(num_frames=9, stride=stride, unit=unit)
    plain = frame_indices(info, uniform, 3)
    np.testing.assert_array_equal(frame_indices(info, ClipView(num_frames=9, stride=stride, unit=unit, ramp=1.0), 3), plain)
    for ramp in (0.5, 2, Fraction(1, 3), 8):
        indices = frame_indices(info, ClipView(num_frames=9, stride=stride, unit=unit, ramp=ramp), 3)
        assert indices[0] == plain[0]
        assert indices[-1] == plain[-1]
        steps = np.diff(indices)
        assert (np.diff(steps) * np.sign(ramp - 1) >= -1).all()  # one for the rounding
        assert abs(steps[-1] / steps[0] / float(ramp) - 1) < 0.6
        mirrored = frame_indices(info, ClipView(num_frames=9, stride=stride, unit=unit, ramp=1 / Fraction(ramp)), 3)
        np.testing.assert_allclose(mirrored, plain[0] + plain[-1] - indices[::-1], atol=1)


def test_a_ramp_in_exact_fractions():
    view = ClipView(num_frames=5, stride=6, ramp=3)  # steps as 1 : 5/3 : 7/3 : 3, together 24
    np.testing.assert_array_equal(frame_indices(even(40), view, 0), [0, 3, 8, 15, 24])
    np.testing.assert_array_equal(frame_indices(even(40), ClipView(num_frames=2, stride=6, ramp=3), 0), [0, 6])
    np.testing.assert_array_equal(frame_indices(even(40), ClipView(num_frames=1, stride=6, ramp=3), 7), [7])


def test_reverse_shows_the_same_frames_backwards():
    view, other = ClipView(num_frames=5, stride=2), ClipView(num_frames=5, stride=2, reverse=True)
    np.testing.assert_array_equal(frame_indices(even(20), other, 4), frame_indices(even(20), view, 4)[::-1])


def test_sound_begins_with_the_first_frame_of_its_window_and_fits():
    views = {"clip": ClipView("a", num_frames=2), "sound": AudioView("a", seconds=0.4), "other": AudioView("b", seconds=0.4)}
    info, starts = even(20), set()
    for seed in range(300):
        windows = random_windows(info, views, np.random.default_rng(seed))
        assert windows["sound"].tolist() == [windows["clip"][0]]
        starts.add(int(windows["other"][0]))
    assert starts == set(range(10))  # 10 of 20 frames


@pytest.mark.parametrize("first", [0, 100])
def test_windows_are_centered_on_a_time(first):
    info = even(100, first)
    frames = ClipView("a", num_frames=5, stride=4)
    seconds = ClipView("b", num_frames=5, stride=0.16, unit="seconds")
    video = ClipView("c", num_frames=5, stride=0.17, unit="video")
    sound = AudioView("d", seconds=0.64)
    views = {"frames": frames, "seconds": seconds, "video": video, "sound": sound, "short": ClipView("a", num_frames=2)}
    windows = random_windows(info, views, None, time=2.0)  # frame 50, for 0.64 s
    for name in ("frames", "seconds", "video"):
        np.testing.assert_array_equal(windows[name], [42, 46, 50, 54, 58])
    assert windows["sound"].tolist() == [42]
    assert windows["short"].tolist() == [42, 43]  # with the longest of its window
    assert centered_start(info, frames, 0.0) == 0
    assert centered_start(info, frames, 3.99) == 83  # the last that fits
    assert centered_start(even(3), frames, 0.04) == 0


@pytest.mark.parametrize(
    ("length", "middles"),
    [
        (9, [0, 1, 2, 3, 4, 5, 6, 7]),  # parts of one step: the earlier of their two frames
        (17, [1, 3, 5, 7, 9, 11, 13, 15]),
        (37, [2, 6, 11, 16, 20, 24, 29, 34]),  # edges 0, 4, 9, 14, 18, 22, 27, 32, 36: halves to the even one
        (5, [0, 0, 1, 2, 2, 2, 3, 4]),  # edges 0, 0, 1, 2, 2, 2, 3, 4, 4
        (1, [0] * 8),
    ],
)
def test_segments_show_the_whole_video(length, middles):
    edges = np.round((length - 1) / 8 * np.arange(9)).astype(int)  # the source's own arithmetic
    view = ClipView(num_frames=8, unit="segments")
    expected = (edges[:-1] + edges[1:]) // 2
    np.testing.assert_array_equal(expected, middles)
    np.testing.assert_array_equal(frame_indices(even(length), view, 0), expected)
    for window in spread_windows(even(length), view, 2):
        np.testing.assert_array_equal(window, expected)
    np.testing.assert_array_equal(random_windows(even(length), {"a": view}, np.random.default_rng(0), 0.5)["a"], expected)


def test_segments_are_drawn_evenly_from_edge_to_edge_in_training():
    view, rng = ClipView(num_frames=4, unit="segments"), np.random.default_rng(0)
    backwards = ClipView(num_frames=4, unit="segments", reverse=True)
    drawn = [random_windows(even(21), {"a": view, "b": backwards}, rng) for _ in range(2000)]
    forward, reversed_ = (np.array([each[name] for each in drawn]) for name in "ab")
    for place in range(4):
        counts = np.bincount(forward[:, place] - 5 * place, minlength=6)
        assert len(counts) == 6
        assert np.abs(counts - 2000 / 6).max() < 80  # 4.8 deviations
    assert np.all(np.diff(reversed_) <= 0)
    assert not np.array_equal(forward[:, ::-1], reversed_)
    np.testing.assert_array_equal(segments(21, 4, np.random.default_rng(1)), segments(21, 4, np.random.default_rng(1)))


@pytest.mark.parametrize(("name", "value"), [("stride", 2), ("ramp", 2), ("gap", 1), ("most_gap", 1)])
def test_segments_have_neither_stride_nor_gap(name, value):
    with pytest.raises(ValueError, match=f"{name} must be . with unit 'segments'"):
        ClipView(unit="segments", **{name: value})


def test_starts_keep_both_gaps():
    for unit, least, most in (("frames", 5, 20), ("seconds", 0.2, 0.8), ("video", 0.05, 0.2)):
        views = {
            window: ClipView(window, num_frames=2, stride=0.02, unit=unit, gap=least, most_gap=most)
            if unit != "frames"
            else ClipView(window, num_frames=2, gap=least, most_gap=most)
            for window in "ab"
        }
        rng = np.random.default_rng(0)
        drawn = [random_windows(even(100), views, rng) for _ in range(300)]
        apart = [abs(int(each["a"][0]) - int(each["b"][0])) for each in drawn]
        assert (min(apart), max(apart)) == (5, 20)


def test_gaps_are_in_order():
    with pytest.raises(ValueError, match="most_gap must be 0 or at least gap"):
        ClipView(gap=2, most_gap=1)
