"""The monitor of a training's steps by itself: late reading, faults, clocks, scores."""

import contextlib
import json
import logging
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.training import small_config

from wt_jax.data.records import VideoList
from wt_jax.errors import TrainingError
from wt_jax.train import monitor as monitor_module
from wt_jax.train.device_clock import DeviceClock
from wt_jax.train.metrics import read_metrics
from wt_jax.train.monitor import StepMonitor

CONFIG = small_config()
BATCH = CONFIG.train.batch_size


class Recorder:
    """In place of a heartbeat."""

    last = None

    def at(self, doing, step):
        self.last = (doing, step)


@pytest.fixture
def make(tmp_path):
    videos = VideoList([f"{index}.mp4" for index in range(20)], np.zeros(20, np.int32), ("all",))

    with contextlib.ExitStack() as monitors:

        def make(start=0):
            monitor = StepMonitor(CONFIG, videos, tmp_path, Recorder(), start=start, num_steps=10, best_by="knn_top1")
            return monitors.enter_context(contextlib.closing(monitor))

        yield make


class Device:
    """A device that takes one second per step, one after the other, and the clock that notes when it has finished them."""

    def __init__(self, now):
        self._now, self._free = now, now[0]

    def finish(self, results):
        self._free = max(self._now[0], self._free) + 1.0
        return Finished(self._now, self._free)

    def close(self):
        pass


class Finished(NamedTuple):
    now: list
    time: float

    def result(self):
        self.now[0] = max(self.now[0], self.time)
        return self.time


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test and the device move."""
    now = [1000.0]
    monkeypatch.setattr(monitor_module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(monitor_module, "DeviceClock", lambda: Device(now))
    return now


def results(loss=1.0, stop=False, busy=(0.0,), failed=()):
    """Metrics and signals of a step; `busy` has an entry per process."""
    rows = np.array([[stop, seconds] for seconds in busy], np.float32)
    bad = np.full(BATCH, -1, np.int32)
    bad[: len(failed)] = failed
    signals = {"numbers": rows, "video": np.arange(BATCH, dtype=np.int32), "failed": bad}
    return {"loss": np.float32(loss), "learning_rate": np.float32(0.1)}, signals


def written(workdir):
    return [line["step"] for line in read_metrics(workdir / "metrics.jsonl")]


def test_a_step_is_read_when_the_next_one_is_dispatched(make, tmp_path):
    monitor = make()
    monitor.add(1, *results())
    assert written(tmp_path) == []
    assert monitor._heartbeat.last is None
    monitor.add(2, *results())
    assert written(tmp_path) == [1]
    assert monitor._heartbeat.last == ("training", 1)
    assert not monitor.flush()
    assert written(tmp_path) == [1, 2]


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_raises_with_the_videos_of_its_step(make, tmp_path, loss):
    monitor = make()
    monitor.add(1, *results())
    monitor.add(2, *results(loss))
    with pytest.raises(TrainingError, match=r"the loss of step 2 is (nan|inf); its videos are in .*not_finite_step_2.json"):
        monitor.add(3, *results())
    record = json.loads((tmp_path / "not_finite_step_2.json").read_text())
    assert record["videos"] == [f"{index}.mp4" for index in range(BATCH)]
    assert written(tmp_path) == [1]


def test_a_request_to_stop_is_known_one_step_late(make):
    monitor = make()
    assert not monitor.add(1, *results(stop=True))
    assert monitor.add(2, *results())
    monitor.add(3, *results(stop=True))
    assert monitor.flush()


def test_a_slow_host_is_named_once_per_log_line(make, caplog, clock, monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 3)
    monitor = make()
    monitor.add(1, *results(busy=(0.1, 0.1, 0.9)))
    clock[0] += 1.0
    with caplog.at_level(logging.WARNING, "wt_jax"):
        monitor.add(2, *results(busy=(0.1, 0.1, 0.1)))
        assert "process 2 on " in caplog.text
        caplog.clear()
        clock[0] += 1.0
        monitor.flush()
    assert not caplog.text


def test_too_many_bad_videos_raise(make):
    monitor = make()  # 1 % of 20 videos are allowed: none
    monitor.add(1, *results(failed=[3]))
    with pytest.raises(TrainingError, match=r"1 of 20 videos cannot be decoded.*max_bad_fraction"):
        monitor.flush()


def test_the_best_score_is_known_across_restarts(make):
    first = make()
    assert first.add_scores(2, {"knn_top1": 0.5, "probe_top1": 0.1})
    assert not first.add_scores(4, {"knn_top1": 0.4, "probe_top1": 0.9})
    assert not first.add_scores(5, {"probe_top1": 0.9})
    first.close()
    second = make(start=5)
    assert second.evaluated == {2, 4, 5}
    assert not second.add_scores(6, {"knn_top1": 0.5})
    assert second.add_scores(8, {"knn_top1": 0.6})
    second.close()
    assert make(start=3).evaluated == {2}  # what a checkpoint does not hold is repeated


@pytest.mark.parametrize(("seconds", "step_seconds", "waiting"), [(4.0, 4.0, 0.75), (0.5, 1.0, 0.0)])
def test_data_are_waited_for_while_the_device_has_no_work(make, tmp_path, clock, seconds, step_seconds, waiting):
    def batches():
        while True:
            clock[0] += seconds
            yield {}

    monitor, source = make(), batches()
    monitor.resume(0)
    for step in range(1, 7):
        before = clock[0]
        monitor.fetch(source)
        assert monitor.busy_seconds() == pytest.approx(seconds)
        assert clock[0] == before + seconds
        monitor.add(step, *results())
        if step == 3:
            monitor.flush()
            clock[0] += 1000.0  # an evaluation
            monitor.resume(step)
    monitor.flush()
    # Before steps 1 and 4 the device had nothing to do in any case.
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["step"] in (3, 5, 6)]
    assert [line["data_wait"] for line in lines] == pytest.approx([waiting] * 3)
    assert [line["clips_per_second"] for line in lines] == pytest.approx([BATCH / step_seconds] * 3)
    assert lines[-1]["step_seconds_p90"] < 5.1  # nothing of the evaluation
    assert all(line.get("goodput", 0) >= 0 for line in lines)


def test_the_device_clock_waits_for_results_in_order():
    clock = DeviceClock()
    before = time.perf_counter()
    slow = jax.jit(lambda x: jax.lax.fori_loop(0, 300, lambda _, y: jnp.tanh(y @ y), x))(jnp.ones((200, 200)))
    times = [clock.finish(array).result(timeout=60) for array in (slow, jnp.zeros(()))]
    assert slow.is_ready()
    assert before < times[0] <= times[1] <= time.perf_counter()


def test_the_device_clock_notes_failures_too():
    class Failing:
        def block_until_ready(self):
            raise RuntimeError("the device is gone")

    clock = DeviceClock()
    assert clock.finish(Failing()).result(timeout=60) <= time.perf_counter()
    assert clock.finish(jnp.zeros(())).result(timeout=60) <= time.perf_counter()
