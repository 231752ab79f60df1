"""Steps for devices that are not here."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
from support.training import small_config

from wt_jax.errors import ConfigError
from wt_jax.tools import inspect_topology
from wt_jax.tools.inspect_topology import Memory, fit_lines, tpu_devices

GIB = 2**30


def inspected(*arguments):
    """What the command prints, in a process of its own, as the platform is chosen before JAX uses a device."""
    line = [sys.executable, "-m", "wt_jax.main", "--mode=inspect", *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_NUMPY_DTYPE_PROMOTION")}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_fits_is_in_proportion():
    (line,) = fit_lines(Memory(GIB, GIB, 2 * GIB), 16 * GIB, batch_size=32, accumulate=1, devices=4)
    assert line == "fits in 16.00 GiB, 12.00 left; in proportion, 160 clips per step would (40 each)"
    first, second = fit_lines(Memory(GIB, GIB, 40 * GIB), 16 * GIB, batch_size=32, accumulate=2, devices=2)
    assert first == "does NOT fit in 16.00 GiB, 26.00 too much"
    assert second.startswith("in proportion, --config.train.accumulate=8 fits")  # 1 + 1 + 10; 4 pieces need 22
    assert fit_lines(Memory(20 * GIB, 0, 0), 16 * GIB, 32, 1, 2)[1].startswith("no accumulate is enough")


def test_faults_are_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'wt_jax\[tpu\]'"):
        tpu_devices("v5e:2x2")
    with pytest.raises(ConfigError, match="cuda:x names no GPUs; try v4:2x2x1"):
        inspect_topology.inspect_topology(small_config(), "cuda:x")


def test_gpus_without_one():
    printed = inspected("--config=quickstart:videomae", "--config.model.dtype=bfloat16", "--topology=cuda:2")
    assert "2 NVIDIA GPU (2 data, 1 fsdp)" in printed
    assert "__cudnn$fmhaSoftmaxBackward" in printed
    assert "wt_jax_cpu" not in printed
    assert "largest arrays:" in printed


@pytest.mark.slow
def test_the_quick_start_for_a_tpu():
    pytest.importorskip("libtpu", reason="needs the TPU's compiler: pip install 'wt_jax[tpu]'")
    printed = inspected("--config=quickstart", "--topology=v5e:2x2")
    assert "fits in 16.00 GiB" in printed
    assert "2 all-gather " in printed  # the entries of two queues
    assert "4 all-reduce " in printed  # gradients, the entries' videos, the head's BatchNorm in both directions
    assert "wt_jax_cpu" not in printed
    with pytest.raises(AssertionError, match=r"wt_jax: --topology=v9:1x1 is none that libtpu knows"):
        inspected("--config=quickstart", "--topology=v9:1x1")


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 16])
def test_what_256_chips_send_is_what_is_counted_by_hand(fsdp):
    pytest.importorskip("libtpu", reason="needs the TPU's compiler: pip install 'wt_jax[tpu]'")
    sizes = {"model.width": 32, "model.dtype": "bfloat16", "train.batch_size": 2048, "method.queue.size": 4096}
    options = [f"--config.{key}={value}" for key, value in {**sizes, "train.fsdp": fsdp}.items()]
    printed = inspected("--config=quickstart", "--topology=v5e:16x16", *options)
    assert f"256 TPU v5 lite ({256 // fsdp} data, {fsdp} fsdp)" in printed
    compiled, by_hand = (float(found) for found in re.findall(r"([\d.]+) MiB sent", printed))
    entries = 2048 * 128 * 4 * 2 / 2**20
    # Of so many devices the compiler sums the entries of the two queues instead of gathering them, which is as much again.
    assert compiled == pytest.approx(by_hand + entries, rel=0.02 if fsdp == 1 else 0.3)
