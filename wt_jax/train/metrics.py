"""Metrics on disk and in the log: `metrics.jsonl` always, other places on request, one line per log step.

All processes compute the same metrics; the primary process writes them. All times are of the monotonic clock.
"""

import collections
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from wt_jax.cluster.processes import is_primary_process
from wt_jax.files import write_atomic
from wt_jax.progress import format_duration
from wt_jax.train.trackers import Tracker

T = TypeVar("T")

# Dense bfloat16 peak of one chip in FLOP/s, by jax's device kind, from the vendors' data sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def of_kind(table: Mapping[str, T], kind: str) -> T | None:
    """The entry of a table by the beginnings of device kinds, as jax names them; None where there is none (a CPU)."""
    # The longest name first: "TPU v5 lite" also starts with "TPU v5".
    return next((table[name] for name in sorted(table, key=len, reverse=True) if kind.startswith(name)), None)


def device_peak() -> float | None:
    """Peak FLOP/s of all devices together, or None where it is not known."""
    one = of_kind(PEAK_FLOPS, jax.devices()[0].device_kind)
    return one and one * jax.device_count()


class MetricsWriter:
    """Appends metrics by step; after a restart, lines beyond the restored step are dropped, so none is there twice."""

    def __init__(self, workdir: Path, start_step: int, open_others: Callable[[], Sequence[Tracker]] = tuple):
        """
        Args:
          workdir: for `metrics.jsonl`.
          start_step: the restored step.
          open_others: opens the other places to write to; called on the primary process.
        """
        self._path = workdir / "metrics.jsonl"
        self.kept = [line for line in read_metrics(self._path) if line["step"] <= start_step]
        self._file, self._others = None, ()
        if not is_primary_process():
            return
        write_atomic(self._path, "".join(json.dumps(line) + "\n" for line in self.kept))
        self._file = self._path.open("a", buffering=1)
        self._others = open_others()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line. Values that are not finite (unknown, such as a fraction of no labels) are left out."""
        if self._file is None:
            return
        values = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for other in self._others:
            other.write(step, values)

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        for other in self._others:
            other.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """All whole lines of a metrics file; a line torn by a kill is left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


_STEPS = 1000  # of which the percentiles of the step time are


class StepRates:
    """Clips per second, time left, percentiles of the step time, the fraction of time spent waiting for data, and MFU where
    the peak is known.
    """

    flops: float | None = None  # of one step, where known

    def __init__(self, num_steps: int, batch_size: int):
        self._num_steps, self._batch_size, self._peak = num_steps, batch_size, device_peak()
        self._times: collections.deque[float] = collections.deque(maxlen=_STEPS)
        self._first = True
        self.restart(0)

    def restart(self, step: int) -> None:
        """Start a new stretch of steps, for example after an evaluation, which is not training time."""
        self._step, self._elapsed, self._waited = step, 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Length of the stretch until the last step ended."""
        return self._elapsed

    def add_step(self, seconds: float, waited: float) -> None:
        """Count a step: seconds since the one before it ended, and those of them in which the device waited for data."""
        # The first step of a process takes longer, and is no step like others.
        if self._first:
            self._first = False
        else:
            self._times.append(seconds)
        self._elapsed += seconds
        self._waited += waited

    def rates(self, step: int) -> dict[str, float]:
        """Rates of the stretch that ends at this step; a new stretch begins."""
        elapsed = max(self._elapsed, 1e-9)
        steps_per_second = (step - self._step) / elapsed
        rates = {
            "clips_per_second": steps_per_second * self._batch_size,
            "data_wait": self._waited / elapsed,
            "seconds_left": (self._num_steps - step) / steps_per_second if steps_per_second else math.nan,
        }
        if self._times:
            percentiles = np.percentile(np.asarray(self._times), (50, 90, 99))
            rates |= {f"step_seconds_p{p}": float(v) for p, v in zip((50, 90, 99), percentiles, strict=True)}
        if self.flops and self._peak:
            rates["mfu"] = steps_per_second * self.flops / self._peak
        self.restart(step)
        return rates

    def line(self, step: int, metrics: Mapping[str, float]) -> str:
        """The log line of a step."""
        left = metrics.get("seconds_left", math.nan)
        parts = [
            f"step {step}/{self._num_steps}",
            f"loss {metrics['loss']:.4f}",
            f"{metrics['clips_per_second']:.1f} clips/s",
            f"data wait {metrics['data_wait']:.1%}",
            f"left {format_duration(left)}",
        ]
        if "step_seconds_p99" in metrics:
            times = "/".join(f"{metrics[f'step_seconds_p{p}']:.2f}" for p in (50, 90, 99))
            parts.insert(3, f"step {times} s")
        if "mfu" in metrics:
            parts.append(f"MFU {metrics['mfu']:.1%}")
        if "goodput" in metrics:
            parts.append(f"goodput {metrics['goodput']:.1%}")
        return "  ".join(parts)
