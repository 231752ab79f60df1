"""Train or evaluate: `python -m wt_jax.main --config=configs/k400.py --workdir=DIR`.

Modes: `train` (goes on where the workdir stands, then evaluates), `eval` (scores and report of the workdir's last
checkpoint; the configuration is the workdir's own unless `--config` is given), `inspect` (shapes and memory of the full
size, nothing is trained).
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from wt_jax.cli import KNOWN_ERRORS, fail, parse_flags, set_up_logging
from wt_jax.config import Config, ConfigError, resolve
from wt_jax.train.checkpoint import last_state
from wt_jax.train.loop import prepare, train
from wt_jax.train.workdir import open_workdir, read_config

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/k400.py or configs/k400.py:moco.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, results.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "inspect"], "What to do.")

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
    names = "quickstart.py, folder.py, k400.py, ssv2.py, supervised.py, ucf101.py"
    raise ConfigError(f"--config=FILE is missing; there are configs/{names}")


def main(argv: Sequence[str]) -> None:
    """Dispatch on --mode."""
    set_up_logging()
    try:
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; options begin with --")
        config, workdir = read_flags()
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
        from wt_jax.eval.judge import judge, table
        from wt_jax.eval.report import Subject, write_report

        results, features = judge(run, state, workdir)
        if results:
            print(table(results))
        report = write_report(workdir, Subject(run, state, features))
        log.info("scores and pictures are in %s", report)
    except KNOWN_ERRORS as error:
        fail(str(error))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
