"""workers: real processes; one that dies is named, and the batches go on as if nothing had happened."""

import logging
import multiprocessing
import os
import pickle
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

from wt_jax.data.workers.pool import _Worker, iterate
from wt_jax.data.workers.shared_memory import Block, empty, pack, unpack
from wt_jax.errors import WorkerError


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


class Large:
    """An element of 4 KB that tells its index, made where the batch is handed over or elsewhere; index 30 fails."""

    def __call__(self, index):
        if index == 30:
            raise KeyError("thirty")
        there = empty((4096,))
        there[:] = index
        return {"there": there, "elsewhere": np.full(4096, index, np.int16), "jax": sys.modules.get("jax") is not None}


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
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGUSR2)  # not SIGHUP, which nohup has ignored
            killed.set()
            time.sleep(0.2)
    assert seen == [[(2 * place) ** 2, (2 * place + 1) ** 2] for place in range(200)]
    assert "SIGUSR2" in caplog.text


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


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_is_used_again_but_not_while_it_is_seen(threads):
    """Of the first batches a view stays, of all later ones everything or nothing."""
    large, views, kept, places = grain.MapDataset.range(30).map(Large()), [], [], set()
    for place, batch in enumerate(iterate(large, workers=1, threads=threads)):
        assert not batch["jax"]
        for name in ("there", "elsewhere"):
            assert (batch[name] == place).all()
        places.add(batch["there"].ctypes.data)
        if place < 6:
            views.append(batch["there"][7:9])
        elif place % 8 == 0:
            kept.append((place, batch))
    assert [view.tolist() for view in views] == [[place] * 2 for place in range(6)]
    assert all((batch[name] == place).all() for place, batch in kept for name in ("there", "elsewhere"))
    assert len(places) < 24


def test_memory_of_a_dead_worker_is_not_asked_of_the_next():
    """A batch that came before the death is handed over after it: its memory is unknown to the next process."""
    worker = _Worker(pickle.dumps(batches(Large())), threads=1)
    try:
        for place in (0, 1):  # From now on it is known how large a block has to be.
            worker.ask(place)
            assert worker.take(place)
        worker.ask(2)
        worker.ask(3)
        assert worker.take(3)  # The answer to 2 came before.
        worker.end()
        worker.start()
        assert int(worker.take(2)[0]["there"][0, 0]) == 4
        worker.ask(4)
        assert worker._connection.poll(30), "the worker waits for a file that is not sent"
        assert int(worker.take(4)[0]["there"][0, 0]) == 8
    finally:
        worker.end()


def test_what_finds_no_room_travels_otherwise():
    made, block, free = {"a": np.arange(5000), "b": np.arange(3)}, Block(1, 50_000), []
    *packed, room = pack([made], 0, None)
    assert 40_000 <= room < 40_100
    for given in (None, Block(2, 39_999), block):
        *packed, room = pack([made], 0, given)
        assert len(packed[0]) < 2000 or given is not block
        batch = unpack(*packed, given, free)
        assert {name: values.tolist() for name, values in batch.items()} == {"a": [*range(5000)], "b": [0, 1, 2]}
    assert block not in free
    del batch
    assert block in free


def test_an_error_keeps_its_type_and_says_where_it_was():
    with pytest.raises(KeyError, match="thirty") as caught:
        list(iterate(grain.MapDataset.range(40).map(Large()), workers=2, threads=1))
    assert "In a data worker" in caught.value.__notes__[0]
    assert not multiprocessing.active_children()
    assert pickle.dumps(caught.value)


PROGRAM = """
import grain, multiprocessing, os, signal, sys
from wt_jax.data.workers.pool import _Worker, iterate
source = iterate(grain.MapDataset.range(10_000).batch(2), workers=2, threads=1)
next(source)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""


@pytest.mark.parametrize("end", ["pass", "raise SystemExit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_however_a_program_ends_its_workers_do(end):
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", PROGRAM + end], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == {"pass": 0, "raise SystemExit(3)": 3}.get(end, -signal.SIGKILL), done.stderr
    assert done.stderr == ""
    for pid in map(int, done.stdout.split()):
        until = time.monotonic() + 20
        while os.path.exists(f"/proc/{pid}/cmdline") and Path(f"/proc/{pid}/cmdline").read_bytes():
            assert time.monotonic() < until, f"{pid} is still there"
            time.sleep(0.05)


def test_workers_do_not_import_the_main_module(tmp_path):
    """A program without a guard, which would otherwise start itself in each worker."""
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent("""
        import grain, os, sys
        from wt_jax.data.workers.pool import _Worker, iterate
        with open(sys.argv[1], "a") as file:
            file.write("started\\n")
        batches = grain.MapDataset.range(6).batch(2)
        print([batch.tolist() for batch in iterate(batches, workers=2, threads=1)])
        assert __file__ == sys.argv[0], __file__
        """)
    )
    root = Path(__file__).resolve().parents[2]
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
