"""The generic step with the weak teacher: devices, sharding, accumulation, precision; and the optimizers.

What every method must pass is in test_methods.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.training import BATCH, batches, build, filled, finished, first, largest_gap, mesh_of, run, small_config

from wt_jax.augment import finish_views
from wt_jax.errors import ConfigError
from wt_jax.losses import weak_teacher_loss
from wt_jax.train.optim import learning_rate, make_optimizer, weight_decay
from wt_jax.train.program import build as whole_program
from wt_jax.train.sharding import put_batch

# A queue that is large enough to be split.
SPLIT = {"optim__learning_rate": 1e-2, "optim__name": "sgd", "method__queue__size": 256}


@pytest.fixture(scope="module")
def alone():
    return run(small_config(**SPLIT), mesh_of(1))


@pytest.mark.parametrize("fsdp", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_four_devices_equal_one(alone, fsdp):
    losses, state = run(small_config(**SPLIT), mesh_of(4, fsdp))
    np.testing.assert_allclose(losses, alone[0], atol=1e-5)
    assert largest_gap(state.teacher, alone[1].teacher) < 1e-6
    np.testing.assert_array_equal(state.buffers["video"], alone[1].buffers["video"])
    np.testing.assert_allclose(state.buffers["key"], alone[1].buffers["key"], atol=1e-4)


def test_figures_of_whole_networks_are_there_where_metrics_are_written():
    config = small_config(train__log_every=3, train__batch_size=BATCH, train__duration="5 steps")
    program = whole_program(config, 12)
    state, there = program.first_state(), []
    for batch in batches(program.method, 5):
        state, metrics = program.step(state, put_batch(batch, program.mesh))
        there.append([bool(jnp.isfinite(metrics[name])) for name in ("gradient_norm", "teacher_distance")])
    assert there == [[number in (3, 5)] * 2 for number in range(1, 6)]
    after = {name: state.params[name] for name in state.teacher["params"]}
    gap = optax.tree.norm(jax.tree.map(jnp.subtract, state.teacher["params"], after))
    assert float(metrics["teacher_distance"]) == pytest.approx(float(gap / optax.tree.norm(after)), rel=1e-4)


def test_batch_norm_is_that_of_the_global_batch():
    config = small_config(model__norm="batch", optim__learning_rate=1e-2, optim__name="sgd")
    one, four = run(config, mesh_of(1), 5), run(config, mesh_of(4), 5)
    np.testing.assert_allclose(one[0], four[0], atol=1e-5)
    assert largest_gap(one[1].model_state, four[1].model_state) < 1e-5


def test_fsdp_shards_the_large_parameters():
    method, state, _ = build(small_config(method__queue__size=256, model__name="small_r2plus1d"), mesh_of(4, 4))
    big = [leaf for leaf in jax.tree.leaves(state.params) if leaf.size >= 2**12]
    assert big
    assert all(leaf.addressable_shards[0].data.size == leaf.size // 4 for leaf in big)
    assert state.buffers["key"].addressable_shards[0].data.shape == (64, 16)  # the queue by slots


@pytest.mark.parametrize("name", ["weak_teacher", "one_hot"])
def test_method_loss_is_the_public_one(name):
    config = small_config(name)
    method, state, _ = first(config)
    batch, memory = finished(method, next(batches(method, 1))), filled(state.buffers)

    @jax.jit
    def both(params):
        rest = (state.method_state._replace(buffers=memory), batch, jax.random.key(0), jnp.int32(3))
        variables = {"params": params, **state.model_state}
        query = method.network.apply(variables, batch["query"], True, mutable=["batch_stats"])[0][0]
        return method.loss(params, *rest), query

    (value, (after, metrics)), query = both(state.params)
    new_memory = after.buffers
    np.testing.assert_array_equal(new_memory["video"][:BATCH], batch["video"])
    settings = config.method
    column, weight = ("key", 0.0) if name == "one_hot" else ("weak", settings.label_weight)  # MoCo has no weak queue
    expected = weak_teacher_loss(
        query,
        new_memory["key"][:BATCH],
        new_memory[column][:BATCH],
        memory["key"],
        memory[column],
        label_weight=weight,
        temperature=settings.temperature,
        weak_temperature=settings.weak_temperature,
    )
    assert float(value) == pytest.approx(float(expected.mean()), abs=1e-5)


def test_same_video_clips_are_no_negatives():
    method, state, _ = first(small_config())
    batch = finished(method, next(batches(method, 1)))
    now = state.method_state._replace(buffers={**filled(state.buffers), "video": jnp.full(16, batch["video"][0])})
    arguments = (state.params, now, batch, jax.random.key(0), jnp.int32(0))
    assert float(jax.jit(method.loss)(*arguments)[1][1]["negatives"]) == pytest.approx(16 * (BATCH - 1) / BATCH)


def test_accumulated_gradient_is_the_mean_over_pieces():
    config = small_config(method__head__norm="")
    method, state, step = build(config, mesh_of(1), accumulate=2)
    state = dataclasses.replace(state, buffers=filled(state.buffers))
    batch = next(batches(method, 1))
    view_key, loss_key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))
    now, total = state.method_state, None
    for piece in range(2):
        rows = finish_views({k: jnp.asarray(v[piece::2]) for k, v in batch.items()}, method.views, view_key)

        grads, (now, _) = jax.jit(jax.grad(method.loss, has_aux=True))(state.params, now, rows, loss_key, jnp.int32(0))
        total = grads if total is None else jax.tree.map(jnp.add, total, grads)
    expected = optax.tree.norm(total) / 2
    after, metrics = step(state, put_batch(batch, mesh_of(1)))
    assert float(metrics["gradient_norm"]) == pytest.approx(float(expected), rel=1e-4)
    np.testing.assert_array_equal(after.buffers["video"], now.buffers["video"])


def test_accumulation_is_the_same_on_four_devices():
    one, four = (run(small_config(), mesh_of(count), 3, accumulate=2) for count in (1, 4))
    np.testing.assert_allclose(one[0], four[0], atol=1e-5)
    np.testing.assert_array_equal(one[1].buffers["video"], four[1].buffers["video"])


def test_bfloat16_keeps_parameters_and_teacher_in_float32():
    losses, state = run(small_config(model__dtype="bfloat16"), mesh_of(1), 3)
    assert np.isfinite(losses).all()
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.teacher))} == {np.dtype("float32")}


@pytest.mark.parametrize("name", ["sgd", "lars", "adam", "adamw"])
def test_every_optimizer_descends_and_spares_biases_from_decay(name):
    rate = 3.0 if name == "lars" else 0.05
    config = small_config(optim__name=name, optim__clip_norm=1.0, optim__decay_norms=False, optim__weight_decay=0.1).optim
    optimizer = make_optimizer(config, optax.constant_schedule(rate))
    params = {"kernel": jnp.full((3, 3), 2.0), "bias": jnp.full(3, 2.0)}
    state = optimizer.init(params)
    for _ in range(20):
        grads = jax.tree.map(lambda p: 2 * p, {"kernel": params["kernel"], "bias": jnp.zeros(3)})
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert float(jnp.abs(params["kernel"]).max()) < 2.0
    np.testing.assert_array_equal(params["bias"], 2.0)


def test_rate_and_weight_decay_end_where_they_are_to_and_a_stretched_cosine_stops_before():
    config = small_config(
        optim__learning_rate=1.0,
        optim__start_rate=0.1,
        optim__final_rate=0.2,
        optim__warmup="10 steps",
        optim__schedule="cosine",
    ).optim
    schedule = learning_rate(config, batch_size=256, num_steps=110, steps_per_epoch=5)
    found = [float(schedule(step)) for step in (0, 10, 60, 110)]
    np.testing.assert_allclose(found, [0.1, 1.0, 0.6, 0.2], rtol=1e-5)
    stretched = dataclasses.replace(config, stretch=2.0, weight_decay=0.04, final_weight_decay=0.4)
    half = float(learning_rate(stretched, batch_size=256, num_steps=110, steps_per_epoch=5)(110))
    assert half == pytest.approx(0.2 + 0.8 * (1 + np.cos(np.pi * 100 / 210)) / 2, rel=1e-5)
    decay = weight_decay(stretched, 100)
    np.testing.assert_allclose([decay(step) for step in (0, 100, 200)], [0.04, 0.22, 0.4], rtol=1e-5)


def test_gradients_are_clipped_by_parts_or_tensors_and_from_a_step_on():
    grads = {"encoder": {"a": jnp.full((4,), 3.0), "b": jnp.full((1,), 8.0)}, "head": {"c": jnp.full((1,), 0.5)}}
    norms = {"all": (100.25**0.5,) * 3, "part": (10.0, 10.0, 1.0), "tensor": (6.0, 8.0, 1.0)}
    for each, expected in norms.items():
        config = small_config(
            optim__name="sgd", optim__momentum=0.0, optim__weight_decay=0.0, optim__clip_norm=1.0, optim__clip_each=each
        ).optim
        for start in ("0 steps", "1 steps"):
            late = dataclasses.replace(config, clip_from=start)
            optimizer = make_optimizer(late, optax.constant_schedule(1.0), num_steps=10)
            state = optimizer.init(grads)
            if start != "0 steps":
                updates, state = optimizer.update(grads, state, grads)
                np.testing.assert_allclose(updates["encoder"]["b"], -8.0)
            updates, _ = optimizer.update(grads, state, grads)
            found = [updates["encoder"]["a"][0], updates["encoder"]["b"][0], updates["head"]["c"][0]]
            np.testing.assert_allclose(found, [-g / n for g, n in zip((3.0, 8.0, 0.5), expected, strict=True)], rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "lars", "adam", "adamw"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_what_is_frozen_for_a_while_neither_moves_nor_is_remembered(name, decay):
    """After three frozen steps of large gradients: the bits, and the same path as an optimizer's that begins there."""
    config = small_config(optim__name=name, optim__weight_decay=decay, optim__part_rates=(("prototypes", 0.5),)).optim
    rng = np.random.default_rng(0)
    params = {part: {"kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)} for part in ("encoder", "prototypes")}
    grads = [jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params) for _ in range(6)]

    def path(frozen, schedule, grads):
        optimizer, now = make_optimizer(config, schedule, frozen=frozen), params
        update, state, states = jax.jit(optimizer.update), optimizer.init(params), []
        for each in grads:
            updates, state = update(each, state, now)
            now = optax.apply_updates(now, updates)
            states.append((now, state))
        return states

    def rate(step):
        return 0.01 * (step + 1)

    frozen = path({"prototypes" if decay else "prototypes.kernel": 3}, rate, grads)
    for now, _ in frozen[:3]:
        np.testing.assert_array_equal(now["prototypes"]["kernel"], params["prototypes"]["kernel"])
    plain, later = path({}, rate, grads), path({}, lambda step: rate(step + 3), grads[3:])
    for part, like in (("encoder", plain), ("prototypes", later)):
        found, expected = (states[-1][0][part]["kernel"] for states in (frozen, like))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)  # other programs, which round otherwise
    moments = optax.tree.get_all_with_path(frozen[2][1], "trace") + optax.tree.get_all_with_path(frozen[2][1], "mu")
    kept = [leaf for _, moment in moments for leaf in jax.tree.leaves(moment.get("prototypes"))]
    assert len(kept) == 1
    assert not np.any(kept[0])


