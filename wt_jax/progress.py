"""Progress of long work: which of several works is running, how much is done, how long the rest takes.

Progress lines are log records of this module. `ProgressHandler` shows them: on a terminal as one line that is rewritten,
elsewhere as lines. It puts the label of the running work (`label`) in front of every record of the package.
"""

import logging
import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

log = logging.getLogger(__name__)

_LINE_SECONDS = 10.0  # between two lines
_REWRITE_SECONDS = 0.2  # between two states of a line on a terminal

_labels: list[str] = []  # of the process, not of a thread: the heartbeat's lines are part of the work


@contextmanager
def label(text: str) -> Iterator[None]:
    """Inside, log lines begin with `text`, for example "weak_teacher 2/2"; inside another label, with both."""
    _labels.append(text)
    try:
        yield
    finally:
        _labels.pop()


def current_label() -> str:
    """The labels of what is running, the outermost first, joined by ", "; "" if there is none."""
    return ", ".join(_labels)


def format_duration(seconds: float) -> str:
    """A duration as h:mm:ss; "?" where it is not finite."""
    if not math.isfinite(seconds):
        return "?"
    return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02}:{int(seconds % 60):02}"


class ProgressHandler(logging.StreamHandler):
    """Writes records with their label; on a terminal a progress line is rewritten until another record comes."""

    def __init__(self, stream: TextIO = sys.stderr):
        super().__init__(stream)
        self.rewrites = stream.isatty()
        self._open = False  # whether the last line is one to be rewritten

    def format(self, record: logging.LogRecord) -> str:
        """The message behind the current label; a record of another package has none."""
        own = record.name.partition(".")[0] == __name__.partition(".")[0]
        text = super().format(record)
        return f"{current_label()}: {text}" if own and _labels else text

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        if not self.rewrites:
            super().emit(record)
            return
        rewritten = getattr(record, "rewritten", False)
        start, end = "\r" if self._open else "", "" if rewritten else "\n"
        try:
            self.stream.write(f"{start}{self.format(record)}\x1b[K{end}")
            self.stream.flush()
        except Exception:  # as logging does: a terminal that is gone stops no work
            self.handleError(record)
        self._open = rewritten


class Progress:
    """Lines of one work: "NAME: 40 of 800 (5%)  8.1 UNITs/s  left 0:01:34"; none for work of less than ten seconds."""

    def __init__(self, name: str, total: int, unit: str, *, done: int = 0):
        self._name, self._total, self._unit = name, total, unit
        self._done, self._first = done, done
        self._start = self._last = time.monotonic()
        handlers = logging.getLogger().handlers
        self._rewrites = any(isinstance(handler, ProgressHandler) and handler.rewrites for handler in handlers)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count finished items; `note` ends the line. What exceeds the total (a padded batch) is not counted."""
        self._done = min(self._done + count, self._total)
        now, finished = time.monotonic(), self._done == self._total
        due = now - self._last >= (_REWRITE_SECONDS if self._rewrites else _LINE_SECONDS)
        if not due and not (finished and now - self._start >= _LINE_SECONDS):
            return
        self._last = now
        rate = (self._done - self._first) / max(now - self._start, 1e-9)
        left = format_duration((self._total - self._done) / rate if rate else math.inf)
        parts = [f"{self._name}: {self._done:,} of {self._total:,} ({self._done / self._total:.0%})"]
        parts += [f"{rate:.1f} {self._unit}s/s", f"left {left}", *([note] if note else [])]
        log.info("%s", "  ".join(parts), extra={"rewritten": self._rewrites and not finished})


@contextmanager
def waiting(name: str) -> Iterator[None]:
    """Inside, a line "NAME: 0:00:20" every ten seconds: for one call of unknown length that leaves other threads alone."""
    start, done = time.monotonic(), threading.Event()

    def report() -> None:
        while not done.wait(_LINE_SECONDS):
            log.info("%s: %s", name, format_duration(time.monotonic() - start))

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
