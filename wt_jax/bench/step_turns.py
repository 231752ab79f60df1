"""Contenders of `wt_jax.bench.step`: a process each, their turns, and the table of results."""

import json
import logging
import os
import pickle
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wt_jax.bench.peers.measure_step import Job
from wt_jax.errors import BenchError
from wt_jax.experiment import build_method
from wt_jax.specs import ClipView

log = logging.getLogger("wt_jax")


@dataclass
class Contender:
    """A step to measure: its process while it lives, and what was measured.

    `seconds` per step of each turn, by how many busy processes ran beside it.
    """

    name: str
    job: Job
    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)
    starts: list[float] = field(default_factory=list)
    seconds: dict[int, list[float]] = field(default_factory=dict)
    memory: float = 0.0
    process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start the process and wait until it has warmed up."""
        log.info("starting %s", self.name)
        file = self.folder / f"{len(self.starts)}.pkl"
        file.write_bytes(pickle.dumps(replace(self.job, started=time.time())))
        # Only the contender itself may hold the accelerator.
        environment = os.environ | ({"JAX_PLATFORMS": "cpu"} if self.job.contender == "torch" else {})
        command = [sys.executable, "-m", "wt_jax.bench.peers.measure_step", str(file)]
        with (self.folder / "errors.txt").open("w") as errors:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            self.process = subprocess.Popen(command, **pipes, text=True, env=environment)
        tried = self.facts.get("tried")  # by the first process only
        self.facts = self._read() | ({"tried": tried} if tried else {})
        self.starts.append(self.facts["start"])
        log.info("%s was ready after %.1f s", self.name, self.starts[-1])
        if self.job.contender == "torch":
            self.job = replace(self.job, ways=(self.facts["way"],))

    def turn(self, steps: int, busy: int = 0) -> float:
        """Run one turn, in a process that then sleeps, or ends where it holds an accelerator; return the seconds per step."""
        if self.process is None:
            self.start()
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        result = self._read()
        self.seconds.setdefault(busy, []).append(result["seconds"])
        self.memory = max(self.memory, result["memory"])
        if self.facts["platform"] != "cpu":
            self.stop()
        return result["seconds"]

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.communicate()
            self.process = None

    def _read(self) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            errors = (self.folder / "errors.txt").read_text().strip().splitlines() or ["it died without a message"]
            raise BenchError(f"{self.name}: {errors[-1]}")
        return json.loads(line)


@contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    """So many processes that compute without a pause."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def bench(contenders: list[Contender], rounds: int, steps: int, loads: Sequence[int] = (0,)) -> None:
    """Start all contenders and run their turns, in each round one beside each number of busy processes in `loads`.

    Ours are started twice, as the second start finds the cache. A peer that does not start is removed from the list, with its
    reason in the log.
    """
    for contender in list(contenders):
        try:
            if contender.job.contender != "torch":
                job, contender.job = contender.job, replace(contender.job, run=False)
                contender.start()
                contender.stop()
                contender.job = job
            contender.start()
        except BenchError as error:
            if contender.job.contender != "torch":
                raise
            log.warning("%s is left out: %s", contender.name, error)
            contenders.remove(contender)
            continue
        if not steps or contender.facts["platform"] != "cpu":
            contender.stop()
    for turn in range(rounds if steps else 0):
        for busy in loads:
            with _busy_processes(busy):
                times = [f"{contender.name} {1000 * contender.turn(steps, busy):.0f} ms" for contender in contenders]
            log.info("round %d of %d%s: %s", turn + 1, rounds, _beside(busy), ", ".join(times))


def _beside(busy: int) -> str:
    return f", {busy} busy" if busy else ""


def report(contenders: Sequence[Contender]) -> str:
    """The results as Markdown."""
    first = contenders[0]
    config, facts = first.job.config, first.facts
    views = build_method(config, 1).views
    shapes = ", ".join(
        f"{name} {view.num_frames} x {view.size} x {view.size}" for name, view in views.items() if isinstance(view, ClipView)
    )
    cores = f", {len(os.sched_getaffinity(0))} cores ({_processor()})" if facts["platform"] == "cpu" else ""
    peak, kind = facts["peak"], "peak"
    if peak is None and "matmul" in facts:
        peak, kind = facts["matmul"], "measured matmul rate"
    lines = [
        f"{config.model.name} (width {config.model.width}, norm {config.model.norm}, {config.model.dtype}), "
        f"{config.train.batch_size} videos a step; views: {shapes}. {facts['device']}{cores}, "
        f"Python {platform.python_version()}, {', '.join(dict.fromkeys(c.facts['version'] for c in contenders))}. "
        + (f"Fraction of the {kind} of {peak / 1e12:.3g} TFLOP/s." if peak else "The device's peak is not known.")
    ]
    lines += [
        "",
        "| step | ms, median | least to most | clips/s | model TFLOP | fraction of peak | memory, MiB | first start, s "
        f"| second start, s | {first.name}'s time as a fraction of it |",
        "| --- |" + " ---: |" * 9,
    ]
    lines += [_row(contender, first, peak, busy) for busy in first.seconds or (0,) for contender in contenders]
    for contender in contenders:
        if tried := contender.facts.get("tried"):
            lines += ["", f"{contender.name}, ways tried: {'; '.join(f'{way} {text}' for way, text in tried.items())}."]
    return "\n".join(lines)


def _row(contender: Contender, first: Contender, peak: float | None, busy: int) -> str:
    flops, batch_size = contender.facts.get("flops", first.facts["flops"]), contender.job.config.train.batch_size
    starts = [f"{value:.1f}" for value in contender.starts[:2]]
    name = contender.name + _beside(busy)
    cells = [name, *["-"] * 3, f"{flops / 1e12:.3g}", "-", "-", starts[0], starts[1] if len(starts) > 1 else "-", "-"]
    if seconds := contender.seconds.get(busy):
        middle = statistics.median(seconds)
        ratios = [ours / theirs for ours, theirs in zip(first.seconds[busy], seconds, strict=True)]
        cells[1] = f"{1000 * middle:.1f}"
        cells[2] = f"{1000 * min(seconds):.1f} to {1000 * max(seconds):.1f}"
        cells[3] = f"{batch_size / middle:.1f}"
        cells[5] = f"{flops / middle / peak:.1%}" if peak else "unknown"
        cells[6] = f"{contender.memory:.0f}"
        cells[9] = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {' | '.join(cells)} |"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
