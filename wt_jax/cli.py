"""What all commands share: flags, plain log lines, and errors of the user's in one line with exit code 2."""

import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import flags

from wt_jax.config import ConfigError
from wt_jax.data.decode import VideoError
from wt_jax.data.records import SourceError
from wt_jax.data.workers import WorkerError
from wt_jax.models.weights import WeightsError
from wt_jax.train.checkpoint import CheckpointError
from wt_jax.train.loop import TrainingError

# Faults of the user's input or data, told in one line.
KNOWN_ERRORS = (ConfigError, SourceError, VideoError, CheckpointError, TrainingError, WeightsError, WorkerError)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's flag parsing, with every fault told in one line and exit code 2."""
    try:
        return flags.FLAGS(list(argv))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError) as error:
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        if "Traceback" in text:  # absl wraps what a config file raised; its last line says what happened
            text = text.strip().splitlines()[-1].removeprefix("wt_jax.config.ConfigError: ")
        fail(" ".join(text.split()))


def fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    print(f"wt_jax: {message}", file=sys.stderr)
    sys.exit(2)


def set_up_logging() -> None:
    """Plain lines on stderr; of the libraries only warnings."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("wt_jax").setLevel(logging.INFO)
    # Orbax and grain announce each of their steps through absl.
    logging.getLogger("absl").setLevel(logging.ERROR)
