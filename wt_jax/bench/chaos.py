"""Kill a small real run again and again, restart it, and compare its end with that of an undisturbed run, bit for bit.

    wt-jax bench-chaos --config=configs/chaos.py --kills=100 [--seed=0] [--workdir=runs/chaos] [--several=0.25]

Each start is killed once, in a way and at a moment that the seed decides: SIGKILL or SIGTERM to all processes at some step,
SIGTERM twice, SIGKILL while a checkpoint is being written, SIGKILL between the start and its first step, or SIGKILL to one
process of two. The starts run on two simulated devices, in one process or (the fraction `--several`) in one process each, so a
checkpoint also goes from one shape to the other. Further flags go to `wt_jax.main`. Nothing is done by hand between two starts.
"""

import collections
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from wt_jax.cli import parse_arguments
from wt_jax.cluster.heartbeat import heartbeat_file
from wt_jax.cluster.preemption import RUN_AGAIN
from wt_jax.train.checkpoint import read_alone
from wt_jax.train.metrics import read_metrics

_LIMIT = 300.0  # seconds after which a start counts as hung
_ALONE = ("kill", "term", "term twice", "save", "first step")
_SEVERAL = ("kill", "term", "save", "first step", "one of several")


class ChaosError(RuntimeError):
    """The run did not come through; the message says at which kill."""


