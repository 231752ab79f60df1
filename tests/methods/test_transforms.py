"""V3S, order and geometry: labels that are what was done to a clip, losses beside NumPy, and no shortcuts in the videos."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.training import batches, finished, first, small_config
from support.video_files import write_video

from wt_jax.augment.motion import frame_orders, reorder_frames
from wt_jax.augment.warp import PERSPECTIVES, draw_perspective, perspective_matrices, warp
from wt_jax.data.pipeline import describe_failure, read_views, train_batches
from wt_jax.data.records import Record, VideoList
from wt_jax.data.synthetic import write_mp4
from wt_jax.errors import ConfigError
from wt_jax.experiment import build_method
from wt_jax.specs import Choice, ClipView


def cross_entropy(logits, labels):
    logits = np.asarray(logits, np.float64)
    return float(np.mean([np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels, strict=True)]))


def outcome(config):
    """Method, its batch, key and parameters, and its loss and metrics."""
    method, state, _ = first(config)
    batch, key = finished(method, next(batches(method, 1))), jax.random.key(3)
    # Heads start near 0, where a wrong label would hardly show.
    params = {**state.params, "head": jax.tree.map(lambda leaf: leaf * 100, state.params["head"])}
    loss, (_, metrics) = jax.jit(method.loss)(params, state.method_state, batch, key, jnp.int32(0))
    return method, batch, key, params, float(loss), {name: float(value) for name, value in metrics.items()}


def test_variants_of_v3s_are_a_product_and_labels_name_them():
    views = build_method(small_config("v3s"), 10).views["clip"].views
    base = small_config("v3s").strong_view
    labels = list(itertools.product(range(4), range(3), range(4)))
    assert len(views) == len(set(views)) == 48
    for choice, (rate, ramp, sides) in enumerate(labels):
        view = views[choice]
        assert view.stride == base.stride * (1, 2, 4, 8)[rate]
        assert view.ramp == (1, 0.5, 2)[ramp]
        width, height = ((1, 1), (0.5, 1), (1, 0.5), (0.5, 0.5))[sides]
        assert view.aspect == (width / height, width / height)
        assert view.area == (0.25 * width * height, 0.5 * width * height)
        assert np.unravel_index(choice, (4, 3, 4)) == (rate, ramp, sides)
    with pytest.raises(ConfigError, match="'video' leaves no rates"):
        small_config("v3s", clip__unit="video", clip__stride=1.0)


def test_the_loss_of_v3s_is_the_weighted_sum_of_four_cross_entropies():
    weights = {"rate": 1.0, "ramp": 0.0, "sides": 2.0, "perspective": 0.5}
    changes = {f"method__{name}_weight": weight for name, weight in weights.items()}
    method, batch, key, params, loss, metrics = outcome(small_config("v3s", **changes))
    perspective = np.asarray(draw_perspective(key, batch["video"]))
    clips = warp(batch["clip"], perspective_matrices(perspective, 16, 16, 0.6), 16)
    logits = np.asarray(method.network.apply({"params": params}, clips, True))
    labels = [*np.unravel_index(np.asarray(batch["clip.choice"]), (4, 3, 4)), perspective]
    expected = 0.0
    for name, part, label in zip(weights, np.split(logits, [4, 7, 11], axis=1), labels, strict=True):
        expected += weights[name] * cross_entropy(part, label)
        assert metrics[f"accuracy_{name}"] == pytest.approx(np.mean(part.argmax(axis=1) == label))
    assert loss == pytest.approx(expected, rel=1e-4)


def test_no_perspective_is_no_change():
    clips = np.random.default_rng(0).random((1, 2, 16, 16, 3), np.float32)
    none = jnp.array([PERSPECTIVES.index("none")])
    np.testing.assert_allclose(warp(clips, perspective_matrices(none, 16, 16), 16), clips, atol=1e-5)


def test_a_video_too_short_for_one_variant_is_shown_in_none(tmp_path):
    paths = [write_video(tmp_path / f"{count}.mp4", count) for count in (6, 40)]
    videos = VideoList(tuple(paths), np.array([0, 1], np.int32))
    near, far = (ClipView(num_frames=4, stride=stride, size=16, loop=False) for stride in (1, 4))
    for view, least in ((Choice((near, far)), 13), (near, 4), (far, 13)):
        shown, failed = [], []
        for batch in train_batches(videos, {"clip": view}, seed=0, batch_size=8, num_steps=2):
            shown += batch["video"].tolist()
            failed += batch["failed"].tolist()
        assert set(shown) == ({1} if least > 6 else {0, 1})
        assert (0 in failed) == (least > 6)
    assert "its 6 frames are too few for view 'clip'" in describe_failure(videos[0], {"clip": far})
    seconds = ClipView(num_frames=4, stride=1.0, unit="seconds", size=16, loop=False)
    assert "too few" in describe_failure(videos[1], {"clip": seconds})


def test_a_still_video_shows_nothing_of_its_rate_or_pace(tmp_path):
    """So a network cannot tell them from such a video: its temporal heads are at chance. Keyframes would be a cue."""
    frame = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    write_mp4(tmp_path / "still.mp4", np.repeat(frame[None], 80, axis=0))
    views = build_method(small_config("v3s"), 10).views["clip"].views
    seen = []
    for view in views[::4]:  # all rates and paces of one shape of the crop
        out = {"clip": np.zeros((view.num_frames, view.size, view.size, 3), np.uint8)}
        read_views(Record(0, str(tmp_path / "still.mp4"), 0), {"clip": view}, np.random.default_rng(1), out)
        seen.append(out["clip"].astype(int))
    assert len(seen) == 12
    assert seen[0].std() > 20
    assert np.abs(np.array(seen) - seen[0]).max() <= 2


@pytest.mark.parametrize("count", [2, 3, 4])
def test_an_order_and_its_reverse_are_one_class(count):
    orders = frame_orders(count)
    assert sorted(map(tuple, orders)) == sorted(itertools.permutations(range(count)))
    half = len(orders) // 2
    np.testing.assert_array_equal(orders[half:], orders[:half, ::-1])


def test_frames_are_reordered_as_the_label_says():
    clips = np.broadcast_to(np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1, 1), (2400, 4, 1, 1, 1))
    shuffled, label = reorder_frames(clips, jnp.arange(2400), jax.random.key(0))
    seen = np.asarray(shuffled)[:, :, 0, 0, 0].astype(int)
    for row, kind in zip(seen, np.asarray(label), strict=True):
        assert tuple(row) in {tuple(frame_orders(4)[kind]), tuple(frame_orders(4)[kind][::-1])}
    counts = np.bincount(label, minlength=12)
    assert ((counts - 200) ** 2 / 200).sum() < 31.3  # chi-squared, 11 degrees of freedom, 0.1 %
    assert 0.45 < np.mean(seen[:, 0] < seen[:, -1]) < 0.55  # a class in both directions
    alone, kind = reorder_frames(clips[7:8], jnp.array([7]), jax.random.key(0))
    np.testing.assert_array_equal(alone[0], shuffled[7])
    assert kind[0] == label[7]
    still = np.ones((5, 4, 2, 2, 3), np.float32) * np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1, 1)
    np.testing.assert_array_equal(reorder_frames(still, jnp.arange(5), jax.random.key(1))[0], still)


@pytest.mark.parametrize("separate", [False, True])
def test_the_loss_of_order_and_geometry_equals_numpy(separate):
    from wt_jax.augment.warp import AffineRange, affine_matrices, draw_affine

    method, batch, key, params, loss, metrics = outcome(
        small_config("order_geometry", method__geometry_weight=0.7, method__separate=separate)
    )
    size = method.views["clip"].size
    assert size == 29
    order_key, warp_key = jax.random.split(key)
    draws = draw_affine(warp_key, batch["video"], AffineRange())
    warped = warp(batch["clip"], affine_matrices(draws, AffineRange(), 16), 16)
    still = warp(batch["clip"], affine_matrices(draws * 0, AffineRange(), 16), 16)
    shuffled, label = reorder_frames(still if separate else warped, batch["video"], order_key)
    clips = jnp.concatenate([shuffled, warped]) if separate else shuffled
    outputs = np.asarray(method.network.apply({"params": params}, clips, True))
    orders, geometry = (outputs[:8], outputs[8:]) if separate else (outputs, outputs)
    error = np.abs(geometry[:, 12:] - np.asarray(draws))
    smooth = np.where(error < 1, error**2 / 2, error - 0.5).mean()
    assert np.abs(draws).max() <= 1
    assert loss == pytest.approx(cross_entropy(orders[:, :12], np.asarray(label)) + 0.7 * smooth, rel=1e-4)
    assert metrics["loss_geometry"] == pytest.approx(smooth, rel=1e-4)
