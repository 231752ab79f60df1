"""The command as a user runs it: real processes, real files, kills, faults in one line."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from wt_jax.eval.results import read_results

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "--config.clip.num_frames=4",
    "--config.clip.size=16",
    "--config.model.width=8",
    "--config.method.queue.size=16",
    "--config.train.batch_size=8",
    "--config.train.checkpoint_every=5 steps",
    "--config.train.log_every=1",
    "--config.eval.features.windows=2",
    "--config.eval.features.batch_size=8",
    "--config.eval.settings.knn.k=5",
]


def command(*arguments):
    return [sys.executable, "-m", "wt_jax.main", *arguments]


def environment(devices=1):
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }


def call(*arguments, devices=1, check=True):
    done = subprocess.run(command(*arguments), cwd=ROOT, env=environment(devices), capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stderr
    return done


def training(folder, workdir, *more, config="configs/quickstart.py"):
    return [
        f"--config={config}",
        f"--workdir={workdir}",
        f"--config.data.train={folder / 'train'}",
        f"--config.data.test={folder / 'test'}",
        *SMALL,
        *more,
    ]


def parameters(workdir, step):
    """The saved train state, as a flat dict of arrays."""
    import jax
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager((workdir / "checkpoints").absolute()) as manager:
        tree = manager.restore(step, args=ocp.args.StandardRestore())
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_equal_states(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.fixture(scope="module")
def undisturbed(small_set, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    done = call(*training(small_set, workdir, "--config.train.duration=12 steps", "--config.train.eval_every=6 steps"))
    return workdir, done


def test_a_run_leaves_scores_pictures_metrics_and_its_record(undisturbed):
    workdir, done = undisturbed
    assert "random-initialized" in done.stdout
    assert "pre-trained" in done.stdout
    results = read_results(workdir)
    assert list(results.encoders) == ["random-initialized", "pre-trained"]
    assert all(list(protocols) == ["knn", "linear", "retrieval"] for protocols in results.encoders.values())
    report = (workdir / "report.html").read_text()
    assert f"{100 * results.encoders['pre-trained']['knn'].numbers['top1'].value:.1f}" in report
    assert "12 of 12" in report
    metrics = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics if "loss" in m] == list(range(1, 13))
    assert sum("knn_top1" in m for m in metrics) == 2
    wanted = {"loss_one_hot", "loss_soft", "label_entropy", "queue_age", "teacher_distance", "label_mass_same_class"}
    assert wanted <= set(metrics[-2] | metrics[-1])
    assert json.loads((workdir / "config.json").read_text())["train"]["batch_size"] == 8
    assert "jax" in json.loads((workdir / "environment.json").read_text())["packages"]
    assert "clips/s" in done.stderr
    assert "data wait" in done.stderr


def test_the_same_command_again_has_nothing_left_to_train(undisturbed, small_set):
    workdir, first = undisturbed
    before = parameters(workdir, 12)
    again = call(*training(small_set, workdir, "--config.train.duration=12 steps", "--config.train.eval_every=6 steps"))
    assert_equal_states(before, parameters(workdir, 12))
    assert again.stdout == first.stdout


def test_evaluation_of_a_workdir_gives_the_same_table(undisturbed):
    workdir, first = undisturbed
    assert call("--mode=eval", f"--workdir={workdir}").stdout == first.stdout


def test_killed_anywhere_and_restarted_it_ends_bit_for_bit_the_same(undisturbed, small_set, tmp_path):
    workdir = tmp_path / "run"
    arguments = training(small_set, workdir, "--config.train.duration=12 steps", "--config.train.eval_every=6 steps")
    dice = random.Random(os.environ.get("WT_JAX_TEST_SEED", "0"))
    for kill in range(3):
        target = dice.randint(1, 11)
        # Workers change the processes that decode, and must not change what is decoded.
        process = subprocess.Popen(
            command(*arguments, f"--config.data.workers={kill % 2}"),
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline and last_step(workdir) < target:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    call(*arguments, "--config.data.workers=2")
    assert_equal_states(parameters(undisturbed[0], 12), parameters(workdir, 12))
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert len([s for s in steps if s not in (6, 12)]) == 10


def last_step(workdir):
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0


def one_line(done):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("wt_jax: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.rstrip().endswith(lines[0]), done.stderr
    return lines[0]


def test_a_misspelt_key_is_told_in_one_line(small_set, tmp_path):
    line = one_line(call(*training(small_set, tmp_path / "w", "--config.train.batch_sise=8"), check=False))
    assert "batch_sise" in line
    assert "batch_size" in line


def test_an_unknown_method_is_told_in_one_line(small_set, tmp_path):
    line = one_line(call(*training(small_set, tmp_path / "w", config="configs/quickstart.py:mocco"), check=False))
    assert "mocco" in line
    assert "'moco'" in line


def test_a_wrong_type_is_told_in_one_line(small_set, tmp_path):
    assert "batch_size" in one_line(call(*training(small_set, tmp_path / "w", "--config.train.batch_size=lots"), check=False))


def test_an_empty_folder_is_told_in_one_line(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    assert str(tmp_path / "train") in one_line(call(*training(tmp_path, tmp_path / "w"), check=False))


def test_a_list_with_a_missing_file_is_told_in_one_line(small_set, tmp_path):
    video = next((small_set / "train").rglob("*.mp4"))
    (tmp_path / "list.txt").write_text(f"{video} 0\nnowhere.mp4 1\n")
    arguments = training(small_set, tmp_path / "w", f"--config.data.train={tmp_path / 'list.txt'}")
    assert "nowhere.mp4" in one_line(call(*arguments, check=False))


def test_a_batch_that_devices_cannot_share_is_told_in_one_line(small_set, tmp_path):
    arguments = training(small_set, tmp_path / "w", "--config.train.batch_size=6", "--config.method.queue.size=12")
    assert "config.train.batch_size 6" in one_line(call(*arguments, devices=4, check=False))


def test_a_workdir_of_another_run_is_refused(undisturbed, small_set):
    arguments = training(small_set, undisturbed[0], "--config.seed=5", "--config.train.duration=12 steps")
    assert "config.seed was 0, is 5" in one_line(call(*arguments, check=False))


def test_missing_flags_are_told_in_one_line():
    assert "--workdir" in one_line(call("--config=configs/quickstart.py", check=False))
    assert "--config" in one_line(call("--workdir=nowhere", check=False))
    assert "nowhere" in one_line(call("--mode=eval", "--workdir=nowhere", check=False))


def test_undecodable_videos_are_named_counted_and_at_last_too_many(small_set, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for index, video in enumerate(sorted((small_set / "train").rglob("*.mp4"))[:14]):
        (folder / f"{index:02d}.mp4").symlink_to(video)
    (folder / "text.mp4").write_text("this is no video\n")
    (folder / "empty.mp4").write_bytes(b"")
    base = training(small_set, tmp_path / "w", f"--config.data.train={folder}", "--config.train.duration=4 steps")
    done = call(*base, "--config.data.max_bad_fraction=0.2")
    assert done.stderr.count("text.mp4") == 2  # once in the training, once in the evaluation
    bad = [json.loads(line) for line in (tmp_path / "w" / "bad_videos.jsonl").read_text().splitlines()]
    assert {Path(b["path"]).name for b in bad} == {"text.mp4", "empty.mp4"}
    strict = [a.replace(str(tmp_path / "w"), str(tmp_path / "strict")) for a in base]
    refused = call(*strict, "--config.data.max_bad_fraction=0.05", check=False)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "max_bad_fraction" in refused.stderr.splitlines()[-1]


def test_a_loss_that_is_not_finite_stops_with_its_videos(small_set, tmp_path):
    arguments = training(
        small_set,
        tmp_path / "w",
        "--config.train.duration=12 steps",
        "--config.optim.name=sgd",
        "--config.optim.learning_rate=1e30",
    )
    done = call(*arguments, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (record,) = (tmp_path / "w").glob("not_finite_step_*.json")
    assert len(json.loads(record.read_text())["videos"]) == 8


def test_inspect_prints_the_state_and_the_memory():
    printed = call("--mode=inspect", "--config=configs/quickstart.py").stdout
    assert "teacher" in printed
    assert "GiB" in printed


@pytest.mark.slow
def test_inspect_at_full_size():
    printed = call("--mode=inspect", "--config=configs/k400.py").stdout
    assert "query (128, 32, 128, 128, 3)" in printed


@pytest.mark.slow
def test_one_flag_packs_what_a_run_reads_once_for_all_runs(small_set, tmp_path):
    def started(workdir):
        flags = (f"--config.data.pack={tmp_path / 'packs'}", "--config.train.duration=4 steps", "--config.data.workers=1")
        return call(*training(small_set, tmp_path / workdir, *flags))

    first, second = started("w"), started("v")
    assert f"packing 32 videos into {tmp_path / 'packs' / 'train'}, shorter side 20, once" in first.stderr
    assert f"packing 16 videos into {tmp_path / 'packs' / 'test'}" in first.stderr
    assert "packing" not in second.stderr
    assert second.stdout == first.stdout
    assert call("--mode=eval", f"--workdir={tmp_path / 'w'}").stdout == first.stdout


@pytest.mark.slow
def test_real_clips_go_through_the_command(shared_data, tmp_path):
    arguments = training(
        shared_data, tmp_path / "w", f"--config.data.train={shared_data / 'clips'}", "--config.data.test=",
        "--config.train.duration=4 steps",
    )  # fmt: skip
    done = call(*arguments)
    assert "cannot be decoded" not in done.stderr


@pytest.mark.slow
def test_supervised_learning_goes_through_the_command(small_set, tmp_path):
    arguments = training(small_set, tmp_path / "w", "--config.train.duration=4 steps", config="configs/supervised.py")
    arguments = [*(a for a in arguments if "queue.size" not in a), "--config.model.name=small_r2plus1d"]
    assert "pre-trained" in call(*arguments).stdout
    metrics = [json.loads(line) for line in (tmp_path / "w" / "metrics.jsonl").read_text().splitlines()]
    assert {"accuracy", "accuracy_top5"} <= set(metrics[0])
    assert call("--mode=eval", f"--workdir={tmp_path / 'w'}").returncode == 0
    bare = "".join(f"{path}\n" for path in sorted((small_set / "train").rglob("*.mp4")))
    (tmp_path / "bare.txt").write_text(bare)
    unlabelled = [a if "data.train" not in a else f"--config.data.train={tmp_path / 'bare.txt'}" for a in arguments]
    line = one_line(call(*(a.replace(str(tmp_path / "w"), str(tmp_path / "v")) for a in unlabelled), check=False))
    assert "bare.txt has no labels, and supervised learns from them" in line
