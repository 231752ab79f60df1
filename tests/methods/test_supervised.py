"""The supervised method: its loss by hand, frozen encoders, layer-wise rates, labels that are missing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.training import BATCH, largest_gap, mesh_of, videos

from configs.supervised import get_config
from wt_jax.data.records import VideoList
from wt_jax.errors import ConfigError
from wt_jax.eval.run import prepare
from wt_jax.experiment import build_method, resolve
from wt_jax.methods.base import encoder_variables
from wt_jax.methods.supervised import keep_factors
from wt_jax.train import program as building
from wt_jax.train.optim import layer_scales, make_optimizer
from wt_jax.train.sharding import put_batch
from wt_jax.weights.folder import save_encoder

CLASSES = 3


def small_config(**changes):
    config = get_config()
    config.clip.num_frames, config.clip.size = 4, 16
    config.model.name, config.model.width = "small_r2plus1d", 8
    config.method.num_classes, config.method.dropout = CLASSES, 0.0
    config.train.batch_size, config.train.duration = BATCH, "20 steps"
    config.optim.name, config.optim.learning_rate, config.optim.warmup = "sgd", 0.5, "0 steps"
    for key, value in changes.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return resolve(config)


def batches(count, seed=0):
    """Real clips of three motions, their labels with them."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        video = rng.permutation(12)[:BATCH].astype(np.int32)
        start = int(rng.integers(20))
        clip = videos()[video, start : start + 4]
        yield {"clip": clip, "video": video, "label": video % CLASSES, "failed": np.full(BATCH, -1, np.int32)}


def program_of(monkeypatch, config, devices=1):
    monkeypatch.setattr(building, "make_mesh", lambda fsdp, _: mesh_of(devices))
    return building.build(config, 12)


def run(program, steps=3, batch=None):
    state, losses = program.first_state(), []
    for each in batches(steps) if batch is None else [batch] * steps:
        state, metrics = program.step(state, put_batch(each, program.mesh))
        losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state)


@functools.cache
def built(**settings):
    """A method with its first state and a batch as `loss` reads it."""
    config = small_config(**{f"method__{name}": value for name, value in settings.items()})
    method = build_method(config, 20)
    batch = {k: jnp.asarray(v, jnp.float32) / 255 if v.ndim == 5 else jnp.asarray(v) for k, v in next(batches(1)).items()}
    return method, method.init(jax.random.key(1), batch, {}), batch


def loss_of(method, first, batch, key):
    with jax.numpy_dtype_promotion("strict"):
        value, (state, metrics) = jax.jit(method.loss)(first.params, first, batch, key, jnp.int32(0))
    assert (state.buffers, state.teacher) == ({}, {})
    return float(value), state.model_state, metrics