class Start:
    """One start of the run: its processes and their output."""

    def __init__(self, arguments: list[str], workdir: Path, logs: Path, number: int, processes: int):
        self.workdir, self.path = workdir, logs / f"{number:03d}_0.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.left = self._drafts()  # by the kill before
        self.processes = []
        for process in range(processes):
            cluster = {
                "WT_JAX_COORDINATOR": f"127.0.0.1:{port}",
                "WT_JAX_NUM_PROCESSES": str(processes),
                "WT_JAX_PROCESS_ID": str(process),
            }
            devices = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={2 // processes}"}
            with (logs / f"{number:03d}_{process}.log").open("w") as output:
                command = [sys.executable, "-u", "-m", "wt_jax.main", *arguments, f"--workdir={workdir}"]
                self.processes.append(
                    subprocess.Popen(
                        command, env={**os.environ, **devices, **cluster}, stdout=output, stderr=output, start_new_session=True
                    )
                )

    def _drafts(self) -> set[Path]:
        return set((self.workdir / "checkpoints").glob("*orbax-checkpoint-tmp*"))

    def _text(self) -> str:
        return self.path.read_text(errors="replace")

    def alive(self) -> bool:
        """Whether all processes run."""
        return all(process.poll() is None for process in self.processes)

    def begun(self) -> bool:
        """Whether the training has logged its settings."""
        return " steps of " in self._text()

    def steps(self) -> int:
        """How many steps this start has done."""
        return len(set(re.findall(r"^step (\d+)/", self._text(), re.MULTILINE)))

    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return bool(self._drafts() - self.left)

    def until(self, event: Callable[[], bool]) -> None:
        """Wait for an event or the end of a process."""
        end = time.monotonic() + _LIMIT
        while self.alive() and not event():
            if time.monotonic() > end:
                raise ChaosError(f"hung; see {self.path}")
            time.sleep(0.005)

    def signal(self, number: int) -> None:
        """To all processes and their workers."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, number)

    def end(self) -> list[int]:
        """Wait until all have ended by themselves; their exit codes."""
        end = time.monotonic() + _LIMIT
        try:
            return [process.wait(max(0.1, end - time.monotonic())) for process in self.processes]
        except subprocess.TimeoutExpired:
            raise ChaosError(f"a process did not end; see {self.path}") from None
        finally:
            for process in self.processes:
                try:
                    os.killpg(process.pid, signal.SIGKILL)  # workers of a killed process
                except ProcessLookupError:
                    continue
                process.wait()


def disturb(start: Start, kind: str, dice: random.Random) -> list[int]:
    """Kill a start in one way; its exit codes."""
    wait = dice.uniform(0, 0.05)
    if kind == "first step":
        start.until(start.begun)
        time.sleep(dice.uniform(0, 1.5))
    elif kind == "save":
        start.until(start.saving)
        time.sleep(wait / 2)
    else:
        steps = dice.randint(1, 4)
        start.until(lambda: start.steps() >= steps)
        time.sleep(wait)
    if kind == "one of several":
        victim = json.loads(heartbeat_file(start.workdir, dice.randrange(len(start.processes))).read_text())["pid"]
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.kill(victim, signal.SIGKILL)
    elif kind.startswith("term"):
        start.signal(signal.SIGTERM)
        if kind == "term twice":
            time.sleep(wait / 5)
            start.signal(signal.SIGTERM)
    else:
        start.signal(signal.SIGKILL)
    return start.end()


def chaos(arguments: list[str], folder: Path, kills: int, seed: int, several: float) -> str:
    """Run everything; returns the report.

    Raises:
      ChaosError: a start ended in a way that needs a person, hung, or the two ends differ.
    """
    quiet, disturbed = folder / "undisturbed", folder / "disturbed"
    for name in ("undisturbed", "disturbed"):
        (folder / "logs" / name).mkdir(parents=True, exist_ok=True)
    _expect([0], Start(arguments, quiet, folder / "logs" / "undisturbed", 0, 1))
    dice, done, last, begin = random.Random(seed), collections.Counter(), 0, time.monotonic()
    for number in range(kills):
        processes = 2 if dice.random() < several else 1
        kind = dice.choice(_SEVERAL if processes == 2 else _ALONE)
        start = Start(arguments, disturbed, folder / "logs" / "disturbed", number, processes)
        codes = disturb(start, kind, dice)
        if 2 in codes or 1 in codes:
            raise ChaosError(f"kill {number} ({kind}): ended with {codes}; see {start.path}")
        if not any(codes):
            raise ChaosError(f"the run was over before kill {number}; give it more steps: --config.train.duration")
        if kind.startswith("term") and processes == 1 and codes != [RUN_AGAIN]:
            raise ChaosError(f"kill {number} ({kind}): ended with {codes} instead of {RUN_AGAIN}; see {start.path}")
        done[f"{kind}, {processes} process{'es' if processes > 1 else ''}"] += 1
        last = max((line["step"] for line in read_metrics(disturbed / "metrics.jsonl")), default=0)
        print(f"kill {number + 1}/{kills}: {kind}, {processes} process(es), codes {codes}, at step {last}", flush=True)
    _expect([0], Start(arguments, disturbed, folder / "logs" / "disturbed", kills, 1))
    compare(quiet, disturbed)
    ways = "\n".join(f"  {count:3d} x {kind}" for kind, count in sorted(done.items()))
    seconds = time.monotonic() - begin
    return f"{kills} kills in {seconds:.0f} s:\n{ways}\nthe end state equals the undisturbed run bit for bit"


def compare(one: Path, other: Path) -> None:
    """Whether two runs ended alike: the last checkpoint, the loss of every step, the scores.

    Raises:
      ChaosError: they did not; the message names what differs.
    """
    states = []
    for workdir in (one, other):
        step = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())
        leaves = jax.tree_util.tree_leaves_with_path(read_alone((workdir / "checkpoints" / str(step) / "default").absolute()))
        states.append({jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})
    if states[0].keys() != states[1].keys():
        raise ChaosError(f"the last checkpoints of {one} and {other} have other arrays")
    differ = [name for name, leaf in states[0].items() if leaf.tobytes() != states[1][name].tobytes()]
    if differ:
        raise ChaosError(f"{len(differ)} of {len(states[0])} arrays differ at the end: {', '.join(differ[:3])}")
    for key in ("loss", "knn_top1"):
        values = [[(m["step"], m[key]) for m in read_metrics(w / "metrics.jsonl") if key in m] for w in (one, other)]
        if values[0] != values[1]:
            raise ChaosError(f"the metrics differ: {key}")
    results = [(workdir / "results.json") for workdir in (one, other)]
    if results[0].exists() and results[0].read_text() != results[1].read_text():
        raise ChaosError("the scores differ")


def _expect(codes: list[int], start: Start) -> None:
    if (found := start.end()) != codes:
        raise ChaosError(f"ended with {found} instead of {codes}; see {start.path}")


def main() -> None:
    """Parse the flags and run."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--kills", type=int, default=10, help="how often (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of ways and moments (%(default)s)")
    parser.add_argument("--workdir", type=Path, default=Path("runs/chaos"), help="folder of the runs (%(default)s)")
    parser.add_argument("--several", type=float, default=0.25, help="fraction of starts in two processes (%(default)s)")
    options, arguments = parser.parse_known_args()
    if not any(argument.startswith("--config.data.train") for argument in arguments):
        data = options.workdir / "data"
        write = f"from pathlib import Path; from wt_jax.data.synthetic import write_dataset as w; w(Path({str(data)!r}), "
        # In a process of its own: its workers import what their parent imports, and should not import JAX.
        subprocess.run([sys.executable, "-c", f"{write}train=32, test=16, frames=32)"], check=True)
        arguments += [f"--config.data.train={data / 'train'}", f"--config.data.test={data / 'test'}"]
    try:
        print(chaos(arguments, options.workdir, options.kills, options.seed, options.several))
    except ChaosError as error:
        print(f"wt_jax: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
