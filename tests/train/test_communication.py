"""What devices send by hand, against the collectives of compiled steps."""

import jax
import pytest
from support.training import BATCH, batches, build, mesh_of, small_config

from wt_jax.tools.hlo import collectives
from wt_jax.train.communication import backward, bytes_per_step
from wt_jax.train.program import build as whole_program
from wt_jax.train.sharding import put_batch

SCALARS = 256  # bytes: the loss and the other metrics


def by_hand(config, fsdp=1, devices=4):
    program = whole_program(config, 12, devices=jax.devices()[:1])
    trained = backward(program.counted, program.shapes, BATCH)
    return bytes_per_step(program.shapes, trained, data=devices // fsdp, fsdp=fsdp, teacher_passes=2, rows=BATCH)


def compiled(config, fsdp=1):
    method, state, step = build(config, mesh_of(4, fsdp))
    batch = put_batch(next(batches(method, 1)), mesh_of(4, fsdp))
    return collectives(step.lower(state, batch).compile().as_text(), 4)


def test_data_parallel_devices_send_what_is_counted():
    config = small_config(model__norm="batch", method__queue__size=512)
    sent, found = by_hand(config), compiled(config)
    assert 0 < sent["statistics"] < sent["gradients"]
    reduced = sum(each.sent for each in found if each.kind == "all-reduce")
    assert 0 <= reduced - sent["gradients"] - sent["statistics"] < SCALARS
    # What counts the steps is the same for all entries and is not sent.
    gathered = sum(each.sent for each in found if each.kind == "all-gather")
    assert gathered == pytest.approx(sent["buffers"] - 3 / 4 * 4 * BATCH)


@pytest.mark.slow
def test_split_parameters_are_about_what_is_counted():
    config = small_config(method__queue__size=512)
    # Our sum is of the arrays that must travel; the compiler may choose another way for some, so the two agree in size.
    assert 0.5 < sum(by_hand(config, fsdp=4).values()) / sum(each.sent for each in compiled(config, fsdp=4)) < 1.5


def of_one_device(name="weak_teacher", **changes):
    program = whole_program(small_config(name, **changes), 12, devices=jax.devices()[:1])
    return program.shapes.params, backward(program.counted, program.shapes, BATCH)


def test_gradients_travel_as_they_are_computed():
    """Kernels of the encoder in its dtype, norms and the head in float32."""
    params, trained = of_one_device(model__dtype="bfloat16", model__norm="batch")
    assert trained.passes == 1
    for (path, leaf), size in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(trained.gradients), strict=True):
        name = jax.tree_util.keystr(path)
        assert size == leaf.size * (2 if "encoder" in name and "kernel" in name else 4), name


def test_what_is_used_twice_is_reduced_twice():
    params, trained = of_one_device("byol", model__norm="batch")
    assert trained.passes == 2
    assert jax.tree.map(lambda leaf: 2 * 4 * leaf.size, params) == trained.gradients
