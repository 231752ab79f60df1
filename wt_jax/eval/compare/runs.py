"""Runs of several methods under one configuration, each in a process of its own, collected into one table."""

import json
import logging
import os
import queue
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from wt_jax.config import Config, has_key, to_dict
from wt_jax.errors import ConfigError
from wt_jax.eval.compare.labels import Quality, draw_labels, label_quality
from wt_jax.eval.compare.table import draw_comparison, format_comparison, scores_of, summarize
from wt_jax.eval.results import AFTER, BEFORE, Results, read_results
from wt_jax.experiment import resolve
from wt_jax.train.metrics import read_metrics
from wt_jax.train.program import build
from wt_jax.train.workdir import environment, stored_config

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
    return (workdir / "results.json").exists() and to_dict(stored_config(workdir)) == to_dict(config)


def run(file: str, config: Config, overrides: Mapping[str, Any], workdir: Path, cores: Iterable[int] = ()) -> None:
    """Train and evaluate in a process of its own, on these cores if any are given.

    Raises:
      ConfigError: the process failed; the last line that it printed is the message.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    texts = [f"--config.{key}={value}" for key, value in overrides.items()]
    command = [sys.executable, "-m", "wt_jax.main", f"--config={file}:{config.method_name}", f"--config.seed={config.seed}"]
    with (workdir / "log.txt").open("a") as output:
        process = subprocess.Popen([*command, *texts, f"--workdir={workdir}"], stdout=output, stderr=output)
        if cores := set(cores):
            os.sched_setaffinity(process.pid, cores)
        code = process.wait()
    if code:
        last = (workdir / "log.txt").read_text().strip().splitlines()[-1:]
        raise ConfigError(f"{workdir.name} ended with code {code}: {' '.join(last)}")


def scores(results: Results, encoder: str) -> dict[str, float]:
    """The numbers of an encoder that are reported first, by their headings, each in [0, 1]."""
    return {heading: number.value for heading, number in results.headline(encoder).items()}


def speed(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Clips per second (median after the first line) and peak memory in GiB of a finished run, by its metrics."""
    rates = [line["clips_per_second"] for line in metrics if "clips_per_second" in line]
    # Of the device where its memory is counted; on a CPU that of the process.
    memory = [line.get("device_gib", line.get("host_gib", 0.0)) for line in metrics]
    return {
        "clips_per_second": float(np.median(rates[1:] or rates)),
        "memory": max(memory),
    }