def reference(method, first, clips, label, *, smoothing=0.0, share=1.0, keep=None):
    """Cross-entropy and top-1 in NumPy; `share` is the weight of a clip against the one mirrored in the batch."""
    clips, one_hot = np.asarray(clips), np.eye(CLASSES)[np.asarray(label)]
    clips, one_hot = (share * x + (1 - share) * x[::-1] for x in (clips, one_hot))
    variables = encoder_variables(first.params, first.model_state)
    clips = jnp.asarray(clips, jnp.float32)
    feature = np.asarray(method.encoder.apply(variables, clips, True, mutable=["batch_stats"])[0], np.float64)
    feature = feature if keep is None else feature * np.asarray(keep)
    dense = first.params["head"]["dense"]
    logits = feature @ np.asarray(dense["kernel"], np.float64) + np.asarray(dense["bias"], np.float64)
    target = np.zeros_like(one_hot)
    for row in range(len(target)):
        for column in range(CLASSES):
            target[row, column] = one_hot[row, column] * (1 - smoothing) + smoothing / CLASSES
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -(target * log_p).sum(axis=1).mean(), one_hot[np.arange(len(logits)), logits.argmax(axis=1)].mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_loss_is_the_smoothed_cross_entropy(smoothing):
    method, first, batch = built(label_smoothing=smoothing)
    value, _, metrics = loss_of(method, first, batch, jax.random.key(0))
    expected, accuracy = reference(method, first, batch["clip"], batch["label"], smoothing=smoothing)
    assert value == pytest.approx(expected, abs=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(accuracy, abs=1e-6)
    assert float(metrics["accuracy_top5"]) == pytest.approx(1.0)  # of three classes


def test_mixup_mixes_clips_and_labels_by_one_share():
    method, first, batch = built(mixup_alpha=0.8, label_smoothing=0.1)
    seen = set()
    for seed in range(3):
        key = jax.random.key(seed)
        share = float(jax.random.beta(jax.random.split(key)[0], 0.8, 0.8, dtype=jnp.float32))
        seen.add(share)
        value, _, metrics = loss_of(method, first, batch, key)
        expected, accuracy = reference(method, first, batch["clip"], batch["label"], smoothing=0.1, share=share)
        assert value == pytest.approx(expected, abs=1e-5)
        assert float(metrics["accuracy"]) == pytest.approx(accuracy, abs=1e-6)
    assert len(seen) == 3


def test_dropout_scales_what_it_keeps_and_follows_the_video():
    method, first, batch = built(dropout=0.6)
    key = jax.random.key(2)
    keep = keep_factors(jax.random.split(key)[1], batch["video"], method.encoder.feature_dim, 0.6)
    value, _, _ = loss_of(method, first, batch, key)
    assert value == pytest.approx(reference(method, first, batch["clip"], batch["label"], keep=keep)[0], abs=1e-5)
    many = np.asarray(keep_factors(key, jnp.arange(100), 200, 0.6))
    assert set(np.unique(many)) == {np.float32(0), np.float32(2.5)}
    assert many.mean() == pytest.approx(1.0, abs=0.05)
    np.testing.assert_array_equal(keep_factors(key, jnp.array([7, 3]), 200, 0.6), many[[7, 3]])
    logits = [method.network.apply({"params": first.params, **first.model_state}, batch["clip"], False) for _ in range(2)]
    np.testing.assert_array_equal(*logits)  # none in evaluation


@pytest.mark.parametrize("norm", ["batch", "l2_batch"])
def test_a_probe_normalizes_the_feature_as_said(norm):
    method, first, batch = built(freeze="encoder", head_norm=norm)
    value, state, _ = loss_of(method, first, batch, jax.random.key(0))
    feature = np.asarray(method.encoder.apply(encoder_variables(first.params, first.model_state), batch["clip"], False))
    if norm == "l2_batch":
        feature = feature / np.linalg.norm(feature, axis=1, keepdims=True)
    x = (feature - feature.mean(axis=0)) / np.sqrt(feature.var(axis=0) + 1e-5)
    logits = x @ np.asarray(first.params["head"]["dense"]["kernel"])
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert value == pytest.approx(-log_p[np.arange(BATCH), batch["label"]].mean(), abs=1e-4)
    moved = np.asarray(state["batch_stats"]["head"]["norm"]["mean"])
    np.testing.assert_allclose(moved, 0.1 * feature.mean(axis=0), atol=1e-6)


def test_a_frozen_encoder_stays_bit_for_bit(monkeypatch):
    config = small_config(method__freeze="encoder", method__head_norm="l2_batch", optim__name="adamw", optim__weight_decay=0.1)
    program = program_of(monkeypatch, config)
    before = jax.device_get(program.first_state())
    _, after = run(program)
    encoders = [encoder_variables(state.params, state.model_state) for state in (before, after)]
    assert "batch_stats" in encoders[0]
    jax.tree.map(np.testing.assert_array_equal, *encoders)
    assert largest_gap(before.params["head"], after.params["head"]) > 1e-4
    assert largest_gap(before.model_state["batch_stats"]["head"], after.model_state["batch_stats"]["head"]) > 1e-4
    kept = sum(leaf.size for leaf in jax.tree.leaves(after.opt_state))
    assert kept < sum(leaf.size for leaf in jax.tree.leaves(after.params["encoder"]))  # no moments of the encoder


def test_no_gradient_is_computed_through_a_frozen_encoder():
    def products(freeze):
        method, first, batch = built(freeze=freeze)

        def loss(params):
            return method.loss(params, first, batch, jax.random.key(0), jnp.int32(0))[0]

        return jax.jit(jax.grad(loss)).lower(first.params).compile().cost_analysis()["flops"]

    assert products("encoder") < 0.5 * products("")


def test_loss_falls_on_eight_clips(monkeypatch):
    still = {f"views__strong__pixels__{name}_probability": 0.0 for name in ("jitter", "gray", "blur")}
    config = small_config(optim__name="adam", optim__learning_rate=0.3, **still)
    losses, _ = run(program_of(monkeypatch, config), 20, next(batches(1)))
    assert losses[0] == pytest.approx(np.log(CLASSES), abs=0.2)
    assert np.mean(losses[-3:]) < 0.5 * losses[0]


def test_four_devices_equal_one(monkeypatch):
    settings = {"dropout": 0.5, "mixup_alpha": 0.4, "head_norm": "batch"}
    config = small_config(**{f"method__{name}": value for name, value in settings.items()}, optim__layer_decay=0.7)
    one, four = (run(program_of(monkeypatch, config, devices)) for devices in (1, 4))
    np.testing.assert_allclose(one[0], four[0], atol=1e-5)
    assert largest_gap(one[1].params, four[1].params) < 1e-5


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_layer_decay_scales_each_layer_by_its_depth(name):
    method, first, _ = built()
    layers = ("space1", "time1", "space2", "time2", "space3", "time3")
    assert method.encoder.layers == layers
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.3), first.params)
    updates = []
    for decay in (1.0, 0.5):
        config = small_config(optim__name=name, optim__weight_decay=0.1, optim__layer_decay=decay).optim
        optimizer = make_optimizer(config, optax.constant_schedule(0.1), layers)
        updates.append(optimizer.update(grads, optimizer.init(first.params), first.params)[0])
    plain, scaled = updates
    jax.tree.map(np.testing.assert_array_equal, scaled["head"], plain["head"])
    assert set(scaled["encoder"]) == set(layers)
    for depth, layer in enumerate(reversed(layers), start=1):
        expected = jax.tree.map(lambda leaf, factor=0.5**depth: leaf * factor, plain["encoder"][layer])
        jax.tree.map(np.testing.assert_array_equal, scaled["encoder"][layer], expected)


