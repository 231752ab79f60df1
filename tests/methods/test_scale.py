"""SCALE: its losses beside loops and its authors' module, and what a set of clips does not depend on."""

import importlib
import os
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from support.training import batches, finished, first, small_config

from wt_jax.config import ModelConfig
from wt_jax.losses import masked_clip_loss, set_contrast
from wt_jax.models import build_encoder, first_encoder_variables
from wt_jax.models.set_transformer import SetEncoder, SetHead, SetPredictor, SetTransformer, relative_positions

B, W, D = 3, 5, 12


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def loop_cross_entropy(rows, columns, temperature):
    """-log of the share of its own column, row by row."""
    values = []
    for i, row in enumerate(rows.astype(np.float64)):
        scores = [np.exp(sum(a * b for a, b in zip(row, column, strict=True)) / temperature) for column in columns]
        values.append(-np.log(scores[i] / sum(scores)))
    return np.array(values)


def test_losses_equal_loops():
    rng = np.random.default_rng(0)
    first_set, second_set = unit(rng, 6, D), unit(rng, 6, D)
    expected = (loop_cross_entropy(first_set, second_set, 0.2) + loop_cross_entropy(second_set, first_set, 0.2)) / 2
    np.testing.assert_allclose(set_contrast(first_set, second_set), expected, rtol=1e-5)
    masked = np.array([True, False, True, True, False, False])
    expected = np.where(masked, loop_cross_entropy(first_set, second_set, 0.1), 0.0)
    np.testing.assert_allclose(masked_clip_loss(first_set, second_set, masked, temperature=0.1), expected, rtol=1e-5)
    assert float(set_contrast(first_set[:1], second_set[:1])[0]) == pytest.approx(0.0, abs=1e-6)


def test_positions_are_relative_to_what_the_clips_cover():
    rng = np.random.default_rng(1)
    geometry = np.sort(rng.random((B, W, 7)).astype(np.float32))
    geometry[..., 0] = rng.integers(2, size=(B, W))
    found = np.asarray(relative_positions(geometry))
    for b in range(B):
        for low, high in ((1, 3), (2, 4), (5, 6)):
            start, end = geometry[b, :, low].min(), geometry[b, :, high].max()
            for column in (low, high):
                np.testing.assert_allclose(found[b, :, column], (geometry[b, :, column] - start) / (end - start), atol=1e-6)
    np.testing.assert_array_equal(found[..., 0], geometry[..., 0])
    moved = geometry * np.array([1, 0.5, 0.2, 0.5, 0.2, 0.3, 0.3], np.float32)
    moved += np.array([0, 0.1, 0.3, 0.1, 0.3, 0.4, 0.4], np.float32)
    np.testing.assert_allclose(relative_positions(moved), found, atol=1e-5)
    still = np.tile(geometry[:, :1], (1, W, 1)) * 0 + 0.5  # no extent at all
    assert np.isfinite(relative_positions(still)).all()


def test_a_set_has_no_order():
    rng, network = np.random.default_rng(2), SetTransformer(32)
    features, positions = rng.normal(size=(B, W, D)).astype(np.float32), rng.random((B, W, 7)).astype(np.float32)
    features[:, 1], positions[:, 1] = features[:, 0], positions[:, 0]
    variables = jax.jit(lambda key: network.init(key, features, positions, False))(jax.random.key(0))
    # Tokens start at 0, which would hide a mistake with them.
    variables = jax.tree.map(lambda leaf: leaf + 0.1 if leaf.ndim == 1 else leaf, variables)
    hidden, order = rng.random((B, W)) < 0.5, rng.permutation(W)
    hidden[:, 0] = hidden[:, 1]
    together, outputs = network.apply(variables, features, positions, False, hidden)
    np.testing.assert_allclose(outputs[:, 0], outputs[:, 1], atol=1e-5)
    again = network.apply(variables, features[:, order], positions[:, order], False, hidden[:, order])
    np.testing.assert_allclose(again[0], together, atol=1e-5)
    np.testing.assert_allclose(again[1], outputs[:, order], atol=1e-5)
    # What is hidden has no gradient.
    slope = jax.grad(lambda x: jnp.sum(network.apply(variables, x, positions, False, hidden)[0]))(features)
    assert not np.any(slope[hidden])
    assert np.all(np.any(slope[~hidden], axis=-1))