class Comparison:
    """Runs of several methods over several seeds, and the table of those that are finished.

    Attributes:
      file, overrides: the configuration, without a method.
      methods: the first is the reference.
      seeds: of each method.
      folder: of the runs and the table.
      ceiling: a method whose lead is what is possible, of which the table shows each method's share; "": none.
      rows: {name in the table: (method, overrides of its own)}. With `variants`, pairs of a key and a value, each method but
        the reference and the ceiling has a row for each of them.
    """

    def __init__(
        self,
        file: str,
        methods: Sequence[str],
        seeds: Sequence[int],
        overrides: Mapping[str, Any],
        folder: Path,
        ceiling: str = "",
        variants: Sequence[tuple[str, Any]] = (),
    ):
        if ceiling and ceiling not in methods[1:]:
            raise ConfigError(f"--ceiling={ceiling} is none of --methods behind the first, {methods[0]}")
        self.file, self.methods, self.overrides, self.folder, self.ceiling = file, methods, dict(overrides), folder, ceiling
        self.rows: dict[str, tuple[str, dict[str, Any]]] = {}
        for method in methods:
            if not variants or method in (methods[0], ceiling):
                self.rows[method] = method, {}
            else:
                self.rows |= {
                    f"{method}, {key.removeprefix('method.')}={value}": (method, {key: value}) for key, value in variants
                }
        self.runs = [(row, seed) for seed in seeds for row in self.rows]
        # The encoder before training is evaluated once per seed. All is checked before the first run starts.
        self._prepared = {(row, seed): self._config(row, seed) for row, seed in self.runs}
        self._parameters = {row: trained_parameters(self._prepared[row, seeds[0]][0]) for row in self.rows}
        self._results: dict[str, dict[int, dict[str, float]]] = {}
        self._labels: dict[str, dict[int, Quality]] = {}
        self.failures: list[str] = []
        self._start = time.monotonic()

    def run(self, jobs: int = 1) -> str:
        """Run what is not finished yet, so many at once, write the table after each run, and return it.

        Several jobs divide the cores among them.

        Raises:
          ConfigError: runs failed; all others are done.
        """
        free: queue.SimpleQueue[Sequence[int]] = queue.SimpleQueue()
        available = sorted(os.sched_getaffinity(0)) if jobs > 1 else []
        for job in range(jobs):
            free.put(available[job::jobs])
        text = ""
        with ThreadPoolExecutor(jobs) as pool:
            for row, seed in pool.map(lambda run: self._finish(run[0], run[1], free), enumerate(self.runs, 1)):
                text = self._collect(row, seed) or text
        if self.failures:
            raise ConfigError(f"{len(self.failures)} of {len(self.runs)} runs failed; the first: {self.failures[0]}")
        return text

    def _config(self, row: str, seed: int) -> tuple[Config, dict[str, Any]]:
        method, own = self.rows[row]
        config, known = config_of(self.file, method, seed, {**self.overrides, **own, "eval.before": method == self.methods[0]})
        if missing := own.keys() - known.keys():
            raise ConfigError(f"--vary: {method} has no setting {', '.join(missing)}; leave the method out")
        return config, known

    def _workdir(self, row: str, seed: int) -> Path:
        name = re.sub(r"[^\w.=-]+", "_", row)
        return self.folder / f"{name}_seed{seed}"

    def _finish(self, number: int, which: tuple[str, int], free: "queue.SimpleQueue[Sequence[int]]") -> tuple[str, int]:
        """Make one run, unless it is finished."""
        (row, seed), (config, known) = which, self._prepared[which]
        workdir = self._workdir(row, seed)
        if not finished(workdir, config):
            cores = free.get()
            try:
                seconds, place = time.monotonic() - self._start, f"{number}/{len(self.runs)}"
                log.info("%s, seed %d, %s: %.0f s so far; its log is %s/log.txt", row, seed, place, seconds, workdir)
                run(self.file, config, known, workdir, cores)
            except ConfigError as error:
                log.error("%s", error)
                self.failures.append(str(error))
            finally:
                free.put(cores)
        return which

    def _collect(self, row: str, seed: int) -> str:
        """Put a run into the table, and write it."""
        workdir = self._workdir(row, seed)
        if not finished(workdir, self._prepared[row, seed][0]):
            return ""
        found = read_results(workdir) or Results()
        if found.failures:
            log.warning("%s: %s", workdir.name, "; ".join(found.failure_lines()))
        metrics = read_metrics(workdir / "metrics.jsonl")
        values = {**scores(found, AFTER), **speed(metrics), "parameters": self._parameters[row]}
        self._results.setdefault(row, {})[seed] = values
        if BEFORE in found.encoders:
            self._results.setdefault(BEFORE, {})[seed] = scores(found, BEFORE)
        if quality := label_quality(metrics):
            self._labels.setdefault(row, {})[seed] = quality
        table = {
            "config": self.file,
            "overrides": self.overrides,
            "environment": environment(),
            "runs": self._results,
            "summary": summarize(self._results, reference=self.methods[0]),
            "labels": self._labels,
            "failures": self.failures,
        }
        (self.folder / "comparison.json").write_text(json.dumps(table, indent=1) + "\n")
        text = format_comparison(table["summary"], scores_of(self._results), self.methods[0], self.ceiling)
        (self.folder / "comparison.md").write_text(text + "\n")
        draw_comparison(table["summary"], scores_of(self._results), self.folder / "comparison.png")
        if self._labels:
            draw_labels(self._labels, self._results, self.methods[0], self.folder / "labels.png")
        return text
