"""Pixels on the device: once per clip, within range, and equal to a plain reference."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wt_jax.augment import finish_view, finish_views, frame_difference, mix_frame, shuffle_frames
from wt_jax.augment.color import _hue_matrix
from wt_jax.augment.finish import VIEW_FINISHERS
from wt_jax.data.pipeline import VIEW_READERS
from wt_jax.kernels import implementation
from wt_jax.specs import AudioView, BoxView, Choice, ClipView, FeatureView, PixelSpec, batch_arrays

FULL = PixelSpec(1.0, 0.4, 0.4, 0.4, 0.1, 0.5, 1.0, (0.5, 2.0))


def clips(count=4, frames=5, size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, frames, size, size, 3), dtype=np.uint8)


def finish(frames, spec, key=0, videos=None):
    videos = np.arange(len(frames), dtype=np.int32) if videos is None else np.asarray(videos, np.int32)
    with jax.numpy_dtype_promotion("strict"):
        return jax.jit(finish_view, static_argnums=3)(frames, videos, jax.random.key(key), spec)


def test_without_any_change_it_only_scales():
    frames = clips()
    np.testing.assert_allclose(np.asarray(finish(frames, PixelSpec())), frames / 255.0, atol=1e-6)


SOME = {
    "blur": PixelSpec(blur_probability=0.5, blur_sigma=(0.5, 2.0)),
    "blur_of_any_width": PixelSpec(blur_probability=0.5, blur_sigma=(0.1, 9.0)),
    "gray": PixelSpec(gray_probability=0.5),
    "all": PixelSpec(0.5, 0.4, 0.4, 0.4, 0.1, 0.1, 0.1, (0.5, 2.0)),
}


@pytest.mark.parametrize("spec", SOME.values(), ids=SOME)
def test_pixels_are_the_same_in_both_implementations_and_on_four_devices(spec, native):
    frames = clips(count=8)
    ours = np.asarray(finish(frames, spec))
    changed = np.abs(ours - frames / 255.0).max((1, 2, 3, 4)) > 0.01
    assert 0 < changed.sum() < 8
    split = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    on_four = finish(jax.device_put(frames, split), spec)
    assert on_four.sharding.spec[0] == "data"
    np.testing.assert_allclose(np.asarray(on_four), ours, atol=1e-6)
    with implementation("portable"):
        np.testing.assert_allclose(np.asarray(finish(frames, spec)), ours, atol=1e-6)


def test_every_frame_of_a_clip_changes_alike():
    still = np.repeat(clips(frames=1), 6, axis=1)
    finished = np.asarray(finish(still, FULL))
    np.testing.assert_array_equal(finished, np.repeat(finished[:, :1], 6, axis=1))


def test_clips_of_a_batch_change_differently_and_by_video_not_by_row():
    same = np.repeat(clips(count=1), 4, axis=0)
    finished = np.asarray(finish(same, FULL, videos=[3, 1, 3, 2]))
    np.testing.assert_array_equal(finished[0], finished[2])
    assert np.abs(finished[0] - finished[1]).max() > 0.01


def test_values_stay_in_range():
    values = np.asarray(finish(clips(count=16), FULL))
    assert values.min() >= -1e-5
    assert values.max() <= 1 + 1e-5


def test_gray_is_gray():
    values = np.asarray(finish(clips(), PixelSpec(gray_probability=1.0)))
    np.testing.assert_allclose(values[..., 0], values[..., 2], atol=1e-5)
    luma = (clips() / 255.0) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(values[..., 1], luma, atol=1e-5)


def test_brightness_scales_and_contrast_keeps_the_mean_gray():
    frames = clips(count=64) // 4 + 60  # far from the ends, so nothing is clipped
    bright = np.asarray(finish(frames, PixelSpec(jitter_probability=1.0, brightness=0.4)))
    factors = (bright / (frames / 255.0)).reshape(64, -1)
    np.testing.assert_allclose(factors, np.repeat(factors[:, :1], factors.shape[1], axis=1), rtol=1e-4)
    assert 0.6 <= factors.min() < 0.75
    assert 1.25 < factors.max() <= 1.4
    contrast = np.asarray(finish(frames, PixelSpec(jitter_probability=1.0, contrast=0.4)))
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose((contrast @ luma).mean((1, 2, 3)), (frames / 255.0 @ luma).mean((1, 2, 3)), atol=1e-5)


def test_hue_turns_as_far_as_in_hsv_and_leaves_gray():
    third = np.asarray(_hue_matrix(jnp.float32(1 / 3)))
    np.testing.assert_allclose(third, np.roll(np.eye(3), 1, axis=0), atol=1e-6)  # red becomes green
    colors = np.random.default_rng(0).random((200, 3))
    colors = colors[np.ptp(colors, axis=1) > 0.2]
    for turn in (0.02, 0.1, 0.25, -0.1):
        turned = colors @ np.asarray(_hue_matrix(jnp.float32(turn))).T
        np.testing.assert_allclose(turned.mean(1), colors.mean(1), atol=1e-6)
        # HSV's hue, which neither a common offset nor a factor changes.
        hues = [[colorsys.rgb_to_hsv(*(color - color.min()))[0] for color in some] for some in (colors, turned)]
        found = (np.subtract(*hues[::-1]) - turn + 0.5) % 1 - 0.5 + turn
        assert np.mean(found) == pytest.approx(turn, abs=1e-3)
        np.testing.assert_allclose(found, turn, atol=0.007)


def test_probabilities_are_kept():
    frames = clips(count=400, frames=1, size=4)
    gray = np.asarray(finish(frames, PixelSpec(gray_probability=0.2)))
    share = (np.abs(gray[..., 0] - gray[..., 2]).max((1, 2, 3)) < 1e-4).mean()
    assert share == pytest.approx(0.2, abs=0.06)


def test_views_of_a_video_change_differently():
    views = {name: ClipView(pixels=FULL) for name in ("query", "key")}
    batch = {name: clips(seed=1) for name in views} | {"video": np.arange(4, dtype=np.int32), "label": np.arange(4)}
    finished = jax.jit(lambda key: finish_views(batch, views, key))(jax.random.key(0))
    assert np.abs(finished["query"] - finished["key"]).max(axis=(1, 2, 3, 4)).min() > 0.01
    np.testing.assert_array_equal(finished["label"], batch["label"])


def random_clips(count=4, frames=5):
    return jnp.asarray(np.random.default_rng(3).random((count, frames, 4, 4, 3)), jnp.float32)


def test_frame_difference_is_the_change_and_half_where_nothing_moves():
    clips = random_clips()
    difference = np.asarray(jax.jit(frame_difference)(clips))
    assert difference.shape == clips.shape
    np.testing.assert_allclose(2 * difference[:, :-1] - 1, np.diff(clips, axis=1), atol=1e-6)
    np.testing.assert_array_equal(difference[:, -1], difference[:, -2])
    still = jnp.broadcast_to(clips[:, :1], clips.shape)
    np.testing.assert_array_equal(frame_difference(still), 0.5)
    np.testing.assert_array_equal(frame_difference(clips[:, :1]), 0.5)


def test_mixed_frame_scales_all_differences_alike():
    clips, videos = random_clips(), jnp.arange(4)
    with jax.numpy_dtype_promotion("strict"):
        mixed = jax.jit(lambda key: mix_frame(clips, videos, key, 0.1))(jax.random.key(1))
    ratio = np.diff(mixed, axis=1) / np.diff(clips, axis=1)
    share = 1 - np.median(ratio)
    assert 0 < share < 0.1
    np.testing.assert_allclose(ratio, 1 - share, atol=1e-2)
    frames = (np.asarray(mixed[:, 0]) - (1 - share) * np.asarray(clips[:, 0])) / share
    for clip, frame in zip(np.asarray(clips), frames, strict=True):  # what was mixed in is a frame of the same clip
        assert np.abs(clip - frame).max(axis=(1, 2, 3)).min() < 1e-3
    np.testing.assert_array_equal(mix_frame(clips, videos, jax.random.key(1), 0.0), clips)


def test_shuffled_frames_are_the_same_frames_in_orders_of_their_own():
    clips, videos = random_clips(frames=6), jnp.arange(4)
    shuffled = np.asarray(shuffle_frames(clips, videos, jax.random.key(0)))
    orders = [
        [int(np.abs(clip - frame[None]).sum((1, 2, 3)).argmin()) for frame in new]
        for clip, new in zip(clips, shuffled, strict=True)
        for clip, new in zip(clips, shuffled, strict=True)
    ]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    # A clip's draw depends on its video, not on its place in the batch.
    turned = shuffle_frames(clips[::-1], videos[::-1], jax.random.key(0))
    np.testing.assert_array_equal(turned[::-1], shuffled)


def test_every_kind_of_view_is_finished_by_its_own():
    views = {
        "clip": ClipView(num_frames=2, size=8, record=True, pixels=FULL),
        "choice": Choice((ClipView(num_frames=2, size=8, pixels=FULL), ClipView(num_frames=2, size=8, stride=2, pixels=FULL))),
        "sound": AudioView(seconds=0.125, rate=8000, bands=10),
        "features": FeatureView("store.npz", count=3, dim=5),
        "boxes": BoxView("table.csv", most=2, classes=4),
    }
    rng = np.random.default_rng(0)
    batch = {name: (rng.random((3, *shape)) * 100).astype(dtype) for name, (shape, dtype) in batch_arrays(views).items()} | {
        name: np.arange(3, dtype=np.int32) for name in ("video", "label", "failed")
    }
    with jax.numpy_dtype_promotion("strict"):
        finished = jax.jit(lambda batch: finish_views(batch, views, jax.random.key(0)))(batch)
    assert finished.keys() == batch.keys()
    for name in ("clip", "choice"):
        assert finished[name].shape == (3, 2, 8, 8, 3)
        assert finished[name].dtype == jnp.float32
        assert np.abs(finished[name] - batch[name] / 255.0).max() > 0.01
    assert finished["sound"].shape == (3, views["sound"].columns, 10)
    assert finished["features"].dtype == jnp.float32
    np.testing.assert_array_equal(finished["features"], batch["features"])
    for name in batch.keys() - {"clip", "choice", "sound", "features"}:
        np.testing.assert_array_equal(finished[name], batch[name])
        assert finished[name].dtype == batch[name].dtype
    # One choice is finished as its view is.
    same = jax.jit(lambda batch: finish_views(batch, {"choice": views["choice"].views[0]}, jax.random.key(1)))
    one = jax.jit(lambda batch: finish_views(batch, {"choice": Choice(views["choice"].views[:1])}, jax.random.key(1)))
    np.testing.assert_array_equal(same(batch)["choice"], one(batch)["choice"])


def test_the_tables_know_the_same_kinds():
    assert VIEW_FINISHERS.keys() == VIEW_READERS.keys()
