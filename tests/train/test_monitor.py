"""The monitor of a training's steps by itself: late reading, faults, clocks, scores."""

import contextlib
import json
import logging

import numpy as np
import pytest
from support.training import small_config

from wt_jax.data.records import VideoList
from wt_jax.errors import TrainingError
from wt_jax.train import metrics as metrics_module
from wt_jax.train import monitor as monitor_module
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


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    now = [1000.0]
    for module in (monitor_module, metrics_module):
        monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
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


def test_clocks_leave_out_what_is_no_training(make, tmp_path, clock):
    def batches():
        while True:
            clock[0] += 1.0  # each batch is waited for one second
            yield {}

    monitor, source = make(), batches()
    monitor.resume(0)
    for step in (1, 2, 3):
        monitor.fetch(source)
        assert monitor.busy_seconds() == pytest.approx(1.0)
        clock[0] += 3.0
        monitor.add(step, *results())
        if step == 2:
            monitor.flush()
            clock[0] += 1000.0  # an evaluation
            monitor.resume(step)
    monitor.flush()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["clips_per_second"] for line in lines][-1] == pytest.approx(BATCH / 4)
    assert lines[-1]["data_wait"] == pytest.approx(0.25)
    assert lines[-1]["step_seconds_p99"] <= 4.0
    assert all(line.get("goodput", 0) >= 0 for line in lines)
