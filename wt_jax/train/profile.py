"""The profiler's trace of a few steps: those that the configuration names, or the next ones when SIGUSR1 comes."""

import logging
import signal
import threading
from pathlib import Path

import jax

log = logging.getLogger(__name__)

_ON_DEMAND = 5  # steps of a trace that a signal asked for


class ProfileWindow:
    """Traces the steps from `window[0]` to `window[1]`, and `_ON_DEMAND` steps for each SIGUSR1 to this process."""

    def __init__(self, window: tuple[int, ...], workdir: Path):
        self._window, self._folder, self._active, self._asked = window, workdir / "profile", False, False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, self._ask)

    def before(self, step: int) -> None:
        """Start or stop at the edges of the window."""
        if self._asked and not self._active:
            self._window = (step, step + _ON_DEMAND - 1)
        self._asked = False
        if self._window and step == self._window[0] and not self._active:
            jax.profiler.start_trace(str(self._folder))
            self._active = True
        elif self._window and step == self._window[1] + 1:
            self.close()

    def close(self) -> None:
        """End the trace, if one is running."""
        if self._active:
            jax.profiler.stop_trace()
            self._active = False
            log.info("the trace of steps %d to %d is in %s", *self._window, self._folder)

    def _ask(self, *_: object) -> None:
        self._asked = True
