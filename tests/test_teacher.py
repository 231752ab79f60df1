"""The moving average, its schedule, and the slot-aligned queue."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wt_jax.queue import empty_queue, enqueue, negatives_mask
from wt_jax.teacher import cosine_momentum, distance, ema_update


def test_teacher_moves_by_exactly_one_minus_momentum():
    teacher, student = (
        {"a": jnp.zeros(3), "b": {"c": jnp.full((2, 2), 2.0)}},
        {"a": jnp.ones(3), "b": {"c": jnp.zeros((2, 2))}},
    )
    moved = ema_update(teacher, student, 0.9)
    np.testing.assert_allclose(moved["a"], 0.1, rtol=1e-6)
    np.testing.assert_allclose(moved["b"]["c"], 1.8, rtol=1e-6)


def test_equal_student_leaves_the_teacher_bit_for_bit():
    tree = {"a": jax.random.normal(jax.random.key(0), (100,))}
    np.testing.assert_array_equal(ema_update(tree, tree, 0.999)["a"], tree["a"])


def test_small_steps_survive_a_bfloat16_student():
    teacher, student = {"a": jnp.ones(4)}, {"a": jnp.full((4,), 1.5, jnp.bfloat16)}
    for _ in range(100):
        teacher = ema_update(teacher, student, 0.999)
    np.testing.assert_allclose(teacher["a"], 1.5 - 0.5 * 0.999**100, rtol=1e-5)


def test_a_bfloat16_teacher_is_refused_by_name():
    with pytest.raises(ValueError, match=r"\['a'\] is bfloat16"):
        ema_update({"a": jnp.ones(2, jnp.bfloat16)}, {"a": jnp.ones(2)}, 0.9)


def test_cosine_momentum_rises_to_one():
    values = [float(cosine_momentum(0.99, step, 100)) for step in (0, 50, 100, 150)]
    np.testing.assert_allclose(values, [0.99, 0.995, 1.0, 1.0], atol=1e-6)


def test_distance_is_relative():
    assert float(distance({"a": jnp.full(4, 1.1)}, {"a": jnp.ones(4)})) == pytest.approx(0.1, rel=1e-5)


def batch(first: int, size: int = 2, dim: int = 3):
    video = jnp.arange(first, first + size)
    strong = jnp.broadcast_to(video[:, None], (size, dim)).astype(jnp.float32)
    return {"strong": strong, "weak": -strong, "video": video, "label": video % 5}


def test_columns_stay_aligned_while_the_queue_turns():
    queue = empty_queue(6, {"strong": 3, "weak": 3})
    for turn in range(7):
        queue = enqueue(queue, batch(10 * turn + 1), jnp.int32(turn))
        filled = np.asarray(queue["video"]) >= 0
        strong, weak = np.asarray(queue["strong"])[filled], np.asarray(queue["weak"])[filled]
        np.testing.assert_array_equal(strong[:, 0], np.asarray(queue["video"])[filled])
        np.testing.assert_array_equal(weak, -strong)
        np.testing.assert_array_equal(np.asarray(queue["step"])[filled], (strong[:, 0] - 1) // 10)
    assert sorted(np.asarray(queue["video"]).tolist()) == [41, 42, 51, 52, 61, 62]


def test_a_torn_queue_is_refused():
    queue = empty_queue(5, {"strong": 3, "weak": 3})
    with pytest.raises(ValueError, match="not a multiple"):
        enqueue(queue, batch(0), jnp.int32(0))
    with pytest.raises(ValueError, match="columns"):
        enqueue(empty_queue(6, {"strong": 3}), batch(0), jnp.int32(0))


def test_mask_leaves_out_empty_slots_and_the_same_video():
    queue = enqueue(empty_queue(4, {"strong": 3, "weak": 3}), batch(7), jnp.int32(0))
    videos = jnp.array([7, 9])
    expected = [[False, True, False, False], [True, True, False, False]]
    np.testing.assert_array_equal(negatives_mask(queue, videos, drop_same_video=True), expected)
    assert negatives_mask(queue, videos, drop_same_video=False)[:, :2].all()
