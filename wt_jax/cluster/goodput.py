"""Goodput: the fraction of a run's lifetime spent on steps that are still part of it.

Over all starts: seconds of training steps that no restart has undone, without the wait for data, divided by the seconds
since the first start. Compiling, evaluating, saving, waiting, repeated steps and the time between two starts are the rest. Only
that last part needs the wall clock, which may jump: a negative gap counts as none.
"""

import json
import time
from pathlib import Path

from wt_jax.files import write_atomic


class Goodput:
    """Kept in `goodput.json` of the workdir, written at each save and each log line by the primary process."""

    def __init__(self, workdir: Path, start_step: int):
        self._path = workdir / "goodput.json"
        try:
            stored = json.loads(self._path.read_text())
        except (OSError, ValueError):
            stored = {"starts": 0, "up": 0.0, "down": 0.0, "saved": {}, "last": None}
        if stored["last"] is not None:
            stored["down"] += max(0.0, time.time() - stored["last"])
        # Steps beyond the checkpoint that the run starts from will be repeated.
        stored["saved"] = {step: useful for step, useful in stored["saved"].items() if int(step) <= start_step}
        self._useful = stored["saved"].get(str(start_step), 0.0)
        self.starts = stored["starts"] + 1
        self._stored, self._before, self._start = stored, stored["up"], time.monotonic()
        self._write()

    def add_step(self, seconds: float) -> None:
        """Count the time of a step."""
        self._useful += seconds

    def checkpoint_saved(self, step: int) -> None:
        """Record that all steps up to this one are in a checkpoint."""
        self._stored["saved"][str(step)] = self._useful
        self._write()

    def fraction(self) -> float:
        """Goodput until now, in [0, 1]."""
        self._write()
        return self._useful / max(self._stored["up"] + self._stored["down"], 1e-9)

    def _write(self) -> None:
        self._stored |= {
            "starts": self.starts,
            "up": self._before + time.monotonic() - self._start,
            "last": time.time(),
            "useful": self._useful,
        }
        write_atomic(self._path, json.dumps(self._stored) + "\n")
