"""Gathers the content of a report: the files of a workdir and, where they exist, pictures from its encoder and videos."""

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wt_jax.errors import ConfigError, UserError
from wt_jax.eval.report import pictures
from wt_jax.eval.report.curves import panels
from wt_jax.eval.report.detections import detections
from wt_jax.eval.report.pictures import Subject
from wt_jax.eval.report.scores import evaluated_classes, score_tables
from wt_jax.eval.results import Results, read_results
from wt_jax.train.metrics import read_metrics

log = logging.getLogger(__name__)


def collect(workdir: Path, subject: Subject | str) -> dict[str, Any]:
    """Everything that the template names; in place of a section that is left out, the sentence that gives the reason.

    Args:
      workdir: the folder of a run or of an evaluation.
      subject: the run's encoder and videos, or the reason why there are none.

    Raises:
      ConfigError: the workdir holds no file that a report could be about, or one that cannot be read.
    """
    config, environment, evaluation = (_read(workdir / f"{name}.json") for name in ("config", "environment", "evaluation"))
    results = read_results(workdir)
    metrics = read_metrics(workdir / "metrics.jsonl")
    if not (config or results or metrics):
        raise ConfigError(f"{workdir} holds no config.json, metrics.jsonl or results.json; is it the workdir of a run?")
    config, environment = config or evaluation.get("config", {}), environment or evaluation.get("environment", {})
    drawn, constant = panels(metrics)
    results = results or Results()
    tables = score_tables(results)
    builders: dict[str, Callable[[Subject], Any]] = {
        "retrieval": pictures.retrieval,
        "embedding": pictures.embedding,
        "attention": pictures.attention,
        "views": pictures.views,
    }
    return {
        "name": workdir.absolute().name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "facts": _facts(config, metrics, subject) + _evaluation_facts(evaluation, results),
        "environment": environment,
        "config": json.dumps(config, indent=1) if config else "",
        "curves": {"panels": drawn, "constant": constant} if drawn else "The workdir holds no metrics (metrics.jsonl).",
        "tables": tables or "There are no scores (results.json): they need labelled videos.",
        "failures": results.failure_lines(),
        "classes": evaluated_classes(results) or "There are no predictions (results.json): they need labelled videos.",
        **{name: _section(name, builder, subject) for name, builder in builders.items()},
        "detections": _made(lambda: detections(workdir)),
    }


def _section(name: str, builder: Callable[[Subject], Any], subject: Subject | str) -> Any:
    if isinstance(subject, str):
        return subject
    log.info("report: %s", name)
    return _made(lambda: builder(subject))


def _made(build: Callable[[], Any]) -> Any:
    try:
        return build()
    except (ValueError, UserError) as error:  # features that are not finite, videos that are gone
        return f"This could not be made: {error}."


def _facts(config: Mapping[str, Any], metrics: list[dict[str, float]], subject: Subject | str) -> list[tuple[str, str]]:
    """The few lines that name the subject of the report."""
    facts = []
    if method := config.get("method_name"):
        facts.append(("method", str(method)))
    if "name" in (model := config.get("model", {})):
        facts.append(("encoder", f"{model['name']}, width {model.get('width')}, {model.get('norm')} norm"))
    data = config.get("data", {})
    for part in ("train", "test"):
        if data.get(part):
            facts.append((f"{part} videos", str(data[part])))
    if not isinstance(subject, str):
        videos = subject.features.videos
        tested = f", {len(videos.test)} to test" if videos.test is not None else ""
        labels = f"{len(videos.train.classes)} classes" if videos.train.classes else "no labels"
        facts.append(("videos", f"{len(videos.train):,} to train{tested}, {labels}"))
    if "num_frames" in (clip := config.get("clip", {})):
        apart = f"{clip.get('stride'):g} {clip.get('unit')} apart"
        facts.append(("clips", f"{clip['num_frames']} x {clip.get('size')} pixels, {apart.replace('1 frames', '1 frame')}"))
    steps = [str(int(row["step"])) for row in metrics[-1:]]
    if not isinstance(subject, str):
        steps = [f"{int(subject.state.step):,} of {subject.run.program.num_steps:,}"]
    if steps:
        batch = config.get("train", {}).get("batch_size")
        facts.append(("steps", steps[0] + (f", {batch} videos each" if batch else "")))
    if "seed" in config:
        facts.append(("seed", str(config["seed"])))
    return facts


def _evaluation_facts(evaluation: Mapping[str, Any], results: Results) -> list[tuple[str, str]]:
    facts = [(f"encoder {name}", str(path)) for name, path in evaluation.get("encoders", {}).items()]
    return facts + [(f"split {s['name']}", f"{s['train']:,} to train, {s['test']:,} to test") for s in results.splits]


def _read(path: Path) -> dict[str, Any]:
    """A JSON file of the workdir; empty where there is none."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); remove it, or evaluate the run again") from None
    return found if isinstance(found, dict) else {}
