"""Writes the report of a run or of an evaluation, at any time: `wt-jax report --workdir=DIR`.

Nothing is trained or evaluated anew: curves and scores are those of the workdir's files, pictures come from a run's last
checkpoint. Where there is none, or the videos are gone, the report names the reason and has the rest.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from wt_jax.cli import parse_flags, set_up_logging, user_errors
from wt_jax.errors import ConfigError, UserError
from wt_jax.eval.report import Subject, write_report
from wt_jax.eval.run import prepare
from wt_jax.train.checkpoint import last_state
from wt_jax.train.workdir import read_config

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run or evaluation; report.html is written there.")

log = logging.getLogger("wt_jax")


def open_subject(workdir: Path) -> Subject | str:
    """The last checkpoint of a workdir with its videos and their features, or the reason why there are none."""
    if (workdir / "evaluation.json").exists():
        return "An evaluation compares encoders; what one of them sees is in the report of its own run."
    try:
        run = prepare(read_config(workdir))
        state = last_state(workdir, run.program.shapes)
    except UserError as error:
        return f"This needs the run's checkpoint and videos: {error}."
    log.info("features of %d videos", len(run.features.videos.labels))
    return Subject(run, state, run.features.read(state))


def main(argv: Sequence[str]) -> None:
    """Write the report."""
    set_up_logging()
    with user_errors():
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; options begin with --")
        if not _WORKDIR.value:
            raise ConfigError("--workdir=DIR is missing; name the folder of the run")
        workdir = Path(_WORKDIR.value)
        if not workdir.is_dir():
            raise ConfigError(f"{workdir} is no folder; name the workdir of a run")
        log.info("report: %s", write_report(workdir, open_subject(workdir)))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
