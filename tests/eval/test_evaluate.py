"""The evaluation command: real processes and kills, what is skipped, the encoders it takes, and its errors."""

import dataclasses
import importlib
import json
import os
import re
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
from wt_jax.errors import CheckpointError, ConfigError, WeightsError
from wt_jax.eval import evaluate as evaluation_module
from wt_jax.eval.config import default_evaluation, resolve_evaluation
from wt_jax.eval.encoders import load_candidate, named_paths
from wt_jax.eval.evaluate import evaluate
from wt_jax.eval.features.store import read_features
from wt_jax.eval.fiftyone import write_evaluation
from wt_jax.eval.protocols.base import Encoded
from wt_jax.eval.protocols.knn import Knn
from wt_jax.eval.protocols.table import Protocols
from wt_jax.eval.results import read_results, short_table, summarize
from wt_jax.eval.splits import open_splits, present
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
    "features.windows": 2,
    "features.batch_size": 4,
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
    paths = {"run": str(run), "exported": str(exported)}
    return config, paths, folder, evaluate(config, paths, folder)


def test_results_hold_every_number_with_its_interval(whole, small_set):
    _, paths, folder, results = whole
    assert read_results(folder) == results
    assert list(results.classes) == sorted(path.name for path in (small_set / "train").iterdir())
    assert results.splits == [{"name": "split1", "train": 32, "test": 16}]
    assert list(results.encoders) == list(paths)
    assert results.failures == {}
    for protocols in results.encoders.values():
        assert list(protocols) == ["knn", "linear", "retrieval"]
        for summary in protocols.values():
            assert summary.items == 16
            assert summary.headings.keys() <= summary.numbers.keys()
            for number in summary.numbers.values():
                assert 0 <= number.low <= number.value <= number.high <= 1
        confusion = np.array(protocols["linear"].confusion)
        assert confusion.sum() == 16
        assert protocols["linear"].numbers["top1"].value == pytest.approx(confusion.trace() / 16)
        assert protocols["linear"].chosen[0]["split"] == "split1"
        assert protocols["knn"].settings["center"] is False
        assert {"recall@1", "recall@50", "mean_average_precision_uncentered"} <= protocols["retrieval"].numbers.keys()
    table = short_table(results)
    assert (folder / "results.md").read_text().startswith(table)
    head, _, *rows = table.splitlines()
    assert [cell.strip() for cell in head.split("|")[2:-1]] == ["kNN", "kNN, swept", "linear", "R@1", "R@5", "mAP"]
    assert [row.split("|")[1].strip() for row in rows] == list(paths)


def test_fiftyone_gets_the_predictions_of_which_the_results_are_means(whole, tmp_path):
    config, _, folder, results = whole
    write_evaluation(config, folder, results, tmp_path)
    samples = json.loads((tmp_path / "samples.json").read_text())["samples"]
    tested = [sample for sample in samples if "split1_test" in sample["tags"]]
    assert (len(samples), len(tested)) == (48, 16)
    for protocol in ("knn", "linear"):
        right = [sample[f"run_{protocol}"]["label"] == sample["ground_truth"]["label"] for sample in tested]
        assert np.mean(right) == pytest.approx(results.encoders["run"][protocol].numbers["top1"].value)


def test_a_run_and_its_exported_weights_are_the_same_encoder(whole):
    _, _, folder, _ = whole
    one, other = (read_features(folder / f"features_{name}.npz").values for name in ("run", "exported"))
    np.testing.assert_array_equal(one, other)
    assert one.std(axis=0).max() > 0


def test_again_nothing_is_left_to_do_and_a_changed_setting_is_done_anew(whole, monkeypatch):
    config, paths, folder, results = whole
    done = []
    plain = evaluation_module.write_outcome
    monkeypatch.setattr(evaluation_module, "write_outcome", lambda path, *rest: (done.append(path.stem), plain(path, *rest)))
    monkeypatch.setattr("wt_jax.eval.features.store.feature_batches", None)  # no video is read
    assert evaluate(config, paths, folder) == results
    assert done == []
    settings = dataclasses.replace(config.settings, knn=dataclasses.replace(config.settings.knn, k=3))
    evaluate(dataclasses.replace(config, settings=settings), {"run": paths["run"]}, folder)
    assert done == ["split1_knn"]


