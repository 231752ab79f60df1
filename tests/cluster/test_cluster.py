"""Several processes as one run: registration, the same batches and losses in every shape, and processes that end."""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from wt_jax.cluster.host_signals import slow_host
from wt_jax.cluster.preemption import RUN_AGAIN
from wt_jax.cluster.processes import HEARTBEAT_SECONDS, _register, initialize
from wt_jax.errors import ClusterError
from wt_jax.train.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ((1, 4), (2, 2), (4, 1))  # processes, devices of each


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def register(count, present, seconds=2.0):
    """What each of the processes gets: host names, or an error."""
    address, found = f"127.0.0.1:{free_port()}", {}

    def call(key, place, of):
        try:
            found[key] = _register(address, of, place, time.monotonic() + seconds)
        except ClusterError as error:
            found[key] = error

    threads = [threading.Thread(target=call, args=(key, *who)) for key, who in enumerate(present)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_registration_finds_all():
    assert set(map(tuple, register(3, [(0, 3), (1, 3), (2, 3)]).values())) == {(socket.gethostname(),) * 3}


def test_registration_names_the_missing_processes_to_all():
    found = register(4, [(0, 4), (2, 4)])
    assert all(isinstance(error, ClusterError) for error in found.values())
    assert all("processes 1, 3 of 4 did not connect" in str(error) for error in found.values())


def test_without_process_0_the_others_raise():
    (error,) = register(2, [(1, 2)], seconds=0.5).values()
    assert "process 0 cannot be reached" in str(error)


def test_processes_that_disagree_raise():
    assert "expects 3 processes, process 0 2" in str(register(2, [(0, 2), (1, 3)])[0])


def test_a_fault_of_the_primary_process_is_raised_by_all_that_wait_for_it():
    """`run_on_primary` with a time limit, as a run packs its videos: the others wait by the coordinator."""
    code = """if True:
        import sys, time
        from wt_jax.cluster.processes import initialize, run_on_primary
        from wt_jax.errors import SourceError, UserError

        def pack():
            time.sleep(1)
            raise SourceError("the list is empty")

        initialize(sys.argv[1], 2, int(sys.argv[2]), timeout=60)
        run_on_primary(lambda: None, UserError, 60.0)
        try:
            run_on_primary(pack, UserError, 60.0)
        except UserError as error:
            print(error, flush=True)
    """
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, address, str(place)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for place in range(2)
    ]
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert [text.splitlines()[-1] for text in printed] == ["the list is empty"] * 2  # gloo prints lines of its own


def test_an_incomplete_address_is_refused():
    with pytest.raises(ClusterError, match="--process_id must be given too"):
        initialize("127.0.0.1:1", 2, timeout=1)
    with pytest.raises(ClusterError, match="--process_id 5 is not in"):
        initialize("127.0.0.1:1", 2, 5, timeout=1)


def test_a_slow_host_is_named():
    busy = np.array([[0.01, 0.5, 0.02, 0.01]] * 10)
    assert slow_host(busy, 6.0).startswith("process 1 on ")
    assert slow_host(busy[:, [0, 2, 3]], 6.0) == ""
    assert slow_host(np.full((10, 4), 0.5), 6.0) == ""  # all wait alike: the data is slow, no host is


def command(folder, workdir, steps, *more):
    return [
        "--config=configs/chaos.py",
        f"--workdir={workdir}",
        f"--config.data.train={folder / 'train'}",
        f"--config.train.duration={steps} steps",
        "--config.train.eval_every=0 steps",
        *more,
    ]


