"""Runs of several methods under one configuration, each in a process of its own, collected into one table."""

import json
import logging
import runpy
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from wt_jax.config import Config, has_key, to_dict
from wt_jax.errors import ConfigError
from wt_jax.eval.compare.table import draw_comparison, format_comparison, scores_of, summarize
from wt_jax.eval.results import AFTER, BEFORE, Results, read_results
from wt_jax.experiment import resolve
from wt_jax.progress import label
from wt_jax.train.metrics import read_metrics
from wt_jax.train.program import build
from wt_jax.train.workdir import environment, read_config

log = logging.getLogger(__name__)


def config_of(file: str, method: str, seed: int, overrides: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
    """The checked configuration of one run, and the overrides that apply to its method."""
    config: ConfigDict = runpy.run_path(file)["get_config"](method)
    known = {key: value for key, value in overrides.items() if not key.startswith("method.") or has_key(config, key)}
    config.update_from_flattened_dict({**known, "seed": seed})
    return resolve(config), known


def trained_parameters(config: Config) -> int:
    """How many numbers the optimizer trains."""
    return sum(leaf.size for leaf in jax.tree.leaves(build(config, num_videos=config.train.batch_size).shapes.params))


def finished(workdir: Path, config: Config) -> bool:
    """Whether the workdir holds the results of exactly this configuration."""
    return (workdir / "results.json").exists() and to_dict(read_config(workdir)) == to_dict(config)


def run(file: str, config: Config, overrides: Mapping[str, Any], workdir: Path) -> None:
    """Train and evaluate in a process of its own.

    Raises:
      ConfigError: the process failed; the last line that it printed is the message.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    texts = [f"--config.{key}={value}" for key, value in overrides.items()]
    command = [sys.executable, "-m", "wt_jax.main", f"--config={file}:{config.method_name}", f"--config.seed={config.seed}"]
    with (workdir / "log.txt").open("a") as output:
        done = subprocess.run([*command, *texts, f"--workdir={workdir}"], stdout=output, stderr=output, check=False)
    if done.returncode:
        last = (workdir / "log.txt").read_text().strip().splitlines()[-1:]
        raise ConfigError(f"{workdir.name} ended with code {done.returncode}: {' '.join(last)}")


def scores(results: Results, encoder: str) -> dict[str, float]:
    """The numbers of an encoder that are reported first, by their headings, each in [0, 1]."""
    return {heading: number.value for heading, number in results.headline(encoder).items()}


def speed(workdir: Path) -> dict[str, float]:
    """Clips per second (median after the first line) and peak memory in GiB of a finished run."""
    metrics = read_metrics(workdir / "metrics.jsonl")
    rates = [line["clips_per_second"] for line in metrics if "clips_per_second" in line]
    # Of the device where its memory is counted; on a CPU that of the process.
    memory = [line.get("device_gib", line.get("host_gib", 0.0)) for line in metrics]
    return {
        "clips_per_second": float(np.median(rates[1:] or rates)),
        "memory": max(memory),
    }


def compare(file: str, methods: Sequence[str], seeds: int, overrides: Mapping[str, Any], folder: Path) -> str:
    """Run what is not finished yet, write the table after each run, return it."""
    runs = [(method, seed) for seed in range(seeds) for method in methods]
    # The encoder before training is evaluated once per seed. All is checked before the first run starts.
    prepared = {(m, s): config_of(file, m, s, {**overrides, "eval.before": m == methods[0]}) for m, s in runs}
    parameters = {method: trained_parameters(prepared[method, 0][0]) for method in methods}
    results: dict[str, dict[int, dict[str, float]]] = {}
    failures, text, start = [], "", time.monotonic()
    for number, (method, seed) in enumerate(runs, 1):
        config, known = prepared[method, seed]
        workdir = folder / f"{method}_seed{seed}"
        if not finished(workdir, config):
            try:
                with label(f"{method}, seed {seed}, {number}/{len(runs)}"):
                    log.info("%.0f s so far; its log is %s/log.txt", time.monotonic() - start, workdir)
                    run(file, config, known, workdir)
            except ConfigError as error:
                log.error("%s", error)
                failures.append(str(error))
                continue
        found = read_results(workdir) or Results()
        if found.failures:
            log.warning("%s: %s", workdir.name, "; ".join(found.failure_lines()))
        results.setdefault(method, {})[seed] = {**scores(found, AFTER), **speed(workdir), "parameters": parameters[method]}
        if BEFORE in found.encoders:
            results.setdefault(BEFORE, {})[seed] = scores(found, BEFORE)
        table = {
            "config": file,
            "overrides": dict(overrides),
            "environment": environment(),
            "runs": results,
            "summary": summarize(results, reference=methods[0]),
            "failures": failures,
        }
        (folder / "comparison.json").write_text(json.dumps(table, indent=1) + "\n")
        text = format_comparison(table["summary"], scores_of(results), methods[0])
        (folder / "comparison.md").write_text(text + "\n")
        draw_comparison(table["summary"], scores_of(results), folder / "comparison.png")
    if failures:
        raise ConfigError(f"{len(failures)} of {len(runs)} runs failed; the first: {failures[0]}")
    return text
