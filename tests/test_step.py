"""The generic step with the weak teacher: devices, sharding, teachers, compilation, accumulation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from configs.quickstart import get_config
from wt_jax.augment import finish_views
from wt_jax.config import resolve
from wt_jax.data.synthetic import MOTIONS, render
from wt_jax.losses import weak_teacher_loss
from wt_jax.methods import METHODS, build_method
from wt_jax.train.optim import learning_rate, make_optimizer
from wt_jax.train.sharding import AXES, put_batch
from wt_jax.train.step import compile_step, make_init, make_step, state_shardings

BATCH, STEPS = 8, 20


def small_config(method="weak_teacher", **changes):
    config = get_config(method)
    config.clip.num_frames, config.clip.size = 4, 16
    config.model.width = 8
    config.train.batch_size, config.method.queue_size = BATCH, 16
    config.method.dim, config.method.head_norm = 16, ""
    for key, value in changes.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return resolve(config)


def mesh_of(count, fsdp=1):
    devices = np.array(jax.devices()[:count]).reshape(count // fsdp, fsdp)
    return jax.sharding.Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 2)


@functools.cache
def videos():
    """Twelve embedded videos of 16 pixels, four of each of three motions."""
    return np.stack([render(MOTIONS[i % 3], np.random.default_rng(i), frames=24, size=16) for i in range(12)])


def batches(method, count, seed=0):
    """Real clips, without the pipeline: each view a window of the video."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        video = rng.permutation(12)[:BATCH].astype(np.int32)
        views = {
            name: videos()[video, start : start + 4]
            for name, start in zip(method.views, rng.integers(20, size=3), strict=False)
        }
        yield {**views, "video": video, "label": video % 3, "failed": np.full(BATCH, -1, np.int32)}


def build(config, mesh, accumulate=1):
    method = build_method(config, STEPS)
    schedule = learning_rate(config.optim, batch_size=BATCH, num_steps=STEPS, steps_per_epoch=4)
    optimizer = make_optimizer(config.optim, schedule)
    init = make_init(method, optimizer, 0)
    shardings = state_shardings(jax.eval_shape(init, {}), mesh)
    step = make_step(method, optimizer, schedule, seed=0, accumulate=accumulate)
    return method, jax.jit(init, out_shardings=shardings)({}), compile_step(step, shardings, mesh)


def run(config, mesh, steps=STEPS, accumulate=1):
    method, state, step = build(config, mesh, accumulate)
    losses = []
    with jax.transfer_guard_device_to_host("disallow"):
        for batch in batches(method, steps):
            state, metrics = step(state, put_batch(batch, mesh))
            losses.append(metrics["loss"])
    assert step._cache_size() == 1, "the step was compiled more than once"
    return [float(loss) for loss in losses], jax.device_get(state)


