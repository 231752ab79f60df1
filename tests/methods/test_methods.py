"""What every method must pass, for each entry of the table: it follows from the contract, nothing from a name."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.training import batches, build, filled, finished, largest_gap, mesh_of, run, small_config

from wt_jax.config import has_key
from wt_jax.experiment import default_config
from wt_jax.methods import METHODS
from wt_jax.methods.base import Embeds, encoder_variables, evaluated_tree
from wt_jax.train.sharding import put_batch
from wt_jax.weights.folder import encoder_shapes, shapes_of

# Plain gradient descent: what Adam makes of rounding differences says nothing about devices.
SETTINGS = {"optim__name": "sgd", "optim__learning_rate": 1.0, "optim__warmup": "0 steps"}
MOMENTUM = 0.9


def averages(name):
    """Whether a method's teacher is a moving average."""
    return has_key(default_config(name).method, "teacher.momentum")


def config_of(name, **changes):
    return small_config(name, **SETTINGS, **({"method__teacher__momentum": MOMENTUM} if averages(name) else {}), **changes)


@pytest.fixture(scope="module", params=METHODS)
def trained(request):
    """Four steps of a method on one device, from a full queue: the states before and after each, on the host."""
    name, mesh = request.param, mesh_of(1)
    method, state, step = build(config_of(name), mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    state = dataclasses.replace(state, buffers=jax.device_put(filled(state.buffers), shardings.buffers))
    fed = [put_batch(batch, mesh) for batch in batches(method, 4)]
    states, metrics = [jax.tree.map(np.array, state)], []  # copies: the state is donated
    for batch in fed:
        state, values = step(state, batch)
        states.append(jax.tree.map(np.array, state))
        metrics.append(jax.device_get(values))
    return SimpleNamespace(
        name=name, method=method, step=step, batches=fed, states=states, metrics=metrics, shardings=shardings
    )


def test_metrics_are_finite_scalars_and_there_is_a_gradient(trained):
    for metrics in trained.metrics:
        assert {np.shape(value) for value in metrics.values()} == {()}
        # What a class has is unknown where nothing of it is there.
        assert not [name for name, value in metrics.items() if not np.isfinite(value) and not name.endswith("same_class")]
        assert {metric.dtype for metric in metrics.values()} == {np.dtype("float32")}
        assert metrics["gradient_norm"] > 0


def test_needs_are_those_of_the_state(trained):
    needs, state = trained.method.needs, trained.states[0]
    assert needs.batch_multiple == (state.buffers["video"].shape[0] if "video" in state.buffers else 0)
    assert bool(needs.teacher_passes) == bool(jax.tree.leaves(state.teacher))
    assert {name.split(".")[0] for name in needs.frozen} <= set(state.params)


def test_the_evaluated_tree_holds_the_encoder(trained):
    method, state = trained.method, trained.states[-1]
    params, model_state = evaluated_tree(method.evaluated, state)
    batch = finished(method, next(batches(method, 1)))
    name = next(name for name, view in method.views.items() if getattr(view, "content", "rgb") == "rgb")
    clips = batch[name]
    inputs = (clips, batch[f"{name}.geometry"]) if method.encoder.unit == "video" else (clips,)
    feature = method.encoder.apply(encoder_variables(params, model_state), *inputs, False)
    assert feature.shape == (len(clips), method.encoder.feature_dim)
    assert shapes_of(encoder_variables(params, model_state)) == encoder_shapes(method.model)
    if isinstance(method, Embeds):
        found = jax.jit(method.embed)(params, model_state, clips)
        head = {k: part["head"] for k, part in {"params": params, **model_state}.items() if "head" in part}
        expected = np.asarray(method.head.apply(head, feature, False))
        np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=-1, keepdims=True), atol=1e-5)