def test_the_encoder_of_videos_is_its_backbone_and_the_set():
    model = ModelConfig("tiny", width=4, norm="batch", aggregator="set_transformer")
    encoder = build_encoder(model)
    assert isinstance(encoder, SetEncoder)
    clips = jnp.asarray(np.random.default_rng(3).random((6, 4, 16, 16, 3), np.float32))
    variables = jax.jit(lambda key: first_encoder_variables(encoder, key, clips[:1]))(jax.random.key(0))
    assert set(variables) == {"params", "frozen"}
    features = encoder.apply(variables, clips, False, method="clip_features")
    plain = build_encoder(replace(model, aggregator=""))
    np.testing.assert_allclose(features, plain.apply(variables["frozen"]["clip_encoder"], clips, False), atol=1e-6)
    geometry = jnp.asarray(np.random.default_rng(4).random((2, 3, 7), np.float32))
    found = encoder.apply(variables, features.reshape(2, 3, -1), geometry, False)
    assert found.shape == (2, encoder.feature_dim)
    np.testing.assert_allclose(found[:, : plain.feature_dim], features.reshape(2, 3, -1).mean(axis=1), atol=1e-6)
    with pytest.raises(ValueError, match="did you mean 'set_transformer'"):
        build_encoder(ModelConfig(aggregator="set_transfomer"))


def test_the_loss_is_the_mean_of_both_and_0_where_nothing_is_hidden():
    method, state, _ = first(small_config("scale"))
    batch = finished(method, next(batches(method, 1)))

    def metrics_of(method):
        return jax.jit(method.loss)(state.params, state.method_state, batch, jax.random.key(0), jnp.int32(0))[1][1]

    both = metrics_of(method)
    assert both["loss_set"] > 0
    assert both["loss_clips"] > 0
    assert float(both["loss"]) == pytest.approx(float(both["loss_set"] + both["loss_clips"]) / 2)
    unmasked = metrics_of(replace(method, settings=replace(method.settings, mask=0.0, set_weight=0.0)))
    assert unmasked["loss"] == unmasked["loss_clips"] == 0.0


OFFICIAL = os.environ.get("WT_JAX_OFFICIAL_SCALE", "")  # the folder `src` of github.com/Separius/SCALE


