"""Every method, by one compiled step each: it learns, its teacher moves as it should, it resumes, it leaks no gradient."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.training import batches, build, filled, finished, first, largest_gap, mesh_of, run, small_config

from wt_jax.experiment import build_method
from wt_jax.losses import info_nce
from wt_jax.methods import METHODS
from wt_jax.methods.base import Embeds, encoder_variables
from wt_jax.train.sharding import put_batch

FROZEN, WITHOUT_TEACHER = ("seed",), ("simclr", "swav", "hdc", "supervised")
# Plain gradient descent: what Adam makes of rounding differences says nothing about devices.
SETTINGS = {"optim__name": "sgd", "optim__learning_rate": 1.0, "optim__warmup": "0 steps"}
# The default run compares these on four devices: a queue, prototypes, the batch's own negatives, two pathways.
ON_FOUR = ("weak_teacher", "swav", "hdc", "modist")


def config_of(name, **changes):
    momentum = {} if name in FROZEN + WITHOUT_TEACHER else {"method__momentum": 0.9}
    return small_config(name, **SETTINGS, **momentum, **changes)


# One of each kind by default; the controls and close relatives are compiled among the slow tests.
KINDS = ("weak_teacher", "simclr", "moco", "byol", "swav", "seed", "modist", "hdc", "vtdl", "supervised")
PARAMETERS = [pytest.param(name, marks=[] if name in KINDS else pytest.mark.slow) for name in METHODS]


@pytest.fixture(scope="module", params=PARAMETERS)
def trained(request):
    """Six steps of a method on one device, kept by the way, on the host."""
    name, mesh = request.param, mesh_of(1)
    method, state, step = build(config_of(name), mesh)
    fed = [put_batch(batch, mesh) for batch in batches(method, 6)]
    states, metrics = [jax.tree.map(np.array, state)], []  # copies: the state is donated
    place = jax.tree.map(lambda leaf: leaf.sharding, state)
    for batch in fed:
        state, values = step(state, batch)
        states.append(jax.tree.map(np.array, state))
        metrics.append(jax.device_get(values))
    return SimpleNamespace(name=name, method=method, step=step, batches=fed, states=states, metrics=metrics, place=place)


def test_all_figures_are_finite_or_unknown(trained):
    for metrics in trained.metrics:
        assert np.isfinite(metrics["loss"])
        assert np.isfinite(metrics["gradient_norm"])
        assert metrics["gradient_norm"] > 0 or trained.name in ("relational", "ressl", "seed")  # an empty queue teaches nothing
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
    # A constant batch can be learnt by heart, against a teacher and a queue of other clips that stay as they are; as the step's
    # number stays too, so do the colors drawn: drawn anew, they change a loss by more than a dozen steps do.
    start = dataclasses.replace(trained.states[0], buffers=jax.tree.map(np.array, filled(trained.states[0].buffers)))
    state, losses = jax.device_put(start, trained.place), []
    for _ in range(12):
        state, metrics = trained.step(state, trained.batches[0])
        losses.append(float(metrics["loss"]))
        stays = ("step", "teacher", "buffers")
        state = dataclasses.replace(state, **{k: jax.device_put(getattr(start, k), getattr(trained.place, k)) for k in stays})
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
    floats = {k: v for k, v in state.buffers.items() if v.dtype == np.float32}

    def gradients(params, teacher, floats):
        def loss(params, teacher, floats):
            now = state.method_state._replace(teacher=teacher, buffers={**state.buffers, **floats})
            return trained.method.loss(params, now, batch, jax.random.key(0), jnp.int32(3))[0]

        with jax.numpy_dtype_promotion("strict"):
            return jax.grad(loss, argnums=(0, 1, 2))(params, teacher, floats)

    # The student's gradient depends on teacher and memory; the gradients of those are constants: nothing flows.
    used = depends(lambda *a: gradients(*a)[0], state.params, state.teacher, floats)
    assert any(used)
    if jax.tree.leaves((state.teacher, floats)):
        assert not any(depends(lambda *a: gradients(*a)[1:], state.params, state.teacher, floats))


def test_the_head_can_be_evaluated_where_there_is_one(trained):
    method, state = trained.method, trained.states[-1]
    assert isinstance(method, Embeds) == (trained.name not in ("hdc", "supervised"))
    if isinstance(method, Embeds):
        batch = finished(method, next(batches(method, 1)))
        clips = batch[next(name for name in method.views if name in batch)]
        found = jax.jit(method.embed)(state.params, state.model_state, clips)
        feature = method.encoder.apply(encoder_variables(state.params, state.model_state), clips, False)
        head = {k: part["head"] for k, part in {"params": state.params, **state.model_state}.items() if "head" in part}
        expected = np.asarray(method.head.apply(head, feature, False))
        np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=-1, keepdims=True), atol=1e-5)


def check_devices(name):
    one, four = (run(config_of(name), mesh_of(count), 4) for count in (1, 4))
    np.testing.assert_allclose(one[0], four[0], atol=1e-5)
    for part in ("params", "model_state", "teacher", "buffers"):
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


def value_of(config, buffers=None, step=3):
    """A method's loss on real clips, its gradient, the new memory and the figures."""
    method, state, _ = first(config)
    batch = finished(method, next(batches(method, 1)))
    now = state.method_state._replace(buffers=filled(state.buffers) if buffers is None else buffers)
    arguments = (state.params, now, batch, jax.random.key(0), jnp.int32(step))
    (loss, (after, metrics)), gradient = jax.jit(jax.value_and_grad(method.loss, has_aux=True))(*arguments)
    return float(loss), gradient, after.buffers, metrics


