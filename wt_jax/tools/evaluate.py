"""Compare encoders by the protocols of the field:

    wt-jax evaluate --config=configs/eval/NAME.py --encoders=random,DIR[,NAME=DIR...] --workdir=OUT

An encoder is `random`, the workdir of a run (its last checkpoint) or a folder of exported weights. The table goes to the screen
and to OUT/results.md, everything else beside it (see `wt_jax.eval.results`). Interrupted, the same command goes on where it
was. A protocol that fails leaves the others; the exit code is then 2. --fiftyone=DIR also writes, at any time, what each
protocol found for each video as a data set that FiftyOne imports.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from wt_jax.cli import parse_flags, set_up_logging, user_errors
from wt_jax.cluster.processes import is_primary_process
from wt_jax.config_files import config_names, define_config
from wt_jax.errors import ConfigError, EvaluationError
from wt_jax.eval.config import resolve_evaluation
from wt_jax.eval.encoders import named_paths
from wt_jax.eval.evaluate import evaluate
from wt_jax.eval.fiftyone import write_evaluation
from wt_jax.eval.results import short_table

log = logging.getLogger("wt_jax")

_CONFIG = define_config(None, "Configuration, e.g. labelled_folder or configs/eval/labelled_folder.py.", "eval")
_ENCODERS = flags.DEFINE_list("encoders", [], "Encoders to compare, separated by commas: [NAME=]random or [NAME=]FOLDER.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for features and results.")
_FIFTYONE = flags.DEFINE_string("fiftyone", None, "Folder for the results as a FiftyOneDataset.")


def main(argv: Sequence[str]) -> None:
    """Run the evaluation that the flags describe."""
    set_up_logging()
    with user_errors():
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; options begin with --")
        if _CONFIG.value is None:
            raise ConfigError(f"--config=NAME is missing; there are {', '.join(config_names('eval'))}")
        if not _WORKDIR.value:
            raise ConfigError("--workdir=DIR is missing; name a folder for features and results")
        folder = Path(_WORKDIR.value)
        if (folder / "config.json").exists():
            raise ConfigError(f"{folder} is the workdir of a run; name another folder for the evaluation")
        config = resolve_evaluation(_CONFIG.value)
        results = evaluate(config, named_paths(_ENCODERS.value), folder)
        print(short_table(results))
        if _FIFTYONE.value and is_primary_process():
            write_evaluation(config, folder, results, Path(_FIFTYONE.value))
        log.info("everything is in %s", folder)
        if missing := results.failure_lines():
            raise EvaluationError(f"{len(missing)} results are missing; the first: {missing[0]}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
