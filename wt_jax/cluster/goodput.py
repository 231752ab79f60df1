"""Goodput: the share of a run's life that went into steps which are still part of it.

Over all starts: seconds of training steps that no restart has undone, without the wait for data, divided by the seconds
since the first start. Compiling, judging, saving, waiting, steps done twice and the time between two starts are the rest. Only
that last part needs the wall clock, which may jump: a gap that would be negative counts as none.
"""

import json
import time
from pathlib import Path


class Goodput:
    """Kept in `goodput.json` of the workdir, written at each save and each log line by the process that owns it."""

    def __init__(self, workdir: Path, start_step: int):
        self._path = workdir / "goodput.json"
        try:
            kept = json.loads(self._path.read_text())
        except (OSError, ValueError):
            kept = {"starts": 0, "up": 0.0, "down": 0.0, "saved": {}, "last": None}
        if kept["last"] is not None:
            kept["down"] += max(0.0, time.time() - kept["last"])
        # What was done beyond the checkpoint that the run starts from will be done again.
        kept["saved"] = {step: useful for step, useful in kept["saved"].items() if int(step) <= start_step}
        self._useful = kept["saved"].get(str(start_step), 0.0)
        self.starts = kept["starts"] + 1
        self._kept, self._before, self._start = kept, kept["up"], time.monotonic()
        self._write()

    def did(self, seconds: float) -> None:
        """Count a step's time."""
        self._useful += seconds

    def saved(self, step: int) -> None:
        """Note what a checkpoint holds."""
        self._kept["saved"][str(step)] = self._useful
        self._write()

    def share(self) -> float:
        """Goodput until now, in [0, 1]."""
        self._write()
        return self._useful / max(self._kept["up"] + self._kept["down"], 1e-9)

    def _write(self) -> None:
        self._kept |= {
            "starts": self.starts,
            "up": self._before + time.monotonic() - self._start,
            "last": time.time(),
            "useful": self._useful,
        }
        fresh = self._path.with_suffix(".tmp")
        fresh.write_text(json.dumps(self._kept) + "\n")
        fresh.replace(self._path)
