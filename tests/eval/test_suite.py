"""The evaluation command: real processes and kills, what is skipped, the encoders it takes, and its errors."""

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wt_jax.config import to_dict
from wt_jax.errors import CheckpointError, ConfigError, EvaluationError, WeightsError
from wt_jax.eval import suite
from wt_jax.eval.config import default_evaluation, resolve_evaluation
from wt_jax.eval.encoders import load_candidate, named_places
from wt_jax.eval.features.store import FeatureFile, read_features
from wt_jax.eval.results import summarize
from wt_jax.eval.splits import open_lists
from wt_jax.eval.suite import evaluate
from wt_jax.experiment import build_method, default_config, resolve
from wt_jax.train.checkpoint import Checkpoints
from wt_jax.train.step import TrainState
from wt_jax.train.workdir import open_workdir

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path.stem for path in (ROOT / "configs" / "eval").glob("*.py") if path.stem not in ("__init__", "small_sets"))
SMALL = {
    "clip.num_frames": 4,
    "clip.size": 16,
    "model.name": "small_r2plus1d",
    "model.width": 4,
    "model.norm": "group",
    "windows": 2,
    "batch_size": 4,
    "part_videos": 4,
    "protocols": ("knn", "linear", "retrieval"),
    "settings.linear.epochs": 5,
}


def evaluation(folder, **changes):
    config = default_evaluation()
    config.update_from_flattened_dict({**SMALL, "lists": str(folder), **changes})
    return resolve_evaluation(config)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run that saved its first state and went no further."""
    workdir = tmp_path_factory.mktemp("runs") / "mine"
    config = default_config("one_hot")
    config.update_from_flattened_dict({k: v for k, v in SMALL.items() if k.split(".")[0] in ("clip", "model")})
    config = resolve(config)
    method = build_method(config, 1)
    clip = jnp.zeros((1, 4, 16, 16, 3))
    first = jax.jit(lambda key: method.init(key, {"query": clip, "key": clip}, {}))(jax.random.key(7))
    open_workdir(workdir, config)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(TrainState(jnp.ones((), jnp.int32), first.params, first.model_state, {}, first.teacher, first.buffers))
    checkpoints.close()
    return workdir


@pytest.fixture(scope="module")
def whole(small_set, run, tmp_path_factory):
    """An undisturbed evaluation of a run and of the same run's exported weights."""
    folder = tmp_path_factory.mktemp("evaluations") / "whole"
    config = evaluation(small_set)
    exported = folder.parent / "exported"
    load_candidate("run", str(run), config).export(exported)
    places = {"run": str(run), "exported": str(exported)}
    return config, places, folder, evaluate(config, places, folder)


def test_results_hold_every_number_with_its_interval(whole, small_set):
    _, places, folder, table = whole
    results = json.loads((folder / "results.json").read_text())
    assert results["classes"] == sorted(path.name for path in (small_set / "train").iterdir())
    assert results["splits"] == [{"name": "split1", "train": 32, "test": 16}]
    assert list(results["encoders"]) == list(places)
    for protocols in results["encoders"].values():
        assert list(protocols) == ["knn", "linear", "retrieval"]
        for summary in protocols.values():
            assert summary["items"] == 16
            for number in summary["numbers"].values():
                assert 0 <= number["low"] <= number["value"] <= number["high"] <= 1
        confusion = np.array(protocols["linear"]["confusion"])
        assert confusion.sum() == 16
        assert protocols["linear"]["numbers"]["top1"]["value"] == pytest.approx(confusion.trace() / 16)
        assert protocols["linear"]["chosen"][0]["split"] == "split1"
        assert {"recall@1", "recall@50", "mean_average_precision_uncentered"} <= protocols["retrieval"]["numbers"].keys()
    assert (folder / "results.md").read_text().startswith(table)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == list(places)


def test_a_run_and_its_exported_weights_are_the_same_encoder(whole):
    _, _, folder, _ = whole
    one, other = (read_features(folder / f"features_{name}.npz").values for name in ("run", "exported"))
    np.testing.assert_array_equal(one, other)
    assert one.std(axis=0).max() > 0


def test_again_nothing_is_left_to_do_and_a_changed_setting_is_done_anew(whole, monkeypatch):
    config, places, folder, table = whole
    judged = []

    def judge(protocol, *arguments):
        judged.append(protocol)
        return plain(protocol, *arguments)

    plain = suite.judge
    monkeypatch.setattr(suite, "judge", judge)
    monkeypatch.setattr("wt_jax.eval.features.store.feature_batches", None)  # no video is read
    assert evaluate(config, places, folder) == table
    assert judged == []
    settings = dataclasses.replace(config.settings, knn=dataclasses.replace(config.settings.knn, k=3))
    evaluate(dataclasses.replace(config, settings=settings), {"run": places["run"]}, folder)
    assert judged == ["knn"]