def start(processes, devices, arguments, hashes=None):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)
    program = ["-m", "wt_jax.main"]
    if hashes:
        hashes.mkdir(exist_ok=True)
        environment["HASHES"], program = str(hashes), [str(ROOT / "tests" / "support" / "recording_main.py")]
    launcher = [ROOT / "launch" / "local.sh", "-n", str(processes), "--devices", str(devices), "--"]
    return subprocess.Popen(
        [*launcher, sys.executable, *program, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )  # fmt: skip


def losses(workdir):
    return np.array([line["loss"] for line in read_metrics(workdir / "metrics.jsonl") if "loss" in line])


def rows(hashes):
    """The hashes of the rows of each global batch, the processes' parts one behind the other."""
    parts = [(hashes / f"{p}.jsonl").read_text().splitlines() for p in range(len(list(hashes.iterdir())))]
    return [list(itertools.chain.from_iterable(json.loads(part) for part in step)) for step in zip(*parts, strict=True)]


def test_a_killed_process_ends_the_other_with_the_cause_and_the_run_goes_on_alone(small_set, tmp_path):
    arguments = command(small_set, tmp_path / "w", 40)
    process = start(2, 1, arguments)
    lines = []
    for line in process.stdout:
        lines.append(line)
        saved = [child for child in (tmp_path / "w" / "checkpoints").glob("*") if child.name.isdecimal()]
        if saved and re.search(r"step \d+/", line):
            break
    victim = json.loads((tmp_path / "w" / "heartbeats" / "1.json").read_text())["pid"]
    os.kill(victim, signal.SIGKILL)
    output = "".join(lines) + process.communicate(timeout=200)[0]
    assert process.returncode == 137, output
    assert f"process 1 on {socket.gethostname()} (pid {victim})" in output
    assert f"process 0 (pid {json.loads((tmp_path / 'w' / 'heartbeats' / '0.json').read_text())['pid']}) ended with code {RUN_AGAIN}" in output  # fmt: skip # noqa: E501
    before = losses(tmp_path / "w")
    alone = start(1, 2, command(small_set, tmp_path / "w", 40))
    output = alone.communicate(timeout=200)[0]
    assert alone.returncode == 0, output
    assert ", from step" in output
    np.testing.assert_array_equal(losses(tmp_path / "w")[: len(before)], before)  # one and two processes: bit for bit
    assert len(losses(tmp_path / "w")) == 40


def test_the_launcher_waits_longer_than_a_silence():
    usage = subprocess.run([ROOT / "launch" / "local.sh", "--help"], capture_output=True, text=True, check=True).stdout
    (grace,) = re.findall(r"SECONDS \(default (\d+)\)", usage)
    assert int(grace) >= 1.5 * HEARTBEAT_SECONDS


@pytest.mark.slow
def test_a_process_that_is_killed_while_the_other_waits_for_it_is_named(tmp_path):
    """At a barrier, as in saving, its end is known by its silence."""
    code = """if True:
        import os, pathlib, signal, sys
        from wt_jax.cluster.heartbeat import Heartbeat, peer_errors
        from wt_jax.cluster.processes import barrier, initialize
        from wt_jax.errors import PeerLost

        workdir, place = pathlib.Path(sys.argv[1]), int(os.environ["WT_JAX_PROCESS_ID"])
        initialize(os.environ["WT_JAX_COORDINATOR"], 2, place, timeout=60)
        with Heartbeat(workdir) as heartbeat:
            barrier("both write their heartbeats")
            if place:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                with peer_errors(workdir):
                    barrier("saving", 300)
            except PeerLost as error:
                print(error, flush=True)
                os._exit(75)
    """
    launcher = [ROOT / "launch" / "local.sh", "-n", "2", "--devices", "1", "--"]
    done = subprocess.run(
        [*launcher, sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 137
    assert re.search(r"a process of this run has ended \(process 1 on \S+ \(pid \d+\)\)", done.stdout), (
        done.stdout + done.stderr
    )


@pytest.mark.slow
def test_a_missing_process_is_named_by_the_command(small_set, tmp_path):
    arguments = [*command(small_set, tmp_path / "w", 4), "--coordinator", f"127.0.0.1:{free_port()}"]
    arguments += ["--num_processes=2", "--process_id=0", "--join_timeout=3"]
    done = subprocess.run([sys.executable, "-m", "wt_jax.main", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("wt_jax: process 1 of 2 did not connect in time")


@pytest.mark.slow
def test_every_shape_of_cluster_gives_the_same_run(small_set, tmp_path):
    # Sums over devices are rounded in another order. BatchNorm in an untrained head blows that up a thousandfold within a few
    # steps, and so does a rate at which training is unstable: both are left out, as in configs/k400.py.
    more = ["--config.train.checkpoint_every=40 steps", "--config.optim.name=sgd", "--config.optim.learning_rate=0.01"]
    more += ["--config.method.head.norm="]
    for processes, devices in SHAPES:
        name = f"{processes}x{devices}"
        run = start(processes, devices, command(small_set, tmp_path / name, 50, *more), tmp_path / f"hashes_{name}")
        output = run.communicate(timeout=900)[0]
        assert run.returncode == 0, output
    first = rows(tmp_path / "hashes_1x4")
    assert len({tuple(batch) for batch in first}) == 50
    expected = losses(tmp_path / "1x4")
    assert len(expected) == 50
    for processes, devices in SHAPES[1:]:
        name = f"{processes}x{devices}"
        assert rows(tmp_path / f"hashes_{name}") == first
        gap = np.abs(losses(tmp_path / name) - expected).max()
        print(f"{name}: losses differ from 1x4 by at most {gap:.1e}")
        assert gap < 1e-5
    for (processes, devices), (others, their) in zip(SHAPES, SHAPES[1:] + SHAPES[:1], strict=True):
        half = tmp_path / f"{processes}x{devices}_on_{others}x{their}"
        shutil.copytree(tmp_path / f"{processes}x{devices}", half)
        shutil.rmtree(half / "checkpoints" / "50")
        run = start(others, their, command(small_set, half, 50, *more))
        output = run.communicate(timeout=900)[0]
        assert run.returncode == 0, output
        assert "from step 40" in output
        gap = np.abs(losses(half) - expected).max()
        print(f"{half.name}: losses differ by at most {gap:.1e}")
        assert len(losses(half)) == 50
        assert gap < 1e-5
