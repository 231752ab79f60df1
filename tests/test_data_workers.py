"""workers: real processes; one that dies is named, and the batches go on as if nothing had happened."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import grain
import numpy as np
import pytest

from wt_jax.data.workers import WorkerError, iterate


class Square:
    """One element of a batch; dies at `place` as long as the file is there, which it removes if `once`."""

    def __init__(self, place=-1, switch="", once=True):
        self.place, self.switch, self.once = place, switch, once

    def __call__(self, index):
        if index == self.place and os.path.exists(self.switch):
            if self.once:
                os.remove(self.switch)
            os.kill(os.getpid(), signal.SIGKILL)
        return {"square": np.int32(index * index)}


def batches(make, count=24):
    return grain.MapDataset.range(count).map(make).batch(2)


def values(source):
    return [batch["square"].tolist() for batch in source]


EXPECTED = [[(2 * place) ** 2, (2 * place + 1) ** 2] for place in range(12)]


@pytest.fixture
def switch(tmp_path):
    (tmp_path / "switch").touch()
    return str(tmp_path / "switch")


def test_a_worker_that_is_killed_changes_nothing_but_the_log(switch, caplog):
    with caplog.at_level(logging.WARNING, "wt_jax"):
        assert values(iterate(batches(Square(11, switch)), workers=2, threads=1)) == EXPECTED
    assert not os.path.exists(switch)  # It did die.
    assert len(caplog.messages) == 1
    assert "SIGKILL, as when memory runs out" in caplog.messages[0]
    assert not multiprocessing.active_children()


def test_a_kill_from_outside_while_batches_are_read(caplog):
    seen, killed = [], threading.Event()
    for batch in iterate(batches(Square(), 400), workers=1, threads=1):
        seen.append(batch["square"].tolist())
        if len(seen) == 20 and not killed.is_set():
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGHUP)
            killed.set()
            time.sleep(0.2)
    assert seen == [[(2 * place) ** 2, (2 * place + 1) ** 2] for place in range(200)]
    assert "SIGHUP" in caplog.text


def test_a_batch_that_always_kills_ends_the_run(switch):
    source = iterate(batches(Square(5, switch, once=False)), workers=1, threads=0)
    with pytest.raises(WorkerError, match=r"died 3 times without giving a batch; the last: SIGKILL"):
        values(source)
    assert not multiprocessing.active_children()


def test_closing_early_ends_the_workers():
    source = iterate(batches(Square(), 2000), workers=2, threads=1)
    next(source)
    assert len(multiprocessing.active_children()) == 2
    source.close()
    assert not multiprocessing.active_children()


def test_workers_do_not_import_the_main_module(tmp_path):
    """A program without a guard, which would otherwise start itself in each worker."""
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent("""
        import grain, os, sys
        from wt_jax.data.workers import iterate
        with open(sys.argv[1], "a") as file:
            file.write("started\\n")
        batches = grain.MapDataset.range(6).batch(2)
        print([batch.tolist() for batch in iterate(batches, workers=2, threads=1)])
        assert __file__ == sys.argv[0], __file__
        """)
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "log")],
        env=dict(os.environ, PYTHONPATH=str(root)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[[0, 1], [2, 3], [4, 5]]"
    assert (tmp_path / "log").read_text() == "started\n"
