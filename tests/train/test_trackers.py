"""Other places for metrics, tried on stand-ins for their libraries: what they are sent, and that a restart goes on."""

import sys
import types

import pytest
from support.training import small_config

from wt_jax.errors import ConfigError
from wt_jax.train.metrics import MetricsWriter, read_metrics
from wt_jax.train.trackers import open_trackers


@pytest.fixture
def sent(monkeypatch):
    """What the stand-ins were called with, in order."""
    calls = []

    def recorder(name, result=None):
        def call(*args, **kwargs):
            calls.append((name, args, kwargs))
            return result

        return call

    run = types.SimpleNamespace(log=recorder("log"), finish=recorder("finish"))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=recorder("init", run)))
    started = types.SimpleNamespace(info=types.SimpleNamespace(run_id="run-7"))
    names = ("set_experiment", "log_params", "log_metrics", "end_run")
    mlflow = types.SimpleNamespace(start_run=recorder("start_run", started), **{name: recorder(name) for name in names})
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return calls


def write(config, workdir, start, lines):
    writer = MetricsWriter(workdir, start, lambda: open_trackers(config, workdir, start))
    for step, values in lines:
        writer.write(step, values)
    writer.close()


def test_wandb_is_sent_each_line_and_the_run_goes_on(sent, tmp_path):
    config = small_config(train__trackers="wandb")
    write(config, tmp_path, 0, [(1, {"loss": 2.0, "unknown": float("nan")}), (2, {"knn_top1": 0.5})])
    write(config, tmp_path, 2, [(3, {"loss": 1.0})])
    assert [name for name, *_ in sent] == ["init", "log", "log", "finish", "init", "log", "finish"]
    assert [(args, kwargs) for name, args, kwargs in sent if name == "log"] == [
        (({"loss": 2.0},), {"step": 1}),
        (({"knn_top1": 0.5},), {"step": 2}),
        (({"loss": 1.0},), {"step": 3}),
    ]
    first, second = (kwargs for name, _, kwargs in sent if name == "init")
    assert first == second
    assert first["resume"] == "allow"
    assert first["config"]["train"]["batch_size"] == config.train.batch_size
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_mlflow_is_sent_each_line_and_the_run_goes_on(sent, tmp_path):
    config = small_config(train__trackers="mlflow")
    write(config, tmp_path, 0, [(1, {"recall@1": 0.5})])
    write(config, tmp_path, 1, [(2, {"loss": 1.0})])
    starts = [kwargs for name, _, kwargs in sent if name == "start_run"]
    assert starts == [{"run_id": None, "run_name": tmp_path.name}, {"run_id": "run-7", "run_name": None}]
    assert [(args[0], kwargs) for name, args, kwargs in sent if name == "log_metrics"] == [
        ({"recall_at_1": 0.5}, {"step": 1}),
        ({"loss": 1.0}, {"step": 2}),
    ]
    (params,) = (args[0] for name, args, _ in sent if name == "log_params")
    assert params["train.batch_size"] == str(config.train.batch_size)
    assert sent[-1][0] == "end_run"


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"config\.train\.trackers: wandb is not installed .*pip install 'wt_jax\[wandb\]'"):
        open_trackers(small_config(train__trackers="wandb"), tmp_path, 0)


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ConfigError, match=r"config\.train\.trackers: 'wandbb' is unknown; there are wandb and mlflow"):
        small_config(train__trackers="mlflow,wandbb")


def test_nothing_is_imported_that_is_not_named(monkeypatch, tmp_path):
    for name in ("wandb", "mlflow", "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None)
    assert open_trackers(small_config(), tmp_path, 0) == []