def largest_gap(one, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.fixture(scope="module")
def alone():
    return run(small_config(optim__learning_rate=1e-2, optim__name="sgd"), mesh_of(1))


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_four_devices_equal_one(alone, fsdp):
    losses, state = run(small_config(optim__learning_rate=1e-2, optim__name="sgd"), mesh_of(4, fsdp))
    np.testing.assert_allclose(losses, alone[0], atol=1e-5)
    assert largest_gap(state.teacher, alone[1].teacher) < 1e-6


def test_batch_norm_is_that_of_the_global_batch():
    config = small_config(model__norm="batch", optim__learning_rate=1e-2, optim__name="sgd")
    one, four = run(config, mesh_of(1), 5), run(config, mesh_of(4), 5)
    np.testing.assert_allclose(one[0], four[0], atol=1e-5)
    assert largest_gap(one[1].model_state, four[1].model_state) < 1e-5


def test_fsdp_shards_the_large_parameters():
    method, state, _ = build(small_config(), mesh_of(4, 4))
    big = [leaf for leaf in jax.tree.leaves(state.params) if leaf.size >= 2**12]
    assert big
    assert all(leaf.addressable_shards[0].data.size == leaf.size // 4 for leaf in big)
    assert state.memory["strong"].sharding.is_fully_replicated


def test_teacher_moves_by_exactly_one_minus_momentum():
    config = small_config(method__momentum=0.9, optim__warmup="0 steps")
    method, state, step = build(config, mesh_of(1))
    state = dataclasses.replace(state, memory=_filled(state.memory))
    before = jax.tree.map(np.array, state)  # copies: the state is donated
    after, _ = step(state, put_batch(next(batches(method, 1)), mesh_of(1)))
    expected = jax.tree.map(lambda t, s: t + np.float32(0.1) * (s - t), before.teacher["params"], after.params)
    assert largest_gap(expected, after.teacher["params"]) < 2e-7
    assert largest_gap(before.params, after.params) > 1e-6


def finished(method, batch):
    """A batch as `method.loss` reads it, without any change to its pixels but the scale."""
    return {k: jnp.asarray(v, jnp.float32) / 255 if v.ndim == 5 else jnp.asarray(v) for k, v in batch.items()}


@pytest.mark.parametrize("name", METHODS)
def test_no_gradient_reaches_a_teacher(name):
    method, state, _ = build(small_config(name), mesh_of(1))
    batch = finished(method, next(batches(method, 1)))
    full = _filled(state.memory)

    def loss(params, teacher, floats):
        memory = {**full, **floats}
        return method.loss(params, state.model_state, teacher, memory, batch, jax.random.key(0), jnp.int32(0))[0]

    floats = {k: v for k, v in full.items() if v.dtype == jnp.float32}
    student, teacher, memory = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(state.params, state.teacher, floats)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(student)) > 0
    assert all(not g.any() for g in jax.tree.leaves((teacher, memory)))


def _filled(memory):
    rng = np.random.default_rng(5)

    def fill(value):
        x = rng.normal(size=value.shape)
        return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)

    size = memory["video"].shape[0]
    filled = {k: fill(v) for k, v in memory.items() if v.dtype == jnp.float32}
    return {
        **memory,
        **filled,
        "video": jnp.arange(100, 100 + size),
        "label": jnp.arange(size) % 3,
        "step": jnp.zeros(size, jnp.int32),
    }


@pytest.mark.parametrize(("name", "shared"), [*((name, "all") for name in METHODS), ("weak_teacher", "encoder")])
def test_method_runs_under_strict_promotion_and_its_loss_is_the_public_one(name, shared):
    config = small_config(name, method__shared=shared)
    method, state, _ = build(config, mesh_of(1))
    batch, memory = finished(method, next(batches(method, 1))), _filled(state.memory)

    @jax.jit
    def both(params):
        rest = (state.model_state, state.teacher, memory, batch, jax.random.key(0), jnp.int32(3))
        variables = {"params": params, **state.model_state}
        query = method.network.apply(variables, batch["query"], True, mutable=["batch_stats"])[0][0]
        return method.loss(params, *rest), query

    with jax.numpy_dtype_promotion("strict"):
        (value, (_, new_memory, metrics)), query = both(state.params)
    assert jnp.isfinite(value)
    assert float(metrics["loss"]) == float(value)
    np.testing.assert_array_equal(new_memory["video"][:BATCH], batch["video"])
    settings = config.method
    if name in ("weak_teacher", "strong_teacher", "moco"):
        column, weight = ("strong", 0.0) if name == "moco" else ("weak", settings.label_weight)  # MoCo has no weak queue
        expected = weak_teacher_loss(
            query,
            new_memory["strong"][:BATCH],
            new_memory[column][:BATCH],
            memory["strong"],
            memory[column],
            label_weight=weight,
            temperature=settings.temperature,
            weak_temperature=settings.weak_temperature,
        )
        assert float(value) == pytest.approx(float(expected.mean()), abs=1e-5)


