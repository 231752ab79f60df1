"""The comparison of methods: its arithmetic, its configurations, and the command on real videos, stopped and gone on with."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wt_jax.errors import ConfigError
from wt_jax.eval.compare.labels import draw_labels, label_quality, late_mass
from wt_jax.eval.compare.runs import Comparison, config_of, finished
from wt_jax.eval.compare.table import draw_comparison, format_comparison, scores_of, summarize
from wt_jax.eval.results import BEFORE

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")


def scores(knn, **more):
    return {"kNN": knn, "linear": knn / 2, "R@1": knn / 4, **more}


@pytest.fixture
def runs():
    return {
        "weak_teacher": {0: scores(0.5, parameters=10), 1: scores(0.7, parameters=10), 2: scores(0.6, parameters=10)},
        "moco": {0: scores(0.4, parameters=10), 2: scores(0.7, parameters=10)},
        BEFORE: {0: scores(0.3)},
    }


def test_summary_is_mean_and_sample_deviation_and_the_lead_is_paired_by_seed(runs):
    summary = summarize(runs, reference="weak_teacher")
    mean, deviation, count, *_ = summary["weak_teacher"]["kNN"]
    assert (mean, count) == (pytest.approx(0.6), 3)
    assert deviation == pytest.approx(np.std([0.5, 0.7, 0.6], ddof=1))
    lead = summary["moco"]["lead"]
    assert lead.mean == pytest.approx(np.mean([0.4 - 0.5, 0.7 - 0.6]))
    assert lead.count == 2
    # Of two values, one or the other twice is drawn half of the time.
    assert (lead.low, lead.high) == (pytest.approx(-0.1), pytest.approx(0.1))
    assert "lead" not in summary["weak_teacher"]
    assert math.isnan(summary[BEFORE]["kNN"][1])


def test_table_has_a_row_per_method_the_best_first(runs, tmp_path):
    summary = summarize(runs, reference="weak_teacher")
    rows = format_comparison(summary, scores_of(runs), "weak_teacher").splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["weak_teacher", "moco", BEFORE]
    assert scores_of(runs) == ["kNN", "linear", "R@1"]
    assert "60.0 ± 10.0" in rows[0]
    assert "| 30.0 |" in rows[2]
    draw_comparison(summary, scores_of(runs), tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").stat().st_size > 5000


def test_a_score_that_a_run_lacks_is_left_out_of_its_row(runs, tmp_path):
    del runs["moco"][2]["kNN"]
    del runs[BEFORE][0]["kNN"]
    summary = summarize(runs, reference="weak_teacher")
    assert summary["moco"]["kNN"][:3] == (0.4, pytest.approx(math.nan, nan_ok=True), 1)
    assert summary["moco"]["lead"][2] == 1
    rows = format_comparison(summary, scores_of(runs), "weak_teacher").splitlines()[2:]
    assert rows[-1].startswith(f"| {BEFORE} | – |")
    draw_comparison(summary, scores_of(runs), tmp_path / "comparison.png")


def test_leads_have_intervals_and_shares_of_what_is_possible():
    rng = np.random.default_rng(0)
    base = rng.normal(0.6, 0.1, 12)
    runs = {"one_hot": base, "teacher": base + rng.normal(0.03, 0.01, 12), "oracle": base + 0.1}
    runs = {name: {seed: scores(value) for seed, value in enumerate(values)} for name, values in runs.items()}
    summary = summarize(runs, reference="one_hot")
    lead = summary["teacher"]["lead"]
    assert 0.02 < lead.low < lead.mean < lead.high < 0.04  # paired: the seeds' own spread of 0.1 plays no part
    assert lead.high - lead.low == pytest.approx(2 * 1.96 * lead.deviation / math.sqrt(12), rel=0.2)
    head, _, *rows = format_comparison(summary, scores_of(runs), "one_hot", "oracle").splitlines()
    assert "share of oracle's lead" in head
    cells = {row.split("|")[1].strip(): row.split("|")[6].strip() for row in rows}
    assert cells == {"oracle": "100%", "teacher": f"{lead.mean / 0.1:.0%}", "one_hot": "–"}


def test_a_ceiling_that_is_not_compared_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--ceiling=oracle"):
        Comparison(QUICKSTART, ["one_hot", "moco"], [0], {}, tmp_path, "oracle")


def test_each_value_of_a_setting_is_a_row_of_its_own_but_for_reference_and_ceiling(tmp_path):
    methods, variants = ["one_hot", "weak_teacher", "oracle"], [("method.label_weight", 0.2), ("views.weak.area", (0.9, 1.0))]
    comparison = Comparison(QUICKSTART, methods, [0], {"data.train": "videos"}, tmp_path, "oracle", variants)
    assert list(comparison.rows) == [
        "one_hot",
        "weak_teacher, label_weight=0.2",
        "weak_teacher, views.weak.area=(0.9, 1.0)",
        "oracle",
    ]
    configs = {row: comparison._prepared[row, 0][0] for row in comparison.rows}
    usual = config_of(QUICKSTART, "weak_teacher", 0, {})[0].method.label_weight
    assert usual != 0.2
    assert [config.method.label_weight for row, config in configs.items() if "weak_teacher" in row] == [0.2, usual]
    assert [config.views.weak.area for config in configs.values()] == [(0.6, 1.0), (0.6, 1.0), (0.9, 1.0), (0.6, 1.0)]
    assert len({comparison._workdir(row, 0) for row in comparison.rows}) == 4
    with pytest.raises(ConfigError, match="moco has no setting"):
        Comparison(QUICKSTART, ["one_hot", "moco"], [0], {}, tmp_path, variants=variants)


def test_overrides_reach_the_methods_that_have_them():
    overrides = {"train.duration": "5 steps", "method.label_weight": 0.5, "method.no_such_key": 1}
    config, used = config_of(QUICKSTART, "weak_teacher", 3, overrides)
    assert config.seed == 3
    assert config.method.label_weight == 0.5
    assert "method.no_such_key" not in used


def test_results_of_another_configuration_are_not_taken(tmp_path):
    videos = {"data.train": "videos/train"}  # a relative path, as it is typed
    config, _ = config_of(QUICKSTART, "moco", 0, videos)
    assert not finished(tmp_path, config)
    from wt_jax.train.workdir import open_workdir

    open_workdir(tmp_path, config)
    (tmp_path / "results.json").write_text("{}")
    assert finished(tmp_path, config)
    assert not finished(tmp_path, config_of(QUICKSTART, "moco", 1, videos)[0])


def test_a_wrong_override_is_refused_before_anything_runs():
    with pytest.raises((ConfigError, KeyError)):
        config_of(QUICKSTART, "moco", 0, {"train.batch_size": 33, "method.queue.size": 256})


def command(folder, workdir, *more, config=QUICKSTART):
    changes = [
        "clip.num_frames=4",
        "clip.size=16",
        "model.width=8",
        "method.queue.size=16",
        "train.batch_size=8",
        "train.duration=4 steps",
        "train.log_every=1",
        "eval.features.windows=1",
        "eval.features.batch_size=8",
        f"data.train={folder}/train",
        f"data.test={folder}/test",
        "data.max_bad_fraction=1.0",
    ]
    arguments = [f"--config={config}", *(f"--config.{change}" for change in changes), f"--workdir={workdir}", *more]
    environment = {**os.environ, "XLA_FLAGS": ""}
    return subprocess.run(
        [sys.executable, "-m", "wt_jax.tools.compare", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def test_an_unknown_method_is_named_with_those_there_are():
    done = command("data", "nowhere", "--methods=weak_teacher,mocco")
    assert done.returncode == 2
    assert "'mocco'" in done.stderr
    assert "weak_teacher" in done.stderr


def test_a_key_of_one_method_alone_reaches_it(small_set, tmp_path):
    options = ["--config.method.teacher_weights=nowhere", "--methods=moco,seed", "--seeds=1"]
    done = command(small_set, tmp_path / "w", *options, config=f"{QUICKSTART}:seed")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert not (tmp_path / "w").exists()  # refused before the first run


@pytest.mark.slow
def test_two_methods_and_then_a_third_without_repeating_the_first_two(small_set, tmp_path):
    first = command(small_set, tmp_path, "--methods=weak_teacher,moco", "--seeds=1", "--jobs=2")
    assert first.returncode == 0, first.stderr
    logs = {name: (tmp_path / f"{name}_seed0" / "log.txt").stat() for name in ("weak_teacher", "moco")}
    second = command(small_set, tmp_path, "--methods=weak_teacher,moco,relational", "--seeds=1")
    assert second.returncode == 0, second.stderr
    assert "relational, seed 0, 3/3" in second.stderr
    assert "seed 0, 1/3" not in second.stderr
    for name, before in logs.items():
        assert (tmp_path / f"{name}_seed0" / "log.txt").stat().st_mtime_ns == before.st_mtime_ns
    table = json.loads((tmp_path / "comparison.json").read_text())
    assert set(table["runs"]) == {"weak_teacher", "moco", "relational", BEFORE}
    row = table["runs"]["moco"]["0"]
    assert 0 <= row["kNN"] <= 1
    assert row["parameters"] > 1000
    assert row["memory"] > 0.1
    assert row["clips_per_second"] > 0


def test_the_quality_of_labels_is_collected_and_drawn(tmp_path):
    lines = [{"step": 1, "loss": 1.0}, {"step": 2, "label_mass_same_class": 0.2, "negatives_same_class": 0.1}]
    lines += [{"step": step, "label_mass_same_class": 0.1 * step, "negatives_same_class": 0.1} for step in (3, 4, 5, 6)]
    quality = label_quality(lines)
    assert quality["step"] == [2, 3, 4, 5, 6]
    assert late_mass(quality) == pytest.approx(0.6)  # the last quarter of five lines is one
    one_hot = [{"step": 1, "label_mass_same_class": math.nan, "negatives_same_class": 0.1}]
    assert label_quality(one_hot) == {}
    runs = {"one_hot": {0: scores(0.5), 1: scores(0.6)}, "weak_teacher": {0: scores(0.6), 1: scores(0.5), 2: scores(0.4)}}
    draw_labels({"weak_teacher": {0: quality, 1: quality, 2: quality}}, runs, "one_hot", tmp_path / "labels.png")
    assert (tmp_path / "labels.png").stat().st_size > 5000
