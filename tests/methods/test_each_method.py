"""What is a method's own: limits that equal another method, schedules, pathways, levels, the terms of a loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.training import batches, filled, finished, first, largest_gap, small_config

from wt_jax.experiment import build_method
from wt_jax.losses import info_nce
from wt_jax.methods import METHODS


def value_of(config, buffers=None, step=3):
    """A method's loss on real clips, its gradient, the new memory and the figures."""
    method, state, _ = first(config)
    batch = finished(method, next(batches(method, 1)))
    now = state.method_state._replace(buffers=filled(state.buffers) if buffers is None else buffers)
    arguments = (state.params, now, batch, jax.random.key(0), jnp.int32(step))
    (loss, (after, metrics)), gradient = jax.jit(jax.value_and_grad(method.loss, has_aux=True))(*arguments)
    return float(loss), gradient, after.buffers, metrics


def test_moco_with_one_query_is_the_weak_teacher_with_label_weight_zero():
    moco = value_of(small_config("moco", method__symmetric=False, method__temperature=0.07))
    one_hot = value_of(small_config("one_hot"))
    unweighted = value_of(small_config("weak_teacher", method__label_weight=0.0))
    assert moco[0] == pytest.approx(one_hot[0], abs=1e-6)
    assert moco[0] == pytest.approx(unweighted[0], abs=1e-6)
    assert largest_gap(moco[1], one_hot[1]) < 1e-6
    assert largest_gap(moco[1], unweighted[1]) < 1e-6
    np.testing.assert_allclose(moco[2]["key"], one_hot[2]["key"], atol=1e-6)


def test_moco_sums_over_queries_the_mean_over_keys_and_enqueues_the_keys_of_all_clips():
    method, state, _ = first(small_config("moco", method__clips=3, method__queue__size=24))
    batch, memory = finished(method, next(batches(method, 1))), filled(state.buffers)
    now = state.method_state._replace(buffers=memory)
    loss, (after, _) = jax.jit(method.loss)(state.params, now, batch, jax.random.key(0), jnp.int32(3))
    after = after.buffers
    network = method.network
    embed = jax.jit(lambda clips: network.apply({"params": state.params}, clips, True)[0])
    keys = [embed(batch[f"clip{i}"]) for i in (1, 2, 3)]  # student and teacher are equal
    expected = 0.0
    for i, query in enumerate(keys):
        others = [info_nce(query, key, memory["key"], temperature=0.1).mean() for j, key in enumerate(keys) if j != i]
        expected += float(np.mean(others))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(after["key"], np.concatenate(keys), atol=1e-5)


def test_moco_without_a_queue_and_with_a_predictor():
    config = small_config("moco", method__queue__size=0, method__predictor=True, method__head__norm="batch")
    loss, gradient, memory, _ = value_of(config)
    assert memory == {}
    assert np.isfinite(loss)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["predictor"]["dense2"]["kernel"]))


def test_the_weak_view_of_ressl_flips_as_often_as_the_strong_one_and_its_head_has_no_norm():
    method = build_method(small_config("ressl", views__strong__flip_probability=0.5, views__weak__flip_probability=0.0), 10)
    assert {name: view.flip_probability for name, view in method.views.items()} == {"query": 0.5, "key": 0.5}
    assert METHODS["ressl"].settings().head.norm == ""


def test_prototypes_are_frozen_at_first_and_the_queue_waits():
    config = small_config("swav", method__freeze_prototypes=0.5, method__queue__start=0.5)
    assert build_method(config, 20).needs.frozen == {"prototypes": 10}
    early, late = (value_of(config, step=step) for step in (0, 15))
    no_queue = value_of(small_config("swav", method__queue__size=0, method__prototypes=8, method__freeze_prototypes=0.0))
    assert np.isfinite(no_queue[0])
    assert early[0] != pytest.approx(late[0], abs=1e-6)


def test_optical_flow_feeds_the_motion_pathway():
    config = small_config("modist", method__motion="flow", method__motion_weight=1.0)
    assert {name: view.content for name, view in build_method(config, 10).views.items()} == {
        "query": "rgb",
        "key": "rgb",
        "query_motion": "flow",
        "key_motion": "flow",
    }


def test_motion_clips_span_the_time_of_their_rgb_clips():
    views = build_method(small_config("modist", clip__stride=4.0, method__motion_rate=2), 10).views
    rgb, motion = views["query"], views["query_motion"]
    assert (motion.num_frames, motion.stride) == (2 * rgb.num_frames, rgb.stride / 2)
    assert motion.window == rgb.window


def test_levels_of_hdc_end_the_thirds_of_the_encoder_and_invariance_shifts_their_weight():
    method = build_method(small_config("hdc"), 10)
    assert method.levels == ("time1", "space2", "time2")
    _, state, _ = first(small_config("hdc"))
    uneven = {kind: jnp.array([0.1, 0.1, 0.8]) for kind in state.buffers}
    loss, _, _, metrics = value_of(small_config("hdc"), buffers=uneven)
    terms = [[float(metrics[f"loss_{kind}_{level}"]) for level in method.levels] for kind in uneven]
    assert loss == pytest.approx(sum(np.dot(row, [0.1, 0.1, 0.8]) for row in terms), rel=1e-5)
    equal = value_of(small_config("hdc", method__weighting="equal"), buffers=uneven)[0]
    assert equal == pytest.approx(sum(np.mean(row) for row in terms), rel=1e-5)