def test_moco_with_one_key_is_the_weak_teacher_with_label_weight_zero():
    moco = value_of(small_config("moco", method__temperature=0.07))
    one_hot = value_of(small_config("one_hot"))
    unweighted = value_of(small_config("weak_teacher", method__label_weight=0.0))
    assert moco[0] == pytest.approx(one_hot[0], abs=1e-6)
    assert moco[0] == pytest.approx(unweighted[0], abs=1e-6)
    assert largest_gap(moco[1], one_hot[1]) < 1e-6
    assert largest_gap(moco[1], unweighted[1]) < 1e-6
    np.testing.assert_allclose(moco[2]["key"], one_hot[2]["strong"], atol=1e-6)


def test_moco_with_more_clips_is_the_mean_over_keys_and_enqueues_them_all():
    config = small_config("moco", method__clips=3)
    method, state, _ = first(config)
    batch, memory = finished(method, next(batches(method, 1))), filled(state.buffers)
    now = state.method_state._replace(buffers=memory)
    loss, (after, _) = jax.jit(method.loss)(state.params, now, batch, jax.random.key(0), jnp.int32(3))
    after = after.buffers
    network = method.network
    query, *keys = (network.apply({"params": state.params}, batch[f"clip{i}"], True)[0] for i in (1, 2, 3))
    expected = [info_nce(query, key, memory["key"], temperature=0.1).mean() for key in keys]
    assert float(loss) == pytest.approx(float(np.mean(expected)), abs=1e-5)
    np.testing.assert_allclose(after["key"], np.concatenate(keys), atol=1e-5)
    np.testing.assert_array_equal(after["video"], np.tile(batch["video"], 2))


def test_moco_in_the_style_of_version_3():
    config = small_config(
        "moco", method__queue_size=0, method__symmetric=True, method__predictor=True, method__head_norm="batch"
    )
    loss, gradient, memory, _ = value_of(config)
    assert memory == {}
    assert np.isfinite(loss)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["predictor"]["dense2"]["kernel"]))


def test_prototypes_stand_still_at_first_and_the_queue_waits():
    config = small_config("swav", method__freeze_prototypes=0.5, method__queue_start=0.5)
    early, late = (value_of(config, step=step) for step in (0, 15))
    assert not np.any(early[1]["prototypes"])
    assert np.any(late[1]["prototypes"])
    no_queue = value_of(small_config("swav", method__queue_size=0, method__prototypes=8, method__freeze_prototypes=0.0))
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
