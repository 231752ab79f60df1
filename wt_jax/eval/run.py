"""Judges a run: scores of its encoder before and after training, in `results.json` and, as a table, in `results.md`."""

import json
import logging
from pathlib import Path

from wt_jax.cluster.processes import is_primary_process
from wt_jax.eval.features.extract import Features
from wt_jax.eval.table import format_table
from wt_jax.experiment import Run
from wt_jax.methods.base import evaluated_tree
from wt_jax.train.step import TrainState

log = logging.getLogger(__name__)

COLUMNS = ("knn_top1", "linear_top1", "recall@1", "recall@5", "recall@10", "recall@20", "recall@50")


def judge(run: Run, state: TrainState, workdir: Path) -> tuple[dict[str, dict[str, float]], tuple[Features, Features | None]]:
    """Judge the random-initialized (if `config.eval.before`) and the trained encoder.

    Returns:
      {"random-initialized": scores, "pre-trained": scores}, each score in [0, 1], empty without labels; and the trained
      encoder's features of the training and the test list.
    """
    evaluated = run.program.method.evaluated
    features = run.evaluator.features(*evaluated_tree(evaluated, state))
    if not run.evaluator.possible:
        log.info("no labelled training and test videos: no scores")
        return {}, features
    results = {}
    if run.config.eval.before:
        fresh = run.program.first_state()
        results["random-initialized"] = run.evaluator.scores(run.evaluator.features(*evaluated_tree(evaluated, fresh)))
    results["pre-trained"] = run.evaluator.scores(features)
    if is_primary_process():
        (workdir / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        (workdir / "results.md").write_text(table(results) + "\n")
    return results, features


def table(results: dict[str, dict[str, float]]) -> str:
    """The scores as a Markdown table in percent."""
    return format_table(list(results.items()), COLUMNS)