def test_a_norm_on_top_has_the_full_rate():
    matrix, vector = np.ones((2, 2)), np.ones(2)
    block = {"dense": {"kernel": matrix, "bias": vector}, "norm": {"scale": vector}}
    encoder = {"block1": block, "block2": block, "norm": {"scale": vector}, "fc_norm": {"scale": vector}}
    scales = layer_scales({"encoder": encoder, "head": {"kernel": matrix}}, ("block1", "block2", "norm"), 0.5)
    expected = {"block1": {0.25}, "block2": {0.5}, "norm": {1.0}, "fc_norm": {1.0}}
    assert {name: set(jax.tree.leaves(part)) for name, part in scales["encoder"].items()} == expected
    assert scales["head"] == {"kernel": 1.0}


def test_a_part_without_a_depth_is_named():
    _, first, _ = built()
    with pytest.raises(ConfigError, match="'time3' is none of its layers"):
        layer_scales(first.params, ("space1", "time1", "space2", "time2", "space3"), 0.5)


def test_training_starts_from_exported_weights(monkeypatch, tmp_path):
    config = small_config()
    method, first, batch = built()
    shifted = jax.tree.map(lambda leaf: leaf + 0.01, encoder_variables(first.params, first.model_state))
    save_encoder(tmp_path / "encoder", config.model, shifted)
    program = program_of(monkeypatch, small_config(model__weights=str(tmp_path / "encoder")))
    state = program.first_state()
    started = method.encoder.apply(encoder_variables(state.params, state.model_state), batch["clip"], False)
    np.testing.assert_array_equal(started, method.encoder.apply(shifted, batch["clip"], False))


def test_the_classes_come_from_the_data():
    config = small_config(method__num_classes=0)
    labelled = VideoList(("a.mp4", "b.mp4"), np.array([0, 1], np.int32), ("run", "walk"))
    assert prepare(config, labelled).program.method.num_classes == 2
    assert prepare(small_config(method__num_classes=5), labelled).program.method.num_classes == 5
    with pytest.raises(ConfigError, match=r"num_classes is 1, but .* have 2 classes"):
        prepare(small_config(method__num_classes=1), labelled)
    with pytest.raises(ConfigError, match="has no labels, and supervised learns from them"):
        prepare(config, VideoList(("a.mp4",), np.array([-1], np.int32)))
    with pytest.raises(ConfigError, match="num_classes is 0"):
        _ = build_method(config, 10).network


@pytest.mark.parametrize(
    ("field", "value"),
    [("freeze", "head"), ("head_norm", "group"), ("dropout", 1.0), ("label_smoothing", -0.1), ("mixup_alpha", -1.0)],
)
def test_settings_are_checked(field, value):
    with pytest.raises(ConfigError, match=rf"config\.method\.{field} must"):
        small_config(**{f"method__{field}": value})
