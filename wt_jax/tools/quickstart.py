"""The quick start: make the embedded data set, pre-train on it, compare. `launch/quickstart.sh` or

    wt-jax quickstart [--config=configs/quickstart.py[:METHOD]] [--workdir=runs/quickstart] [--seeds=0,1,2]

For each seed, two trainings: the one-frame baseline (the same method, network, number of steps and evaluation, on clips of
a single frame) and the method itself. The table also has the encoder before any training.
"""

import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from wt_jax.cli import parse_flags, set_up_logging, user_errors, whole_numbers
from wt_jax.config_files import define_config
from wt_jax.eval.final import evaluate_run
from wt_jax.eval.report import Subject, write_report
from wt_jax.eval.results import AFTER, BEFORE, Results
from wt_jax.eval.run import prepare
from wt_jax.eval.table import format_table
from wt_jax.experiment import resolve
from wt_jax.ops import prepare_process
from wt_jax.progress import label
from wt_jax.train.loop import train
from wt_jax.train.workdir import open_workdir

log = logging.getLogger("wt_jax")

_CONFIG = define_config("quickstart", "Configuration and method.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Folder of the data set and the runs.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds to run, separated by commas.")


def run_one(config: ConfigDict, workdir: Path) -> Results:
    """Train and evaluate one configuration in its workdir."""
    resolved = resolve(config)
    run = prepare(resolved)
    open_workdir(workdir, resolved)
    state = train(run, workdir)
    results, features = evaluate_run(run, state, workdir)
    write_report(workdir, Subject(run, state, features))
    return results


def one_frame(config: ConfigDict) -> ConfigDict:
    """The same run on clips of one frame: nothing moves."""
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({"clip.num_frames": 1})
    return changed


def quickstart(config: ConfigDict, folder: Path, seeds: Sequence[int]) -> str:
    """Run everything; returns the table."""
    start = time.perf_counter()
    data = folder / "data"
    # In a process of its own: its workers import what their parent imports, and should not import JAX.
    subprocess.run([sys.executable, "-m", "wt_jax.data.synthetic", str(data)], check=True)
    log.info("wrote the embedded data set to %s (%.0f s)", data, time.perf_counter() - start)
    scores: dict[str, list[dict[str, float]]] = {}
    for number, seed in enumerate(seeds):
        lists = {"data.train": str(data / "train"), "data.test": str(data / "test")}
        config.update_from_flattened_dict({"seed": seed, **lists})
        name = config.method_name
        with label(f"one-frame baseline {2 * number + 1}/{2 * len(seeds)}"):
            log.info("its clips are single frames, so it cannot learn motion: its scores are those that the method must exceed")
            baseline = run_one(one_frame(config), folder / f"one_frame_{name}_seed{seed}")
        with label(f"{name} {2 * number + 2}/{2 * len(seeds)}"):
            method = run_one(config, folder / f"{name}_seed{seed}")
        rows = {
            BEFORE: method.headline(BEFORE),
            "one-frame baseline": baseline.headline(AFTER),
            f"{AFTER} ({name})": method.headline(AFTER),
        }
        for row, numbers in rows.items():
            scores.setdefault(row, []).append({heading: number.value for heading, number in numbers.items()})
    rows = []
    columns = list(dict.fromkeys(heading for runs in scores.values() for run in runs for heading in run))
    for row, runs in scores.items():
        values = {c: [run[c] for run in runs if c in run] for c in columns}
        rows.append((row, {c: float(np.mean(found)) for c, found in values.items() if found}))
        if len(runs) > 1:
            rows.append((f"  spread over {len(runs)} seeds", {c: float(np.std(found)) for c, found in values.items() if found}))
    log.info("%.0f s in all; curves and pictures are in %s/*/report.html", time.perf_counter() - start, folder)
    return format_table(rows, columns)


def main(argv: Sequence[str]) -> None:
    """Run the quick start."""
    set_up_logging()
    with user_errors():
        prepare_process(_CONFIG.value.data.workers)
        print(quickstart(_CONFIG.value, Path(_WORKDIR.value), whole_numbers(_SEEDS)))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