def test_teacher_moves_by_exactly_one_minus_momentum_or_not_at_all(trained):
    for before, after in zip(trained.states, trained.states[1:], strict=False):
        if not averages(trained.name):
            jax.tree.map(np.testing.assert_array_equal, before.teacher, after.teacher)
            continue
        student = {"params": after.params, **after.model_state}
        for kind, tree in before.teacher.items():
            assert set(student[kind]) - set(tree) <= {"predictor"}
            new = {part: student[kind][part] for part in tree}
            expected = jax.tree.map(lambda t, s: t + np.float32(1 - MOMENTUM) * (s - t), tree, new)
            # In steps of a number's own precision: prototypes are larger than 1.
            largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
            assert largest_gap(expected, after.teacher[kind]) < 3e-7 * max(1.0, largest)
    assert largest_gap(trained.states[0].params, trained.states[-1].params) > 1e-6


def test_resumes_bit_for_bit_and_is_compiled_once(trained):
    state = jax.device_put(jax.tree.map(np.copy, trained.states[2]), trained.shardings)
    for batch in trained.batches[2:]:
        state, _ = trained.step(state, batch)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), trained.states[-1])
    assert trained.step._cache_size() == 1, "the step was compiled more than once"


def test_loss_falls_on_eight_clips(trained):
    # A constant batch can be learnt by heart, against a teacher and a queue of other clips that stay as they are; as the step's
    # number stays too, so do the colors drawn: drawn anew, they change a loss by more than a dozen steps do.
    start = trained.states[0]
    state, losses = jax.device_put(start, trained.shardings), []
    for _ in range(12):
        state, metrics = trained.step(state, trained.batches[0])
        losses.append(float(metrics["loss"]))
        constant = {k: jax.device_put(getattr(start, k), getattr(trained.shardings, k)) for k in ("step", "teacher", "buffers")}
        state = dataclasses.replace(state, **constant)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def depends(function, *arguments):
    """Which leaves of the arguments the outputs depend on, by the trace alone."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    needed = {variable for variable in jaxpr.outvars if isinstance(variable, jax.extend.core.Var)}
    for equation in reversed(jaxpr.eqns):
        if needed & set(equation.outvars):
            needed |= {variable for variable in equation.invars if isinstance(variable, jax.extend.core.Var)}
    return [variable in needed for variable in jaxpr.invars]


def test_no_gradient_reaches_a_teacher_or_the_buffers(trained):
    state = trained.states[3]
    batch = finished(trained.method, next(batches(trained.method, 1)))
    floats = {k: v for k, v in state.buffers.items() if v.dtype == np.float32}

    def gradients(params, teacher, floats):
        def loss(params, teacher, floats):
            now = state.method_state._replace(teacher=teacher, buffers={**state.buffers, **floats})
            return trained.method.loss(params, now, batch, jax.random.key(0), jnp.int32(3))[0]

        with jax.numpy_dtype_promotion("strict"):
            return jax.grad(loss, argnums=(0, 1, 2))(params, teacher, floats)

    # The student's gradient depends on teacher and buffers; the gradients of those are constants: nothing flows.
    used = depends(lambda *a: gradients(*a)[0], state.params, state.teacher, floats)
    assert any(used)
    if jax.tree.leaves((state.teacher, floats)):
        assert not any(depends(lambda *a: gradients(*a)[1:], state.params, state.teacher, floats))


# By default the first name of each method's class: other names differ in settings alone.
CLASSES = {entry.build: name for name, entry in reversed(METHODS.items())}
SLOW_ALIASES = [pytest.param(name, marks=[] if name in CLASSES.values() else pytest.mark.slow) for name in METHODS]


@pytest.mark.parametrize("name", SLOW_ALIASES)
def test_four_devices_equal_one(name):
    one, four = (run(config_of(name), mesh_of(count), 2) for count in (1, 4))
    np.testing.assert_allclose(one[0], four[0], atol=1e-5)
    for part in ("params", "model_state", "teacher", "buffers"):
        pair = [getattr(state, part) for _, state in (one, four)]
        if jax.tree.leaves(pair):
            assert largest_gap(*pair) < 2e-5
