"""Requests to stop: the state is saved, and the exit code means "run again".

Clusters send SIGTERM before they preempt a machine; SIGINT is a person's Ctrl-C. While steps run the request is only
recorded: the loop agrees with the other processes on a step, saves there and stops. Anywhere else (compiling, evaluating,
drawing) everything worth keeping is on disk already, and the request ends that work at once. A second request changes
nothing: the save in progress is finished.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

# EX_TEMPFAIL of sysexits.h; launch/settings.sh has it too.
RUN_AGAIN = 75
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_STOPPED = "{}: stopped; the same command continues"


class Preempted(BaseException):
    """The run was asked to stop and has lost nothing. Not an `Exception`: what handles errors must not catch it."""


class Interrupt:
    """Handles SIGTERM and SIGINT inside; within `steps()` they are only recorded in `requested`."""

    requested = ""

    def __init__(self) -> None:
        self._at_once = True

    def __enter__(self) -> "Interrupt":
        self._main = threading.current_thread() is threading.main_thread()  # only it can handle signals
        self._before = [signal.signal(number, self._handle) for number in _SIGNALS] if self._main else []
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(_SIGNALS, self._before, strict=False):
            signal.signal(number, handler)

    @contextmanager
    def steps(self) -> Iterator[None]:
        """Inside, a request is recorded and not acted upon."""
        self._at_once = False
        try:
            yield
        finally:
            self._at_once = True

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside `steps()`, work that is not worth finishing: a request ends it with `Preempted`."""
        if self.requested:
            raise Preempted(_STOPPED.format(self.requested))
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested:
            log.warning("%s again: already stopping", name)
            return
        self.requested = name
        if self._at_once:
            raise Preempted(_STOPPED.format(name))
        log.warning("%s: saving after this step, then stopping", name)
