"""Train or evaluate: `wt-jax train --config=configs/k400.py --workdir=DIR`.

Modes: `train` (continues from the state of the workdir, then evaluates), `eval` (scores and report of the workdir's last
checkpoint; the configuration is the workdir's own unless `--config` is given), `inspect` (shapes and memory of the full
size, nothing is trained; with `--topology` those on TPUs or GPUs that need not be there).
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from wt_jax.cli import parse_flags, set_up_logging, user_errors
from wt_jax.cluster.heartbeat import peer_errors
from wt_jax.cluster.processes import exit_at_once, initialize
from wt_jax.config import Config
from wt_jax.config_files import config_names, define_config
from wt_jax.errors import ConfigError
from wt_jax.eval.run import EvaluatedRun, prepare
from wt_jax.experiment import resolve
from wt_jax.ops import prepare_process
from wt_jax.train.checkpoint import last_state
from wt_jax.train.loop import train
from wt_jax.train.step import TrainState
from wt_jax.train.workdir import open_workdir, read_config

_CONFIG = define_config(None, "Configuration, e.g. k400, k400:moco or configs/k400.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, results.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "inspect"], "What to do.")
_TOPOLOGY = flags.DEFINE_string("topology", "", "With --mode=inspect: devices to compile for, e.g. v5e:2x4, v5p:2x2x1, cuda:8.")
# Several processes as one run. Cloud TPU, GKE, Slurm and Open MPI are detected; the environment is for launch scripts.
_COORDINATOR = flags.DEFINE_string("coordinator", os.environ.get("WT_JAX_COORDINATOR", ""), "HOST:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", int(os.environ.get("WT_JAX_NUM_PROCESSES", "0")), "Number of processes; 0: as detected; 1: alone."
)
_PROCESS_ID = flags.DEFINE_integer("process_id", int(os.environ.get("WT_JAX_PROCESS_ID", "-1")), "This process, from 0.")
_JOIN_TIMEOUT = flags.DEFINE_float("join_timeout", 300.0, "Seconds to wait for the other processes.")

log = logging.getLogger("wt_jax")


def read_flags() -> tuple[Config, Path]:
    """The checked configuration and the workdir that the command line names."""
    if not _WORKDIR.value and _MODE.value != "inspect":
        raise ConfigError("--workdir=DIR is missing; name the folder of the run")
    workdir = Path(_WORKDIR.value or os.devnull)
    if _CONFIG.value is not None:
        return resolve(_CONFIG.value), workdir
    if _MODE.value == "eval":
        return read_config(workdir), workdir
    raise ConfigError(f"--config=NAME is missing; there are {', '.join(config_names())}")


def main(argv: Sequence[str]) -> None:
    """Dispatch on --mode."""
    set_up_logging()
    with exit_at_once(), user_errors(), peer_errors(Path(_WORKDIR.value or os.devnull)):
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; options begin with --")
        config, workdir = read_flags()
        if _TOPOLOGY.value:
            if _MODE.value != "inspect":
                raise ConfigError("--topology is for --mode=inspect")
            from wt_jax.tools.inspect_topology import inspect_topology

            print(inspect_topology(config, _TOPOLOGY.value))
            return
        prepare_process(config.data.workers)
        initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _JOIN_TIMEOUT.value)
        if _MODE.value == "inspect":
            from wt_jax.tools.inspect_config import inspect_config

            print(inspect_config(config))
            return
        run = prepare(config)
        if _MODE.value == "train":
            open_workdir(workdir, run.config)
            state = train(run, workdir)
        else:
            state = last_state(workdir, run.program.shapes)
        report(run, state, workdir)


def report(run: EvaluatedRun, state: TrainState, workdir: Path) -> None:
    """Evaluate, draw and print; all processes compute, the primary one writes."""
    from wt_jax.eval.final import evaluate_run
    from wt_jax.eval.report import Subject, write_report
    from wt_jax.eval.results import short_table

    results, features = evaluate_run(run, state, workdir)
    if results.encoders:
        print(short_table(results))
    written = write_report(workdir, Subject(run, state, features))
    log.info("scores and pictures are in %s", written)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
