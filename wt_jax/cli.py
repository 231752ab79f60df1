"""What all commands share: flags, plain log lines, and how a command ends.

Exit codes: 0 done; 2 a fault that a person must mend, told in one line; 75 (`RUN_AGAIN`) stopped with nothing lost, the same
command goes on.
"""

import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
from absl import app, flags
from ml_collections import config_flags

from wt_jax.cluster.preemption import RUN_AGAIN, Interrupt, Preempted
from wt_jax.cluster.processes import PeerLost, leave, lost_peer
from wt_jax.errors import ConfigError, UserError
from wt_jax.methods import METHODS


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's flag parsing; `--help` ends with code 0, a fault with one line and exit code 2."""
    if {"--help", "-help", "-h"} & set(argv[1:]):
        app.usage(shorthelp=True, writeto_stdout=True)
        sys.exit(0)
    try:
        return flags.FLAGS(list(argv))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError) as error:
        unknown = "unknown key of the configuration: " if isinstance(error, AttributeError | KeyError) else ""
        fail(unknown + " ".join(_innermost(error).split()))


def _innermost(error: BaseException) -> str:
    """Text of the error that others were made from: ml_collections makes an AttributeError of a KeyError."""
    cause = error.args[0] if error.args else error
    return _innermost(cause) if isinstance(cause, BaseException) and cause is not error else str(cause)


def config_for(methods: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """File of `--config`, without the method it may name, and its overrides, for a command that runs those of `--methods`.

    Raises:
      ConfigError: there is no such method.
    """
    for name in methods:
        if name not in METHODS:
            raise ConfigError(f"unknown method {name!r} in --methods; there are {', '.join(METHODS)}")
    given = flags.FLAGS["config"]
    return config_flags.get_config_filename(given).partition(":")[0], config_flags.get_override_values(given)


def fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    print(f"wt_jax: {message}", file=sys.stderr)
    leave(2)


@contextmanager
def user_errors() -> Iterator[None]:
    """Around a command's work: known errors, requests to stop and lost processes end it with their line and exit code."""
    try:
        with Interrupt():
            yield
    except UserError as error:
        fail(str(error))
    except (Preempted, PeerLost) as reason:
        print(f"wt_jax: {reason}", file=sys.stderr)
        leave(RUN_AGAIN)
    except Exception as error:
        if lost_peer(error):
            print(f"wt_jax: a process of this run has gone: {str(error).strip().splitlines()[0]}", file=sys.stderr)
            leave(RUN_AGAIN)
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        leave(1)  # at once: the others wait for this process


def set_up_logging() -> None:
    """Plain lines on stderr; of the libraries only warnings."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("wt_jax").setLevel(logging.INFO)
    # Orbax and grain announce each of their steps through absl; their errors are raised as well, and told by us.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
