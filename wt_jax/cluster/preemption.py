"""Being asked to stop: the state is saved, and the exit code says "run me again".

SIGTERM is what clusters send before they take a machine away; SIGINT is a person's Ctrl-C. While steps run the request
is only noted: the loop agrees with the other processes on a step, saves there and stops. Anywhere else (compiling,
judging, drawing) everything worth keeping is on disk already, and the request ends that work at once. A second request
changes nothing: the save that is under way is finished.
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


class Preempted(BaseException):
    """The run was asked to stop and has lost nothing. No fault: nothing that handles faults should catch it."""


class Interrupt:
    """Takes SIGTERM and SIGINT while it is entered; within `steps()` they are only noted in `requested`."""

    requested = ""

    def __init__(self) -> None:
        self._at_once = True

    def __enter__(self) -> "Interrupt":
        self._main = threading.current_thread() is threading.main_thread()  # only there can signals be taken
        self._before = [signal.signal(number, self._take) for number in _SIGNALS] if self._main else []
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(_SIGNALS, self._before, strict=False):
            signal.signal(number, handler)

    @contextmanager
    def steps(self) -> Iterator[None]:
        """A stretch in which a request is noted and not acted upon, closing included."""
        self._at_once = False
        try:
            yield
        finally:
            self._at_once = True

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A stretch within `steps()` that is not worth finishing: a request ends it with `Preempted`."""
        if self.requested:
            raise Preempted(f"{self.requested}: stopped")
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested:
            log.warning("%s again: already stopping", name)
            return
        self.requested = name
        if self._at_once:
            raise Preempted(f"{name}: stopped")
        log.warning("%s: saving after this step, then stopping", name)
