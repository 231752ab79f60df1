"""What the data commands share: their arguments, and errors of the user's in one line with exit code 2.

They use argparse and import no JAX, so that their worker processes, which import them too, start fast.
"""

import argparse
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from wt_jax.errors import UserError


def command(doc: str, workers: bool = False) -> argparse.ArgumentParser:
    """A parser that shows the module's own text as help; `workers` adds --workers, by default one process per core."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    if workers:
        cores = len(os.sched_getaffinity(0))
        parser.add_argument("--workers", type=int, default=cores, help="processes; 0: none but this one (%(default)s)")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # A file name may hold bytes that are no text.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("wt_jax").setLevel(logging.INFO)
    return parser


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns faults of the user's input or machine, and Ctrl-C, into one line on stderr and exit code 2."""
    try:
        yield
    except UserError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or 'the system'}: {error.strerror or error}"
    except KeyboardInterrupt:
        message = "interrupted; the same command goes on where it was"
    else:
        return
    print(f"wt_jax: {message}", file=sys.stderr)
    sys.exit(2)