@pytest.mark.parametrize("name", ["sgd", "lars", "adam", "adamw"])
def test_parts_have_their_own_rates(name):
    params = {"encoder": {"kernel": jnp.full((3, 3), 2.0)}, "head": {"kernel": jnp.full((3, 3), 2.0)}}
    config = small_config(optim__name=name, optim__weight_decay=0.1, optim__part_rates=(("encoder", 0.1),)).optim
    optimizer = make_optimizer(config, optax.constant_schedule(0.05))
    state = optimizer.init(params)
    for _ in range(2):  # the second with momentum
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
    np.testing.assert_allclose(updates["encoder"]["kernel"], 0.1 * updates["head"]["kernel"], rtol=1e-6)


def test_a_rate_of_no_part_and_a_negative_one_are_errors():
    config = small_config(optim__part_rates=(("encodr", 0.1),)).optim
    optimizer, params = make_optimizer(config, optax.constant_schedule(0.05)), {"encoder": jnp.ones(2), "head": jnp.ones(2)}
    with pytest.raises(ConfigError, match=r"part_rates: 'encodr' is none of the parts encoder, head.*did you mean 'encoder'"):
        optimizer.update(params, optimizer.init(params), params)
    with pytest.raises(ConfigError, match="part_rates must be 0 or more"):
        small_config(optim__part_rates=(("encoder", -0.1),))


def test_learning_rate_is_per_256_clips_with_warmup_and_drops():
    config = small_config(
        optim__learning_rate=0.8, optim__warmup="10 steps", optim__schedule="step", optim__milestones=("60 steps", "80 %")
    ).optim
    schedule = learning_rate(config, batch_size=64, num_steps=100, steps_per_epoch=5)
    values = [float(schedule(step)) for step in (0, 5, 10, 59, 60, 79, 80)]
    np.testing.assert_allclose(values, [0, 0.1, 0.2, 0.2, 0.02, 0.02, 0.002], rtol=1e-5)