def command(*arguments):
    return [sys.executable, "-m", "wt_jax.tools.evaluate", *arguments]


def environment():
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}


def test_killed_while_it_reads_videos_it_goes_on_and_ends_the_same(whole, tmp_path):
    config, places, folder, _ = whole
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    (tmp_path / "config.py").write_text(
        "import json, pathlib\n"
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict(json.loads(pathlib.Path(__file__).with_suffix('.json').read_text()), type_safe=False)\n"
    )
    out = tmp_path / "out"
    arguments = command(f"--config={tmp_path / 'config.py'}", f"--encoders=run={places['run']},random", f"--workdir={out}")
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    parts = out / "features_run.parts"
    while process.poll() is None and time.monotonic() < deadline and not (parts / "part-00001-host-0.npz").exists():
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(arguments, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "parts are there already" in done.stderr
    files = [folder / "features_run.npz", out / "features_run.npz", out / "features_random.npz"]
    one, other, fresh = map(read_features, files)
    assert one.paths == other.paths == fresh.paths
    assert np.abs(fresh.values - one.values).max() > 1e-3
    np.testing.assert_allclose(one.values, other.values, rtol=1e-4, atol=1e-5)
    results = json.loads((out / "results.json").read_text())["encoders"]
    assert list(results) == ["run", "random"]
    assert all(tuple(protocols) == config.protocols for protocols in results.values())


def test_faults_are_told_in_one_line(tmp_path):
    done = subprocess.run(
        command("--config=configs/eval/labelled_folder.py", "--encoders=random", f"--workdir={tmp_path / 'out'}"),
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "train" in done.stderr


def test_encoders_are_named_and_told_apart(run, small_set, tmp_path):
    assert named_places(["random", "a/b/mine/", "best=c/d"]) == {"random": "random", "mine": "a/b/mine/", "best": "c/d"}
    with pytest.raises(ConfigError, match="two encoders are called 'mine'"):
        named_places(["a/mine", "b/mine"])
    with pytest.raises(ConfigError, match="--encoders is empty"):
        named_places([])
    with pytest.raises(ConfigError, match="has the name 'my run'"):
        named_places(["a/my run"])
    config = evaluation(small_set)
    with pytest.raises(ConfigError, match="neither 'random', nor the workdir"):
        load_candidate("x", str(tmp_path), config)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(WeightsError, match="no exported encoder"):
        load_candidate("x", str(tmp_path), config)
    (tmp_path / "model.json").unlink()
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_candidate("x", str(tmp_path), config)


def test_broken_weights_are_named_with_a_video(run, small_set, tmp_path, monkeypatch):
    config = evaluation(small_set)
    candidate = load_candidate("run", str(run), config)
    broken = dataclasses.replace(candidate, params=jax.tree.map(lambda leaf: leaf * np.float32(np.nan), candidate.params))
    monkeypatch.setattr(suite, "load_candidate", lambda *_: broken)
    with pytest.raises(EvaluationError, match=r"run: the features of 48 of 48 videos are not finite, .*\.mp4 first") as error:
        evaluate(config, {"run": str(run)}, tmp_path / "out")
    assert "\n" not in str(error.value)


def write_list(path, rows, header=""):
    path.write_text(header + "".join(f"{row}\n" for row in rows))


@pytest.fixture
def lists(small_set, tmp_path):
    """Three lists of real videos with integer labels, by tens."""
    files = [str(path) for path in sorted((small_set / "train").rglob("*.mp4"))][:30]
    for name, part in (("a.txt", files[:20]), ("b.txt", files[20:]), ("c.txt", files[10:])):
        write_list(tmp_path / name, (f"{file} {files.index(file) % 3}" for file in part))
    write_list(tmp_path / "d.csv", (f"{f},{i % 3},{'xyz'[i // 10]}" for i, f in enumerate(files)), "path,label,who\n")
    return tmp_path


def test_a_video_of_several_lists_is_read_once(lists):
    found = open_lists(evaluation(lists, splits=(("a.txt", "b.txt"), ("b.txt", "a.txt"))))
    assert len(found.videos) == 30
    first, second = found.splits
    np.testing.assert_array_equal(first.train, second.test)
    assert (first.name, second.name, found.pooled) == ("split1", "split2", False)


def test_lists_that_contradict_each_other_are_refused(lists):
    with pytest.raises(ConfigError, match=r"is in a\.txt and in c\.txt: training would see the test"):
        open_lists(evaluation(lists, splits=(("a.txt", "c.txt"),)))
    (lists / "e.txt").write_text((lists / "b.txt").read_text().replace("mp4 0", "mp4 1"))
    with pytest.raises(ConfigError, match=r"is of another class in e\.txt"):
        open_lists(evaluation(lists, splits=(("a.txt", "b.txt"), ("a.txt", "e.txt"))))
    write_list(lists / "f.txt", [line.split()[0] for line in (lists / "a.txt").read_text().splitlines()])
    with pytest.raises(ConfigError, match=r"f\.txt has no labels"):
        open_lists(evaluation(lists, splits=(("f.txt", "b.txt"),)))


def test_a_test_set_is_taken_where_none_is_named_and_groups_are_left_out(lists):
    split = open_lists(evaluation(lists, splits=(("a.txt", ""),), test_share=0.25)).splits[0]
    assert len(split.test) == 6  # 2 of each of three classes of 7, 7 and 6
    assert sorted([*split.train, *split.test]) == list(range(20))
    found = open_lists(evaluation(lists, splits=(("d.csv", ""),), leave_out="who"))
    assert found.pooled
    assert [split.name for split in found.splits] == ["without_x", "without_y", "without_z"]
    np.testing.assert_array_equal(found.splits[1].test, np.arange(10, 20))
    with pytest.raises(ConfigError, match=r"'whom' is no column of d\.csv \(columns: who\)"):
        open_lists(evaluation(lists, splits=(("d.csv", ""),), leave_out="whom"))


def test_left_out_groups_are_one_test_set_without_the_videos_that_failed(lists):
    config = evaluation(lists, splits=(("d.csv", ""),), leave_out="who")
    found = open_lists(config)
    # Two videos could not be decoded; of the rest the features say the class.
    kept = [place for place in range(30) if place not in (4, 25)]
    labels = found.videos.labels[kept]
    values = np.eye(3, dtype=np.float32)[labels] + 0.01 * np.random.default_rng(0).normal(size=(28, 3)).astype(np.float32)
    paths = tuple(found.videos.paths[place] for place in kept)
    features = FeatureFile(values, paths, labels, np.zeros((28, 2, 2)), found.videos.classes, (), {}, None)
    results = [suite.judge_stored("knn", features, split, found.videos, config) for split in found.splits]
    summary = summarize(results, found)
    assert (summary["items"], summary["folds"]) == (28, 1)
    assert summary["numbers"]["top1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert [choice["split"] for choice in summary["chosen"]] == ["without_x", "without_y", "without_z"]
    np.testing.assert_array_equal(np.sort(np.concatenate([result.items for result in results])), kept)


def test_impossible_configurations_name_the_key(small_set):
    for key, value, message in (
        ("protocols", ("knn", "retreival"), "did you mean 'retrieval'"),
        ("protocols", (), "config.protocols is empty"),
        ("windows", 0, "config.windows must be 1 or more"),
        ("view.crop", "random", "config.view must draw nothing"),
        ("model.name", "small_r2plus2d", "config.model: unknown model"),
        ("settings.low_shot.shares", (0.0,), "settings.low_shot"),
        ("settings.knn.k", "many", "config.settings.knn.k must be int"),
        ("test_share", 1.0, "config.test_share"),
        ("crops", 2, "crops"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluation(small_set, **{key: value})
    with pytest.raises(ConfigError, match="cannot be shared by 4 devices"):
        evaluate(evaluation(small_set, batch_size=6), {"random": "random"}, Path("nowhere"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_evaluation_resolves_and_says_how_it_is_run(name):
    module = importlib.import_module(f"configs.eval.{name}")
    config = resolve_evaluation(module.get_config())
    assert resolve_evaluation(json.loads(json.dumps(to_dict(config)))) == config
    for word in (f"configs/eval/{name}.py", "Command:", "Hardware:", "Expect:"):
        assert word in module.__doc__


@pytest.mark.slow
def test_training_protocols_run_once(small_set, run, tmp_path, monkeypatch):
    changes = {"protocols": ("linear_clips", "finetune")}
    for name in changes["protocols"]:
        changes |= {
            f"settings.{name}.train.duration": "2 steps",
            f"settings.{name}.train.batch_size": 8,
            f"settings.{name}.windows": 1,
            f"settings.{name}.crops": 1,
            f"settings.{name}.batch_size": 4,
        }
    config = evaluation(small_set, **changes)
    table = evaluate(config, {"run": str(run)}, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())["encoders"]["run"]
    assert {protocol: summary["items"] for protocol, summary in results.items()} == {"linear_clips": 16, "finetune": 16}
    monkeypatch.setattr(suite, "train_and_predict", None)
    assert evaluate(config, {"run": str(run)}, tmp_path) == table
