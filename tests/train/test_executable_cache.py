"""The cached step is the one that would be compiled, or it is not used."""

import dataclasses
import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from support.training import batches, mesh_of, small_config

from wt_jax.kernels import implementation
from wt_jax.methods.moco import MoCo
from wt_jax.train import executable_cache
from wt_jax.train.executable_cache import compiled_step
from wt_jax.train.program import build
from wt_jax.train.sharding import put_batch

VIDEOS = 64


class Refused:
    """In place of a jitted step: fails where it would be traced."""

    def lower(self, *_):
        raise AssertionError("the step was traced")


def cached(program, config):
    """The step without tracing it."""
    return compiled_step(dataclasses.replace(program, step=Refused()), config)


def changed(config, part, **values):
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **values)})


@pytest.fixture(scope="module", params=[1, 4], ids=["one device", "four devices"])
def pair(request, tmp_path_factory):
    """A configuration whose step is cached, and its program: native operations on one device, portable ones on four."""
    with pytest.MonkeyPatch.context() as patch, implementation("native" if request.param == 1 else "portable"):
        patch.setattr("wt_jax.train.program.make_mesh", lambda fsdp, _: mesh_of(request.param))
        config = small_config(train__compile_cache=str(tmp_path_factory.mktemp("cache")))
        program = build(config, VIDEOS)
        compiled_step(program, config)
        yield config, program


def three_steps(step, program):
    state, seen = program.first_state(), []
    for batch in batches(program.method, 3):
        state, metrics = step.call(state, put_batch(batch, program.mesh))
        seen.append({name: float(value) for name, value in metrics.items()})
    return seen, jax.device_get(state)


def test_the_cached_step_is_the_compiled_one(pair):
    config, program = pair
    again = build(config, VIDEOS)
    fresh = three_steps(compiled_step(program, changed(config, "train", compile_cache="")), program)
    stored = three_steps(cached(again, config), again)
    np.testing.assert_equal(stored[0], fresh[0])
    jax.tree.map(np.testing.assert_array_equal, fresh[1], stored[1])


def test_the_cached_step_donates_the_old_state(pair):
    config, program = pair
    state = program.first_state()
    cached(program, config).call(state, put_batch(next(batches(program.method, 1)), program.mesh))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_changes_of_the_step_invalidate_the_cache(pair, monkeypatch):
    config, program = pair
    cached(program, config)
    for other in (
        changed(config, "optim", weight_decay=0.123),
        changed(config, "train", duration="7 steps"),
        dataclasses.replace(config, seed=5),
    ):
        with pytest.raises(AssertionError, match="the step was traced"):
            cached(build(other, VIDEOS), other)
    with pytest.raises(AssertionError, match="the step was traced"):
        cached(build(config, 2 * VIDEOS), config)  # epochs have twice the steps
    with jax.default_matmul_precision("highest"), pytest.raises(AssertionError, match="the step was traced"):
        cached(program, config)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    with pytest.raises(AssertionError, match="the step was traced"):
        cached(program, config)


def test_a_line_of_code_invalidates_the_cache(pair, tmp_path, monkeypatch):
    config, program = pair
    (tmp_path / "one.py").write_text("a = 1\n")
    monkeypatch.setattr(executable_cache, "_PACKAGE", tmp_path)
    before = executable_cache._fingerprint(program, config)
    assert before == executable_cache._fingerprint(program, config)
    (tmp_path / "one.py").write_text("a = 2\n")
    assert executable_cache._fingerprint(program, config) != before


PROCESS = """
import dataclasses, sys
sys.path[:0] = [{tests!r}, {tests!r} + "/train"]
import jax, jax.numpy as jnp
from test_executable_cache import VIDEOS, three_steps
from support.training import small_config
from wt_jax.train.program import build
from wt_jax.train.executable_cache import compiled_step

config = small_config(train__compile_cache=sys.argv[1])
program = build(config, VIDEOS)
print([metrics["loss"] for metrics in three_steps(compiled_step(program, config), program)[0]])

# A step that needs LAPACK, and nothing else that has it loaded.
inverse = lambda state, batch: (state, {{"inverse": jnp.linalg.inv(jnp.eye(3) * (2 + state.step).astype(jnp.float32))[0, 0]}})
config = dataclasses.replace(config, seed=1)
program = dataclasses.replace(build(config, VIDEOS), step=jax.jit(inverse))
print(float(three_steps(compiled_step(program, config), program)[0][0]["inverse"]))
"""


def test_the_next_process_loads_it(tmp_path):
    script, environment = PROCESS.format(tests=str(Path(__file__).parents[1])), dict(os.environ, XLA_FLAGS="")
    first, second = (
        subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True, env=environment)
        for _ in range(2)
    )
    assert first.stdout == second.stdout
    assert first.stdout.endswith("]\n0.5\n")
    assert len(list(tmp_path.glob("step-*"))) == 2


class Own(MoCo):
    """A method of somebody else."""


def test_a_method_of_another_package_is_not_cached(tmp_path):
    config = small_config("moco", train__compile_cache=str(tmp_path))
    program = build(config, VIDEOS)
    program = dataclasses.replace(program, method=Own(**vars(program.method)))
    compiled_step(program, config)
    assert not list(tmp_path.glob("step-*"))


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-100], lambda content: b"", lambda content: content[:2000] + b"x" * 9 + content[2009:]]
)
def test_a_damaged_file_is_logged_and_replaced(pair, caplog, damage):
    config, program = pair
    (path,) = Path(config.train.compile_cache).glob("step-*")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING, "wt_jax"):
        compiled_step(program, config)
    assert f"{path} cannot be loaded, the step is compiled again: " in caplog.text
    caplog.clear()
    cached(program, config)
    assert not caplog.text


def test_a_folder_that_cannot_be_written_is_logged(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    config = small_config("simclr", train__compile_cache=str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING, "wt_jax"):
        step = compiled_step(build(config, VIDEOS), config)
    assert "the step cannot be stored in" in caplog.text
    assert np.isfinite(three_steps(step, build(config, VIDEOS))[0][0]["loss"])
