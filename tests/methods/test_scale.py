"""SCALE: its losses beside loops and its authors' module, and what a set of clips does not depend on."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.training import batches, finished, first, small_config

from wt_jax.config import ModelConfig
from wt_jax.losses import masked_clip_loss, set_contrast
from wt_jax.models import build_encoder, first_encoder_variables
from wt_jax.models.set_transformer import SetEncoder, SetTransformer, relative_positions

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