@pytest.mark.slow
@pytest.mark.skipif(not OFFICIAL, reason="WT_JAX_OFFICIAL_SCALE names no folder with the authors' scale.py")
def test_losses_and_gradients_equal_the_authors_module(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(sys, "path", [OFFICIAL, *sys.path])
    official = importlib.import_module("scale")

    class Constructed(official.Scale):
        """The stored class reads `mask_ratio` before it is set, and never calls the constructor of its base."""

        def __init__(self, **arguments):
            torch.nn.Module.__init__(self)
            self.mask_ratio = 0.25
            super().__init__(D, **arguments)

    torch.manual_seed(0)
    theirs = Constructed(hidden_size=64, set_dim=16, dense_dim=16, mlp_ratio=2.0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    rng = np.random.default_rng(5)
    features = rng.normal(size=(B, 2, W, D)).astype(np.float32)
    positions = rng.random((B, 2, W, 7)).astype(np.float32)
    draws = rng.random((2 * B, W)).astype(np.float32)
    hidden = (draws < 0.25).reshape(B, 2, W)
    assert hidden.any()
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.from_numpy(draws))
    out = theirs(torch.from_numpy(features), torch.from_numpy(positions))
    loss = (out["set_loss"] + out["dense_loss"]) / 2
    loss.backward()

    backbone = build_encoder(ModelConfig("small_r2plus1d", width=4))
    ours = SetPredictor(SetEncoder(backbone, 64), SetHead(4096, 16, 2), SetHead(4096, 16, 2), SetHead(2048, 16, 3))
    variables = ours.init(jax.random.key(0), features[:1, 0], positions[:1, 0], False)
    imported = as_ours({name: p.detach().numpy() for name, p in theirs.named_parameters()})
    gradients = as_ours({name: p.grad.numpy() for name, p in theirs.named_parameters()})
    assert {k: v.shape for k, v in imported.items()} == {k: v.shape for k, v in flat(variables["params"]).items()}

    def value(params):
        state = {"params": params, "frozen": variables["frozen"]}
        sets, predicted, targets = ours.apply(state, features, positions, False, hidden)
        clips = masked_clip_loss(predicted.reshape(-1, 16), targets.reshape(-1, 16), hidden.reshape(-1))
        return (jnp.mean(set_contrast(sets[:, 0], sets[:, 1])) + jnp.sum(clips) / hidden.sum()) / 2

    with jax.default_matmul_precision("float32"):
        found, slope = jax.value_and_grad(value)(unflatten_dict(imported, sep="/"))
    assert float(found) == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, gradient in flat(slope).items():
        if name.endswith("key/bias"):
            continue  # it changes nothing, so that its gradient is rounding alone
        scale = np.abs(gradients[name]).max()
        assert np.abs(gradient - gradients[name]).max() < 1e-5 * max(scale, 1e-2), name


def flat(tree):
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(tree, sep="/").items()}


def as_ours(theirs):
    """Arrays by the authors' names as ours."""
    found = {}
    linear = {"input_projection": "project", "pos_encoding_mlp.0": "place1", "pos_encoding_mlp.2": "place2"}
    linear |= {f"transformer.{i}.mlp.fc{j}": f"block{i + 1}/dense{j}" for i in (0, 1) for j in (1, 2)}
    norms = {"norm": "norm"} | {f"transformer.{i}.norm{j}": f"block{i + 1}/norm{j}" for i in (0, 1) for j in (1, 2)}
    for name, to in linear.items():
        found[f"encoder/aggregator/{to}/kernel"] = theirs[f"{name}.weight"].T
        found[f"encoder/aggregator/{to}/bias"] = theirs[f"{name}.bias"]
    for name, to in norms.items():
        found[f"encoder/aggregator/{to}/scale"] = theirs[f"{name}.weight"]
        found[f"encoder/aggregator/{to}/bias"] = theirs[f"{name}.bias"]
    for name, to in {"set_cls_token": "cls", "msk_token": "mask"}.items():
        found[f"encoder/aggregator/{to}"] = theirs[name].reshape(-1)
    for i in (0, 1):
        place, width = f"encoder/aggregator/block{i + 1}/attention", theirs["set_cls_token"].shape[-1]
        weights = theirs[f"transformer.{i}.attn.qkv.weight"].reshape(3, width // 32, 32, width)
        biases = theirs[f"transformer.{i}.attn.qkv.bias"].reshape(3, width // 32, 32)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            found[f"{place}/{name}/kernel"], found[f"{place}/{name}/bias"] = np.moveaxis(weight, -1, 0), bias
        out = theirs[f"transformer.{i}.attn.proj.weight"].T
        found[f"{place}/out/kernel"] = out.reshape(width // 32, 32, width)
        found[f"{place}/out/bias"] = theirs[f"transformer.{i}.attn.proj.bias"]
    heads = {"set_head": ("set_head", 2), "dense_pred_head": ("clip_head", 2), "dense_target_head": ("target_head", 3)}
    for name, (to, layers) in heads.items():
        for layer in range(layers):
            found[f"{to}/dense{layer + 1}/kernel"] = theirs[f"{name}.{2 * layer}.weight"].T
    return found
