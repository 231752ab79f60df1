"""What all commands share: flags or arguments, log lines, and how a command ends. Imports no JAX.

Exit codes: 0 done; 2 a fault that a person can mend, reported in one line; 75 (`RUN_AGAIN`) stopped with nothing lost, the
same command continues.
"""

import argparse
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import config_flags

from wt_jax.cluster.preemption import RUN_AGAIN, Interrupt, Preempted
from wt_jax.config_files import find_config, unknown_key, with_default
from wt_jax.errors import ConfigError, PeerLost, UserError
from wt_jax.progress import ProgressHandler


def usage_name() -> str | None:
    """`wt-jax NAME` of the module that Python runs, as in `wt_jax.__main__.COMMANDS`; None: none of ours, as in a test."""
    module = getattr(sys.modules["__main__"].__spec__, "name", "")
    if not module.startswith("wt_jax."):
        return None
    name = module.removeprefix("wt_jax.").removeprefix("tools.").replace(".", "-").replace("_", "-")
    return f"wt-jax {'train' if name == 'main' else name}"


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's flag parsing; `--help` ends with code 0, a fault with one line and exit code 2."""
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print(f"usage: {usage_name()} [--FLAG=VALUE ...]\n")
        app.usage(shorthelp=True, writeto_stdout=True)
        sys.exit(0)
    argv = with_default(argv)
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError) as error:
        text = " ".join(_innermost(error).split())
        if isinstance(error, AttributeError | KeyError):
            text = unknown_key(argv) or f"unknown key of the configuration: {text}"
        _end(2, text)


def _innermost(error: BaseException) -> str:
    """Text of the error that others were made from: ml_collections makes an AttributeError of a KeyError."""
    cause = error.args[0] if error.args else error
    return _innermost(cause) if isinstance(cause, BaseException) and cause is not error else str(cause)


def parse_arguments(doc: str | None, workers: bool = False) -> argparse.ArgumentParser:
    """The parser of a data command, which has the module's docstring as help; `workers` adds --workers, one per core."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=usage_name(), description=doc, formatter_class=form, allow_abbrev=False)
    if workers:
        cores = len(os.sched_getaffinity(0))
        parser.add_argument("--workers", type=int, default=cores, help="processes; 0: none but this one (%(default)s)")
    return parser


def whole_numbers(flag: flags.FlagHolder[list[str]]) -> list[int]:
    """The numbers, 0 or more, of a flag that is a list.

    Raises:
      ConfigError: an item is not such a number.
    """
    if not all(item.isdecimal() for item in flag.value):
        raise ConfigError(f"--{flag.name}={','.join(flag.value)} is not a list of whole numbers, such as 0,1,2")
    return [int(item) for item in flag.value]


def config_source() -> tuple[str, dict[str, Any]]:
    """The file of `--config`, without the method that it may name, and the overrides `--config.KEY=VALUE`."""
    holder = flags.FLAGS["config"]
    return find_config(config_flags.get_config_filename(holder)).partition(":")[0], config_flags.get_override_values(holder)


def set_up_logging() -> None:
    """Plain lines on stderr, with progress lines and labels; of the libraries only warnings."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may hold bytes that are no text
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[ProgressHandler(sys.stderr)], force=True)
    logging.getLogger("wt_jax").setLevel(logging.INFO)
    # Orbax and grain log each of their steps through absl; their errors are raised as well, and reported by us.
    logging.getLogger("absl").setLevel(logging.CRITICAL)


@contextmanager
def user_errors() -> Iterator[None]:
    """Around a command's work: known errors, requests to stop and lost processes end it with their line and exit code."""
    try:
        with Interrupt():
            yield
    except UserError as error:
        _end(2, str(error))
    except OSError as error:
        _end(2, f"{error.filename or 'the system'}: {error.strerror or error}")
    except (Preempted, PeerLost) as reason:
        _end(RUN_AGAIN, str(reason))


def _end(code: int, message: str) -> NoReturn:
    print(f"wt_jax: {message}", file=sys.stderr)
    sys.exit(code)