def examples():
    """The names that the code blocks of docs/evaluation.md define."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "evaluation.md").read_text(), re.DOTALL)
    names = {"__name__": "examples"}
    for block in blocks:
        exec(block, names)
    return names


NearestMean = examples()["NearestMean"]


@dataclasses.dataclass(frozen=True)
class Broken(NearestMean):
    """One that fails once it runs."""

    def run(self, features, labels, classes, splits, *, seed=0):
        raise ValueError("it is broken")


@dataclasses.dataclass(frozen=True)
class MoreProtocols(Protocols):
    """The table with two more lines."""

    broken: Broken = Broken()
    nearest_mean: NearestMean = NearestMean()


def test_a_protocol_is_one_class_and_one_line_and_one_that_fails_leaves_the_others(whole):
    config, paths, folder, _ = whole
    config = dataclasses.replace(config, protocols=("broken", "nearest_mean"), settings=MoreProtocols())
    results = evaluate(config, {"run": paths["run"]}, folder.parent / "more")
    assert results.failures == {"run": {"broken": "it is broken"}}
    assert results.failure_lines() == ["run, broken: it is broken"]
    assert list(results.encoders["run"]) == ["nearest_mean"]
    assert "nearest mean" in short_table(results)
    assert "Not evaluated: run, broken: it is broken" in (folder.parent / "more" / "results.md").read_text()
    assert read_results(folder.parent / "more") == results


def test_what_cannot_work_is_found_before_any_video_is_read(whole, small_set, monkeypatch, tmp_path):
    config, paths, _, _ = whole
    monkeypatch.setattr("wt_jax.eval.features.store.feature_batches", None)
    settings = dataclasses.replace(config.settings, attentive=dataclasses.replace(config.settings.attentive, heads=3))
    config = dataclasses.replace(config, protocols=("knn", "attentive"), settings=settings)
    with pytest.raises(ConfigError, match=r"run, attentive: heads 3 does not divide the \d+ channels"):
        evaluate(config, {"run": paths["run"]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def command(*arguments):
    return [sys.executable, "-m", "wt_jax.tools.evaluate", *arguments]


def environment():
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}


def test_killed_while_it_reads_videos_it_goes_on_and_ends_the_same(whole, tmp_path):
    config, paths, folder, _ = whole
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    (tmp_path / "config.py").write_text(
        "import json, pathlib\n"
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict(json.loads(pathlib.Path(__file__).with_suffix('.json').read_text()), type_safe=False)\n"
    )
    out = tmp_path / "out"
    arguments = command(f"--config={tmp_path / 'config.py'}", f"--encoders=run={paths['run']},random", f"--workdir={out}")
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
    assert named_paths(["random", "a/b/mine/", "best=c/d"]) == {"random": "random", "mine": "a/b/mine/", "best": "c/d"}
    with pytest.raises(ConfigError, match="two encoders have the name 'mine'"):
        named_paths(["a/mine", "b/mine"])
    with pytest.raises(ConfigError, match="--encoders is empty"):
        named_paths([])
    with pytest.raises(ConfigError, match="has the name 'my run'"):
        named_paths(["a/my run"])
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
    monkeypatch.setattr(evaluation_module, "load_candidate", lambda *_: broken)
    results = evaluate(config, {"run": str(run)}, tmp_path / "out")
    assert results.encoders == {"run": {}}
    assert list(results.failures["run"]) == list(config.protocols)
    for reason in results.failures["run"].values():
        assert reason.startswith("the features of 48 of 48 videos are not finite")
        assert "\n" not in reason


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
    found = open_splits(evaluation(lists, splits=(("a.txt", "b.txt"), ("b.txt", "a.txt"))))
    assert len(found.videos) == 30
    first, second = found.parts
    np.testing.assert_array_equal(first.train, second.test)
    assert (first.name, second.name, found.pooled) == ("split1", "split2", False)


def test_lists_that_contradict_each_other_are_refused(lists):
    with pytest.raises(ConfigError, match=r"is in a\.txt and in c\.txt: training would see the test"):
        open_splits(evaluation(lists, splits=(("a.txt", "c.txt"),)))
    (lists / "e.txt").write_text((lists / "b.txt").read_text().replace("mp4 0", "mp4 1"))
    with pytest.raises(ConfigError, match=r"is of another class in e\.txt"):
        open_splits(evaluation(lists, splits=(("a.txt", "b.txt"), ("a.txt", "e.txt"))))
    write_list(lists / "f.txt", [line.split()[0] for line in (lists / "a.txt").read_text().splitlines()])
    with pytest.raises(ConfigError, match=r"f\.txt has no labels"):
        open_splits(evaluation(lists, splits=(("f.txt", "b.txt"),)))
    rows = [line.rsplit(" ", 1)[0] for line in (lists / "b.txt").read_text().splitlines()]
    write_list(lists / "g.txt", (f"{row} 7" for row in rows))
    with pytest.raises(ConfigError, match="the training and the test videos of split1 have no class in common"):
        open_splits(evaluation(lists, splits=(("a.txt", "g.txt"),)))


def test_a_test_set_is_taken_where_none_is_named_and_groups_are_left_out(lists):
    split = open_splits(evaluation(lists, splits=(("a.txt", ""),), test_fraction=0.25)).parts[0]
    assert len(split.test) == 6  # 2 of each of three classes of 7, 7 and 6
    assert sorted([*split.train, *split.test]) == list(range(20))
    found = open_splits(evaluation(lists, splits=(("d.csv", ""),), leave_out="who"))
    assert found.pooled
    assert [split.name for split in found.parts] == ["without_x", "without_y", "without_z"]
    np.testing.assert_array_equal(found.parts[1].test, np.arange(10, 20))
    with pytest.raises(ConfigError, match=r"d\.csv: 'whom' is no column \(columns: who\)"):
        open_splits(evaluation(lists, splits=(("d.csv", ""),), leave_out="whom"))


def test_left_out_groups_are_one_test_set_without_the_videos_that_failed(lists):
    config = evaluation(lists, splits=(("d.csv", ""),), leave_out="who")
    found = open_splits(config)
    # Two videos could not be decoded; of the rest the features say the class.
    kept = [place for place in range(30) if place not in (4, 25)]
    labels = found.videos.labels[kept]
    values = np.eye(3, dtype=np.float32)[labels] + 0.01 * np.random.default_rng(0).normal(size=(28, 3)).astype(np.float32)
    splits = present(found.parts, np.array(kept), len(found.videos))
    assert [(len(split.train), len(split.test)) for split in splits] == [(19, 9), (18, 10), (19, 9)]
    result = Knn().run(Encoded(values), labels, found.videos.classes, splits)
    summary = summarize(Knn(), dataclasses.replace(result.pooled(), items=np.array(kept)[result.items]), 3)
    assert (summary.items, summary.folds) == (28, 1)
    assert summary.numbers["top1"] == (1.0, 1.0, 1.0)
    assert [choice["split"] for choice in summary.chosen] == ["without_x", "without_y", "without_z"]
    np.testing.assert_array_equal(np.sort(result.items), np.arange(28))


def test_impossible_configurations_name_the_key(small_set):
    for key, value, message in (
        ("protocols", ("knn", "retreival"), "did you mean 'retrieval'"),
        ("protocols", (), "config.protocols is empty"),
        ("features.windows", 0, "config.features.windows must be 1 or more"),
        ("view.crop", "random", "config.view must draw nothing"),
        ("model.name", "small_r2plus2d", "config.model: unknown model"),
        ("settings.low_shot.fractions", (0.0,), "config.settings.low_shot.fractions"),
        ("settings.knn.k", "many", "config.settings.knn.k must be int"),
        ("test_fraction", 1.0, "config.test_fraction"),
        ("features.crops", 2, "crops"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluation(small_set, **{key: value})
    with pytest.raises(ConfigError, match="cannot be divided among 4 devices"):
        evaluate(evaluation(small_set, **{"features.batch_size": 6}), {"random": "random"}, Path("nowhere"))


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
    results = evaluate(config, {"run": str(run)}, tmp_path)
    assert {name: summary.items for name, summary in results.encoders["run"].items()} == {"linear_clips": 16, "finetune": 16}
    monkeypatch.setattr("wt_jax.eval.clip_training.train_and_predict", None)
    assert evaluate(config, {"run": str(run)}, tmp_path) == results