def test_same_video_clips_are_no_negatives():
    method, state, _ = build(small_config(), mesh_of(1))
    batch = finished(method, next(batches(method, 1)))
    memory = {**_filled(state.memory), "video": jnp.full(16, batch["video"][0])}
    arguments = (state.params, state.model_state, state.teacher, memory, batch, jax.random.key(0), jnp.int32(0))
    assert float(jax.jit(method.loss)(*arguments)[1][2]["negatives"]) == pytest.approx(16 * (BATCH - 1) / BATCH)


def test_label_ramp_begins_at_zero_and_ends_at_the_weight():
    method, *_ = build(small_config(method__label_ramp=0.5), mesh_of(1))
    weights = [float(method.label_weight(step)) for step in (0, STEPS // 4, STEPS // 2, STEPS)]
    np.testing.assert_allclose(weights, [0.0, 0.1, 0.2, 0.2], atol=1e-6)


def test_accumulated_gradient_is_the_mean_over_pieces():
    config = small_config(method__head_norm="")
    method, state, step = build(config, mesh_of(1), accumulate=2)
    state = dataclasses.replace(state, memory=_filled(state.memory))
    batch = next(batches(method, 1))
    view_key, loss_key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))
    memory, total = state.memory, None
    for piece in range(2):
        rows = finish_views({k: jnp.asarray(v[piece::2]) for k, v in batch.items()}, method.views, view_key)

        def loss(params, memory=memory, rows=rows):
            return method.loss(params, state.model_state, state.teacher, memory, rows, loss_key, jnp.int32(0))

        grads, (_, memory, _) = jax.jit(jax.grad(loss, has_aux=True))(state.params)
        total = grads if total is None else jax.tree.map(jnp.add, total, grads)
    expected = optax.tree.norm(total) / 2
    after, metrics = step(state, put_batch(batch, mesh_of(1)))
    assert float(metrics["gradient_norm"]) == pytest.approx(float(expected), rel=1e-4)
    np.testing.assert_array_equal(after.memory["video"], memory["video"])


def test_accumulation_is_the_same_on_four_devices():
    one, four = (run(small_config(), mesh_of(count), 3, accumulate=2) for count in (1, 4))
    np.testing.assert_allclose(one[0], four[0], atol=1e-5)
    np.testing.assert_array_equal(one[1].memory["video"], four[1].memory["video"])


def test_bfloat16_keeps_parameters_and_teacher_in_float32():
    losses, state = run(small_config(model__dtype="bfloat16"), mesh_of(1), 3)
    assert np.isfinite(losses).all()
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.teacher))} == {np.dtype("float32")}


@pytest.mark.parametrize("name", METHODS)
def test_loss_falls_on_one_batch(name):
    # A constant batch can be learnt by heart; the queue holds other clips.
    config = small_config(name, optim__learning_rate=0.06, method__momentum=0.9, method__head_norm="batch")
    method, state, step = build(config, mesh_of(1))
    state = dataclasses.replace(state, memory=_filled(state.memory))
    batch = put_batch(next(batches(method, 1)), mesh_of(1))
    memory, losses = jax.device_get(state.memory), []
    for _ in range(15):
        state, metrics = step(dataclasses.replace(state, memory=jax.device_put(memory)), batch)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


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


def test_learning_rate_is_per_256_clips_with_warmup_and_drops():
    config = small_config(
        optim__learning_rate=0.8, optim__warmup="10 steps", optim__schedule="step", optim__drops=("60 steps", "80 %")
    ).optim
    schedule = learning_rate(config, batch_size=64, num_steps=100, steps_per_epoch=5)
    values = [float(schedule(step)) for step in (0, 5, 10, 59, 60, 79, 80)]
    np.testing.assert_allclose(values, [0, 0.1, 0.2, 0.2, 0.02, 0.02, 0.002], rtol=1e-5)
