"""Every method, by one compiled step each: it learns, its teacher moves as it should, it resumes, it leaks no gradient."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import BATCH, batches, build, filled, finished, largest_gap, mesh_of, run, small_config
from wt_jax.config import ConfigError, resolve
from wt_jax.methods import METHODS, build_method
from wt_jax.train.sharding import put_batch

FROZEN, WITHOUT_TEACHER = ("seed",), ("simclr", "swav", "hdc")
# Plain gradient descent: what Adam makes of rounding differences says nothing about devices.
SETTINGS = {"optim__name": "sgd", "optim__learning_rate": 1.0, "optim__warmup": "0 steps"}
# The default run compares these on four devices: a queue, prototypes, the batch's own negatives, two pathways.
ON_FOUR = ("weak_teacher", "swav", "hdc", "modist")


def config_of(name, **changes):
    momentum = {} if name in FROZEN + WITHOUT_TEACHER else {"method__momentum": 0.9}
    return small_config(name, **SETTINGS, **momentum, **changes)


@pytest.fixture(scope="module", params=METHODS)
def trained(request):
    """Six steps of a method on one device, kept by the way, on the host."""
    name, mesh = request.param, mesh_of(1)
    method, state, step = build(config_of(name), mesh)
    fed = [put_batch(batch, mesh) for batch in batches(method, 6)]
    states, metrics = [jax.device_get(state)], []
    place = jax.tree.map(lambda leaf: leaf.sharding, state)
    for batch in fed:
        state, values = step(state, batch)
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(values))
    return SimpleNamespace(name=name, method=method, step=step, batches=fed, states=states, metrics=metrics, place=place)


def test_all_figures_are_finite_or_unknown(trained):
    for metrics in trained.metrics:
        assert np.isfinite(metrics["loss"])
        assert np.isfinite(metrics["gradient_norm"])
        assert metrics["gradient_norm"] > 0 or trained.name in ("relational", "ressl")  # an empty queue teaches nothing
        assert {metric.dtype for metric in metrics.values()} == {np.dtype("float32")}
        assert not [name for name, value in metrics.items() if np.isnan(value) and "class" not in name]


def test_teacher_moves_by_exactly_one_minus_momentum_or_not_at_all(trained):
    if trained.name in WITHOUT_TEACHER:
        assert not jax.tree.leaves(trained.states[0].teacher)
        return
    for before, after in zip(trained.states, trained.states[1:], strict=False):
        if trained.name in FROZEN:
            jax.tree.map(np.testing.assert_array_equal, before.teacher, after.teacher)
            continue
        student = {"params": after.params, **after.model_state}
        for kind, tree in before.teacher.items():
            assert set(student[kind]) - set(tree) <= {"predictor"}
            new = {part: student[kind][part] for part in tree}
            expected = jax.tree.map(lambda t, s: t + np.float32(0.1) * (s - t), tree, new)
            assert largest_gap(expected, after.teacher[kind]) < 2e-7
    assert largest_gap(trained.states[0].params, trained.states[-1].params) > 1e-6


def test_resumes_bit_for_bit_and_is_compiled_once(trained):
    state = jax.device_put(jax.tree.map(np.copy, trained.states[3]), trained.place)
    for batch in trained.batches[3:]:
        state, _ = trained.step(state, batch)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), trained.states[-1])
    assert trained.step._cache_size() == 1, "the step was compiled more than once"


def test_loss_falls_on_eight_clips(trained):
    # A constant batch can be learnt by heart; a queue holds other clips and stays as it is.
    memory, losses = filled(trained.states[0].memory), []
    state = jax.device_put(dataclasses.replace(trained.states[0], memory=memory), trained.place)
    kept = jax.device_get(memory)
    for _ in range(12):
        state, metrics = trained.step(state, trained.batches[0])
        losses.append(float(metrics["loss"]))
        if "video" in kept:
            state = dataclasses.replace(state, memory=jax.device_put(kept, trained.place.memory))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def depends(function, *arguments):
    """Which leaves of the arguments the outputs depend on, by the trace alone."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    needed = {variable for variable in jaxpr.outvars if isinstance(variable, jax.extend.core.Var)}
    for equation in reversed(jaxpr.eqns):
        if needed & set(equation.outvars):
            needed |= {variable for variable in equation.invars if isinstance(variable, jax.extend.core.Var)}
    return [variable in needed for variable in jaxpr.invars]


def test_no_gradient_reaches_a_teacher_or_the_memory(trained):
    state = trained.states[3]
    batch = finished(trained.method, next(batches(trained.method, 1)))
    floats = {k: v for k, v in state.memory.items() if v.dtype == np.float32}

    def gradients(params, teacher, floats):
        def loss(params, teacher, floats):
            memory = {**state.memory, **floats}
            rest = (batch, jax.random.key(0), jnp.int32(3))
            return trained.method.loss(params, state.model_state, teacher, memory, *rest)[0]

        with jax.numpy_dtype_promotion("strict"):
            return jax.grad(loss, argnums=(0, 1, 2))(params, teacher, floats)

    # The student's gradient depends on teacher and memory; the gradients of those are constants: nothing flows.
    used = depends(lambda *a: gradients(*a)[0], state.params, state.teacher, floats)
    assert any(used)
    if jax.tree.leaves((state.teacher, floats)):
        assert not any(depends(lambda *a: gradients(*a)[1:], state.params, state.teacher, floats))


def check_devices(name):
    one, four = (run(config_of(name), mesh_of(count), 4) for count in (1, 4))
    np.testing.assert_allclose(one[0], four[0], atol=1e-5)
    for part in ("params", "model_state", "teacher", "memory"):
        pair = [getattr(state, part) for _, state in (one, four)]
        if jax.tree.leaves(pair):
            assert largest_gap(*pair) < 2e-5


@pytest.mark.parametrize("name", ON_FOUR)
def test_four_devices_equal_one(name):
    check_devices(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in METHODS if name not in ON_FOUR])
def test_four_devices_equal_one_for_the_rest(name):
    check_devices(name)