def test_vtdl_pushes_away_another_segment_of_the_same_video():
    config = small_config("vtdl", method__mix=0.0)
    method, state, _ = first(config)
    batch, now = finished(method, next(batches(method, 1))), state.method_state._replace(buffers=filled(state.buffers))
    same = {**batch, "negative": batch["anchor"]}

    @jax.jit
    def loss(batch):
        return method.loss(state.params, now, batch, jax.random.key(0), jnp.int32(3))[0]

    # A negative that is the anchor itself costs more than another segment does.
    assert float(loss(same)) > float(loss(batch))


def naive_labels(w, queue, mask, temperature, weight, key=None):
    """The artificial label, one video at a time, in float64."""
    labels = np.zeros((len(w), 1 + len(queue)))
    for i in range(len(w)):
        slots = [j for j in range(len(queue)) if mask[i, j]]
        compared = [queue[j] for j in slots] + ([] if key is None else [key[i]])
        scores = np.exp(np.array([np.float64(w[i]) @ np.float64(x) / temperature for x in compared]))
        shares = scores / scores.sum()
        labels[i, 0] = 1 - weight + (0.0 if key is None else weight * shares[-1])
        labels[i, [1 + j for j in slots]] = weight * shares[: len(slots)]
    return labels


def naive_loss(q, k, queue, labels, mask, temperature):
    """Cross-entropy of the similarities to [k, queue] against labels, mean over videos."""
    losses = []
    for i in range(len(q)):
        used = [0] + [1 + j for j in range(len(queue)) if mask[i, j]]
        logits = np.concatenate([[np.float64(q[i]) @ k[i]], np.float64(queue) @ q[i]])[used] / temperature
        losses.append(np.log(np.exp(logits).sum()) - labels[i, used] @ logits)
    return np.mean(losses)


READINGS = {
    "queue": {},
    "batch": {"method__queue__size": 0},
    "both": {"method__queue__in_batch": True},
    "positive": {"method__include_positive": True},
    "symmetric": {"method__symmetric": True},
}


@pytest.mark.parametrize("changes", READINGS.values(), ids=READINGS)
def test_the_readings_of_claim_1(changes):
    config = small_config("weak_teacher", **changes)
    method, state, _ = first(config)
    batch, memory = finished(method, next(batches(method, 1))), filled(state.buffers)
    now, settings = state.method_state._replace(buffers=memory), method.settings
    loss, (after, _) = jax.jit(method.loss)(state.params, now, batch, jax.random.key(0), jnp.int32(3))
    embed = jax.jit(lambda clips: method.network.apply({"params": state.params}, clips, True)[0])
    seen = {name: np.asarray(embed(batch[name])) for name in method.views}  # student and teacher are equal
    count, negatives = len(batch["video"]), ~np.eye(8, dtype=bool)
    directions = [("query", "key", "weak"), ("key", "query", "weak_query")][: 1 + settings.symmetric]
    expected = []
    for query, key, weak in directions:
        strong_parts, weak_parts, masks = [], [], []
        if settings.queue.in_batch or not settings.queue.size:
            strong_parts, weak_parts, masks = [seen[key]], [seen[weak]], [negatives]
        if settings.queue.size:
            strong_parts.append(memory["key"]), weak_parts.append(memory["weak"])
            masks.append(np.ones((count, settings.queue.size), bool))
        strong_queue, weak_queue, mask = np.concatenate(strong_parts), np.concatenate(weak_parts), np.concatenate(masks, 1)
        positive = seen[key] if settings.include_positive else None
        labels = naive_labels(seen[weak], weak_queue, mask, 0.07, 0.2, positive)
        np.testing.assert_allclose(labels.sum(1), 1.0)
        expected.append(naive_loss(seen[query], seen[key], strong_queue, labels, mask, 0.07))
    assert float(loss) == pytest.approx(np.mean(expected), rel=2e-5, abs=5e-6)
    if settings.symmetric:
        np.testing.assert_allclose(after.buffers["key"], np.concatenate([seen["key"], seen["query"]]), atol=1e-5)
        np.testing.assert_allclose(after.buffers["weak"], np.concatenate([seen["weak"], seen["weak_query"]]), atol=1e-5)


def test_clsa_compares_with_the_keys_of_other_videos_too():
    both, past = (value_of(small_config("clsa", method__queue__in_batch=used))[0] for used in (True, False))
    assert both > past  # more slots share the same mass


def test_the_oracle_puts_the_mass_on_the_same_class():
    config = small_config("oracle")
    method, state, _ = first(config)
    batch, memory = finished(method, next(batches(method, 1))), filled(state.buffers)
    label, slots = np.array([0, 1, 2, -1, 0, 1, 2, 3]), np.arange(len(memory["key"])) % 3  # no slot has the last one's class
    batch, memory = {**batch, "label": jnp.asarray(label)}, {**memory, "label": jnp.asarray(slots, jnp.int32)}
    now, settings = state.method_state._replace(buffers=memory), method.settings
    loss, (_, metrics) = jax.jit(method.loss)(state.params, now, batch, jax.random.key(0), jnp.int32(3))
    q, k = (np.asarray(method.network.apply({"params": state.params}, batch[name], True)[0]) for name in ("query", "key"))
    same = (label[:, None] == slots) & (label[:, None] >= 0)
    weight = settings.label_weight * same.any(1, keepdims=True)
    labels = np.concatenate([1 - weight, weight * same / np.maximum(same.sum(1, keepdims=True), 1)], axis=1)
    expected = naive_loss(q, k, memory["key"], labels, np.ones_like(same), settings.temperature)
    assert float(loss) == pytest.approx(expected, rel=2e-5, abs=5e-6)
    assert float(metrics["label_mass_same_class"]) == pytest.approx(1.0)
