"""Faults, provoked for real: damaged checkpoints, a full disk, a read-only or busy workdir, signals, clocks, lost workers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wt_jax.cluster.goodput import Goodput
from wt_jax.cluster.heartbeat import Heartbeat, heartbeat_file
from wt_jax.cluster.preemption import RUN_AGAIN, Interrupt, Preempted
from wt_jax.cluster.workdir_lock import lock_workdir, unlock_workdir
from wt_jax.errors import CheckpointError, ConfigError
from wt_jax.experiment import resolve
from wt_jax.train.checkpoint import Checkpoints
from wt_jax.train.metrics import read_metrics
from wt_jax.train.step import TrainState
from wt_jax.train.workdir import open_workdir

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
ENVIRONMENT["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"


def state_of(step, size=1000):
    """A train state whose numbers tell its step; random, so that it does not compress."""
    values = jax.random.normal(jax.random.key(step), (size,))
    return TrainState(jnp.asarray(step, jnp.int32), {"w": values}, {}, {}, {}, {})


def shapes_of(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def saved(workdir, *steps):
    checkpoints = Checkpoints(workdir, keep=3)
    for step in steps:
        checkpoints.save(state_of(step))
    checkpoints.close()


def restored(workdir):
    checkpoints = Checkpoints(workdir, keep=3)
    state = checkpoints.restore(shapes_of(state_of(0)))
    checkpoints.close()
    if state is not None:
        np.testing.assert_array_equal(state.params["w"], state_of(int(state.step)).params["w"])
    return None if state is None else int(state.step)


def files(folder):
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_a_truncated_checkpoint_is_set_aside_and_the_one_before_taken(tmp_path, caplog):
    saved(tmp_path, 1, 2, 3)
    victim = files(tmp_path / "checkpoints" / "3")[-1]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    assert restored(tmp_path) == 2
    assert "step 3 cannot be read" in caplog.text
    assert (tmp_path / "damaged" / "3").is_dir()
    saved(tmp_path, 3)  # the run comes to it again
    assert restored(tmp_path) == 3


def test_whichever_file_is_missing_a_checkpoint_is_read_whole_or_not_at_all(tmp_path):
    saved(tmp_path / "whole", 1, 2)
    count = len(files(tmp_path / "whole" / "checkpoints" / "2"))
    found = []
    for index in range(count):
        workdir = tmp_path / str(index)
        subprocess.run(["cp", "-r", tmp_path / "whole", workdir], check=True)
        files(workdir / "checkpoints" / "2")[index].unlink()
        found.append(restored(workdir))  # also compares the numbers
    assert set(found) <= {1, 2}
    assert 1 in found


def test_no_readable_checkpoint_is_an_error_and_nothing_is_moved(tmp_path):
    saved(tmp_path, 1, 2)
    for step in ("1", "2"):
        files(tmp_path / "checkpoints" / step)[-1].write_bytes(b"")
        for path in files(tmp_path / "checkpoints" / step):
            path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="can be read"):
        restored(tmp_path)
    assert (tmp_path / "checkpoints" / "2").is_dir()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_ends_the_saving_and_leaves_the_last_good_checkpoint(small_disk):
    checkpoints = Checkpoints(small_disk, keep=3)
    checkpoints.save(state_of(1))
    checkpoints.wait()
    (small_disk / "rest").write_bytes(bytes(1 << 19))
    with pytest.raises(CheckpointError, match=r"could not be saved.*that of step 1 is good; make room"):  # noqa: PT012
        checkpoints.save(state_of(2, size=150_000))
        checkpoints.wait()
    assert not list((small_disk / "checkpoints").glob("*tmp*"))  # the draft has made room again
    assert restored(small_disk) == 1


def run_command(small_set, workdir, *more, **environment):
    arguments = ["--config=configs/chaos.py", f"--workdir={workdir}", f"--config.data.train={small_set / 'train'}"]
    arguments += ["--config.train.eval_every=0 steps", "--config.train.duration=12 steps", *more]
    return subprocess.run(
        [sys.executable, "-m", "wt_jax.main", *arguments],
        cwd=ROOT, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_a_disk_that_fills_up_ends_the_command_in_one_line_and_room_lets_it_go_on(small_disk, small_set):
    subprocess.run(["mount", "-o", "remount,size=2m", small_disk], check=True)
    arguments = (small_set, small_disk / "w", "--config.train.keep_checkpoints=20", "--config.train.checkpoint_every=1 steps")
    done = run_command(*arguments)
    assert done.returncode == 2, done.stderr
    # Around our line tensorstore's threads and asyncio may print what they met; nothing in Python can keep them from it.
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("wt_jax: "))
    assert "No space left on device" in line
    subprocess.run(["mount", "-o", "remount,size=60m", small_disk], check=True)
    again = run_command(*arguments)
    assert again.returncode == 0, again.stderr
    assert ", from step" in again.stderr
    assert [m["step"] for m in read_metrics(small_disk / "w" / "metrics.jsonl") if "loss" in m] == list(range(1, 13))


def test_a_read_only_workdir_is_refused_in_one_line(small_disk):
    from configs.chaos import get_config

    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(ConfigError, match="cannot be written: Read-only file system"):
        open_workdir(small_disk / "w", resolve(get_config()))


def test_two_runs_in_one_workdir_and_a_killed_one_leaves_nothing_behind(tmp_path):
    hold = "from pathlib import Path; from wt_jax.cluster.workdir_lock import lock_workdir; "
    hold += f"lock_workdir(Path({str(tmp_path)!r})); "
    holder = subprocess.Popen(
        [sys.executable, "-c", hold + "print('held', flush=True); import time; time.sleep(60)"],
        env=ENVIRONMENT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=rf"the run with pid {holder.pid} on {socket.gethostname()}, started 20"):
        lock_workdir(tmp_path)
    holder.kill()
    holder.communicate()
    lock_workdir(tmp_path)
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    lock_workdir(tmp_path)  # the same process
    unlock_workdir(tmp_path)


def test_a_run_on_another_host_is_known_by_its_heartbeat(tmp_path):
    (tmp_path / "lock").write_text(json.dumps({"host": "far", "pid": 7, "start": "then"}))
    with Heartbeat(tmp_path, interval=0.05), pytest.raises(ConfigError, match="pid 7 on far"):
        lock_workdir(tmp_path, watch=2.0)
    lock_workdir(tmp_path, watch=0.5)  # it beats no more
    unlock_workdir(tmp_path)


def test_a_heartbeat_tells_of_a_training_that_stands_still(tmp_path):
    with Heartbeat(tmp_path, interval=0.05) as heartbeat:
        heartbeat.at("training", 3)
        time.sleep(0.4)
        facts = json.loads(heartbeat_file(tmp_path, 0).read_text())
    assert (facts["doing"], facts["step"], facts["pid"]) == ("training", 3, os.getpid())
    assert facts["for_seconds"] >= 0.2
    assert json.loads(heartbeat_file(tmp_path, 0).read_text())["doing"] == "ended"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_is_noted_in_steps_and_taken_at_once_elsewhere(number):
    with Interrupt() as interrupt, interrupt.steps():
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # changes nothing
        assert interrupt.requested == number.name
        with pytest.raises(Preempted), interrupt.at_once():
            raise AssertionError("the evaluation must not begin")
    with pytest.raises(Preempted), Interrupt():
        signal.raise_signal(number)


def test_goodput_counts_what_is_still_part_of_the_run(tmp_path, monkeypatch):
    clock = {"wall": 1e9, "up": 0.0}
    monkeypatch.setattr(time, "time", lambda: clock["wall"])
    monkeypatch.setattr(time, "monotonic", lambda: clock["up"])

    def pass_time(seconds):
        clock["wall"] += seconds
        clock["up"] += seconds

    first = Goodput(tmp_path, 0)
    pass_time(10)
    first.add_step(6.0)
    first.checkpoint_saved(5)
    first.add_step(2.0)  # lost
    pass_time(10)
    assert first.fraction() == pytest.approx(8 / 20)
    clock["wall"] += 20  # down
    clock["up"] = 500.0  # another machine's
    second = Goodput(tmp_path, 5)
    assert second.starts == 2
    assert second.fraction() == pytest.approx(6 / 40)
    clock["wall"] -= 1e6  # the clock is set back while nothing runs
    third = Goodput(tmp_path, 5)
    pass_time(10)
    assert third.fraction() == pytest.approx(6 / 50)


def test_a_lost_worker_is_named_and_replaced(small_set, tmp_path):
    arguments = ["--config=configs/chaos.py", f"--workdir={tmp_path / 'w'}", f"--config.data.train={small_set / 'train'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "wt_jax.main", *arguments, "--config.data.workers=1", "--config.train.eval_every=0 steps",
         "--config.train.duration=40 steps"],
        cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    for line in process.stderr:
        if line.startswith("step 5/"):
            break
    children = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True, check=True)
    for child in children.stdout.split():
        os.kill(int(child), signal.SIGKILL)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 0, rest
    assert "a worker process died: SIGKILL" in rest
    assert "step 40/40" in rest


def test_killed_a_few_times_a_run_ends_bit_for_bit_the_same(small_set, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "wt_jax.bench.chaos", "--config=configs/chaos.py", "--kills=2", "--several=0", "--seed=3",
         f"--workdir={tmp_path}", f"--config.data.train={small_set / 'train'}", f"--config.data.test={small_set / 'test'}",
         "--config.train.duration=20 steps", "--config.train.eval_every=10 steps"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit for bit" in done.stdout


@pytest.mark.slow
def test_a_hundred_kills(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "wt_jax.bench.chaos", "--config=configs/chaos.py", "--kills=100", f"--workdir={tmp_path}"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_clock_that_jumps_disturbs_nothing(small_set, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(  # set anew every second, by up to a day and back
        "import random, time\nreal, running = time.time, time.monotonic\n"
        "time.time = lambda: real() + random.Random(int(running())).uniform(-1e5, 1e5)\n"
    )
    path = f"{tmp_path}:{ROOT}"
    jumping = run_command(small_set, tmp_path / "jumping", PYTHONPATH=path)
    assert jumping.returncode == 0, jumping.stderr
    quiet = run_command(small_set, tmp_path / "quiet")
    assert quiet.returncode == 0, quiet.stderr
    one, other = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("jumping", "quiet"))
    assert [m["loss"] for m in one if "loss" in m] == [m["loss"] for m in other if "loss" in m]
    for line in one:
        assert 0 <= line.get("step_seconds_p99", 0) < 60
        assert 0 <= line.get("goodput", 0) <= 1
        assert 0 <= line.get("data_wait", 0) <= 1


@pytest.mark.slow
def test_a_profile_on_demand(small_set, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "wt_jax.main", "--config=configs/chaos.py", f"--workdir={tmp_path / 'w'}",
         f"--config.data.train={small_set / 'train'}", "--config.train.eval_every=0 steps",
         "--config.train.duration=400 steps"],
        cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stderr:
        if line.startswith("step 5/"):
            process.send_signal(signal.SIGUSR1)
        if line.startswith("the trace of steps"):
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == RUN_AGAIN
    assert list((tmp_path / "w" / "profile").rglob("*.xplane.pb"))
