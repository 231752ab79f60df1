"""Checkpoints by themselves, of states without a network."""

import shutil

import jax.numpy as jnp
import numpy as np

from wt_jax.train.checkpoint import Checkpoints
from wt_jax.train.step import TrainState


def state_at(step):
    return TrainState(jnp.int32(step), {"encoder": {"kernel": jnp.arange(4.0) + step}}, {}, {}, {}, {})


def test_a_run_that_lost_its_last_checkpoints_saves_its_best_again(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_at(4))
        checkpoints.save_best(state_at(4))
    shutil.rmtree(tmp_path / "checkpoints")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(state_at(0)) is None
        checkpoints.save(state_at(4))
        checkpoints.save_best(state_at(4))
        checkpoints.save_best(state_at(6))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        best = checkpoints.restore(state_at(0), best=True)
    np.testing.assert_array_equal(best.params["encoder"]["kernel"], np.arange(4.0) + 6)
