"""Check a machine with GPUs and write one file to send back: `launch/gpus.sh --check`, or

    wt-jax bench-gpu [--output=gpu_check.md] [--minutes=10] [--parts=k400,ssv2,...] [--platform=cuda]

Takes the step of full-size configurations on noise, in bfloat16; trains the quick start in bfloat16; and compares a step with
PyTorch's, eager and by `torch.compile`, where PyTorch is installed. The file has the devices, driver and versions, milliseconds
and memory of each step, and the faults by the name of their part. Each part has processes of its own, a time limit, and no
influence on the others. With `--platform=cpu` everything runs at tiny sizes: a test of the command, not of a machine.
"""

import importlib.metadata
import importlib.util
import json
import logging
import os
import pickle
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax

from wt_jax.bench.peers.measure_step import Job
from wt_jax.cli import parse_arguments, set_up_logging, user_errors
from wt_jax.config import Config, adapt, closest
from wt_jax.config_files import load_config
from wt_jax.errors import BenchError, ConfigError
from wt_jax.experiment import resolve
from wt_jax.files import write_atomic

log = logging.getLogger("wt_jax")

_TURNS = "1\n5\n"  # a step that is not counted, then five that are
_MOST_PIECES = 64
_ROOM = 0.92  # of a GPU's memory is for arrays
_VERSIONS = ("wt_jax", "jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12", "flax", "torch")
_QUERY = "name,driver_version,memory.total"  # of nvidia-smi
# So small that a CPU core takes each step in seconds.
_TINY = {"clip.num_frames": 4, "clip.size": 16, "train.batch_size": 8}
_TINY_METHOD = {"queue.size": 16, "decoder.width": 48, "decoder.heads": 2, "decoder.blocks": 2}


@dataclass(frozen=True)
class Full:
    """A configuration at full size.

    Attributes:
      config: as `--config` names it.
      memory: GiB of the whole batch on one device, by `wt-jax inspect --config=... --topology=cuda`.
      changes: to the configuration.
    """

    config: str
    memory: float
    changes: Mapping[str, Any]


# The backbones differ: S3D, Slow R50, R(2+1)D-18, ViT-B with cuDNN's attention. VideoMAE's 2,048 clips are for 64 GPUs.
FULL = {
    "k400": Full("k400", 23, {}),
    "ssv2": Full("ssv2", 311, {}),
    "folder": Full("folder", 17, {"model.dtype": "bfloat16"}),
    "videomae": Full("k400:videomae", 163, {"train.batch_size": 256}),
    "ucf101": Full("ucf101", 12, {}),
}
QUICKSTART, PYTORCH = "quickstart", "pytorch"
_TITLES = {QUICKSTART: "Quick start", PYTORCH: "Beside PyTorch"}
# Parts in their order, with the most seconds that each may take: what matters most is first, in case time is over.
LIMITS = {"k400": 150, "ssv2": 120, "folder": 120, QUICKSTART: 240, PYTORCH: 240, "videomae": 120, "ucf101": 150}


@dataclass(frozen=True)
class Outcome:
    """What came of a part: Markdown of what was measured, or the fault's line and the end of its log."""

    part: str
    seconds: float
    result: str = ""
    fault: str = ""
    log: str = ""


class Failed(Exception):
    """A process that did not do its work: the fault in one line, and all that it wrote to stderr."""

    def __init__(self, fault: str, text: str):
        super().__init__(fault)
        self.text = text


def call(command: Sequence[str], limit: float, typed: str = "", **variables: str) -> str:
    """What a command prints, in a session of its own that has ended when this returns.

    Raises:
      Failed: it ended with another code than 0, or took longer than `limit` seconds.
    """
    with tempfile.TemporaryFile("w+") as errors:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        process = subprocess.Popen([*command], text=True, env=os.environ | variables, start_new_session=True, **pipes)
        try:
            printed, late = process.communicate(typed, timeout=max(limit, 0.0))[0], False
        except subprocess.TimeoutExpired:
            printed, late = "", True
        finally:
            _end_session(process)
        errors.seek(0)
        text = errors.read()
    if late:
        raise Failed(f"not done after {limit:.0f} s", text)
    if process.returncode:
        raise Failed(_fault_line(text) or f"ended with code {process.returncode}", text)
    return printed


def _end_session(process: subprocess.Popen) -> None:
    """Kill what is left of a command: also its own processes, which would keep the GPU."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _fault_line(text: str) -> str:
    """The line of a log that names the fault: the last that has an error's name or ours, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"([\w.]*(Error|Exception|Interrupt)\b|wt_jax: )", line)]
    return (named or lines or [""])[-1][:300]


def full_config(full: Full, tiny: bool) -> Config:
    """The checked configuration; `tiny` is for a CPU."""
    config: Any = load_config(full.config)
    with config.unlocked():
        config.update_from_flattened_dict(dict(full.changes))
        if tiny:
            config.update_from_flattened_dict(_TINY)
            adapt(config.method, _TINY_METHOD)
            if config.model.name.startswith("vit"):
                config.model.name, config.model.width = "small_vit", 24
                config.model.vit.tubelet = (config.model.vit.tubelet[0], 4, 4)
            else:
                config.model.name, config.model.width = "small_r2plus1d", 8
    return resolve(config)


def take_step(full: Full, tiny: bool, room: float | None, limit: float, **variables: str) -> str:
    """One configuration as a row of the table of steps; the batch is cut into more pieces until it fits.

    `room` is the memory of all devices together in GiB that arrays can have, None: unknown.
    """
    config, end = full_config(full, tiny), time.monotonic() + limit
    pieces = config.train.accumulate
    while room and full.memory / pieces > room and pieces < _MOST_PIECES:
        pieces *= 2
    while True:
        config = replace(config, train=replace(config.train, accumulate=pieces))
        try:
            with tempfile.NamedTemporaryFile(suffix=".pkl") as file:
                file.write(pickle.dumps(Job("wt_jax", config, "", (), run=True, started=time.time())))
                file.flush()
                command = [sys.executable, "-m", "wt_jax.bench.peers.measure_step", file.name]
                printed = call(command, end - time.monotonic(), _TURNS, **variables)
            break
        except Failed as failed:
            if "RESOURCE_EXHAUSTED" not in failed.text or pieces >= _MOST_PIECES:
                raise
            log.info("%s: does not fit in %d piece(s)", full.config, pieces)
            pieces *= 2
    facts, _, turn = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    return step_row(full.config, config, facts, turn)


def step_row(name: str, config: Config, facts: Mapping[str, Any], turn: Mapping[str, float]) -> str:
    """A row of the table whose head is `STEPS`."""
    batch, seconds, peak = config.train.batch_size, turn["seconds"], facts["peak"]
    rate = f"{facts['flops'] / seconds / peak:.1%}" if peak else "unknown"
    cells = [name, config.model.name, config.model.dtype, facts["device"], f"{batch} in {config.train.accumulate}"]
    cells += [f"{1000 * seconds:.1f}", f"{batch / seconds:.1f}", rate, f"{turn['memory']:.0f}", f"{facts['start']:.1f}"]
    return f"| {' | '.join(cells)} |"


STEPS = (
    "| configuration | network | dtype | devices | videos a step, in pieces | ms per step | videos/s | fraction of peak "
    "| memory, MiB | first step ready after, s |\n| --- | --- | --- | --- |" + " ---: |" * 6
)


def train_quickstart(tiny: bool, limit: float, **variables: str) -> str:
    """The quick start's table, of a training that is shorter than its own."""
    cores = len(os.sched_getaffinity(0))
    sizes = {"train.duration": "200 steps", "data.workers": min(8, cores)}
    if tiny:
        sizes = {**_TINY, "train.duration": "2 steps", "data.workers": 1, "method.queue.size": 16, "model.width": 8}
    with tempfile.TemporaryDirectory(prefix="gpu_check") as folder:
        options = [f"--config.{key}={value}" for key, value in {"model.dtype": "bfloat16", **sizes}.items()]
        command = [sys.executable, "-m", "wt_jax.tools.quickstart", f"--workdir={folder}", *options]
        return f"{sizes['train.duration']} in bfloat16:\n\n```\n{call(command, limit, **variables).strip()}\n```"


def compare_with_pytorch(tiny: bool, limit: float, **variables: str) -> str:
    """`wt-jax bench-step` with PyTorch's step beside ours, on the configuration `folder`."""
    if importlib.util.find_spec("torch") is None:
        raise Failed("left out: torch is not installed (pip install torch, with CUDA)", "")
    sizes = {**_TINY, "method.queue.size": 16, "model.name": "small_r2plus1d", "model.width": 8} if tiny else {}
    options = [f"--config.{key}={value}" for key, value in {"model.dtype": "bfloat16", **sizes}.items()]
    ways = "eager" if tiny else "eager,compile"
    command = [sys.executable, "-m", "wt_jax.bench.step", "--config=folder", "--against=torch", f"--ways={ways}"]
    return call([*command, "--rounds=1", f"--steps={1 if tiny else 10}", *options], limit, **variables).strip()


def check(parts: Mapping[str, Callable[[float], str]], seconds: float, written: Callable[[list[Outcome]], None]) -> None:
    """Run the parts one after the other; after each, `written` gets all outcomes so far."""
    end, outcomes = time.monotonic() + seconds, []
    for name, run in parts.items():
        start = time.monotonic()
        limit = min(LIMITS.get(name, seconds), end - start)
        log.info("%s: at most %.0f s", name, max(limit, 0.0))
        try:
            if limit < 1:
                raise Failed(f"not begun: the time is over; run it alone with --parts={name}", "")
            outcome = Outcome(name, time.monotonic() - start, run(limit))
            log.info("%s: done", name)
        except Failed as failed:
            outcome = Outcome(name, time.monotonic() - start, fault=str(failed), log=failed.text)
            log.warning("%s: %s", name, failed)
        except Exception as error:  # whatever it is: the other parts go on, and the file names it
            outcome = Outcome(name, time.monotonic() - start, fault=f"{type(error).__name__}: {error}")
            log.warning("%s: %s", name, outcome.fault)
        outcomes.append(replace(outcome, seconds=time.monotonic() - start))
        written(outcomes)


def report(about: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    """The file."""
    lines = ["# wt_jax on this machine", "", *about, "", "## Steps", "", STEPS]
    lines += [outcome.result for outcome in outcomes if outcome.part in FULL and outcome.result]
    for each in outcomes:
        if each.part in _TITLES and each.result:
            lines += ["", f"## {_TITLES[each.part]}", "", each.result]
    lines += ["", "## Parts", "", "| part | seconds | came to |", "| --- | ---: | --- |"]
    lines += [f"| {each.part} | {each.seconds:.0f} | {each.fault.replace('|', '/') or 'done'} |" for each in outcomes]
    for each in outcomes:
        if each.log:
            lines += ["", f"### End of the log of {each.part}", "", "```", *each.log.splitlines()[-20:], "```"]
    return "\n".join(lines) + "\n"


def describe(platform_name: str) -> tuple[list[str], float | None]:
    """Lines about machine, driver and versions; GiB of all GPUs that a step can have, None: unknown."""
    versions = []
    for name in _VERSIONS:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    lines = [
        f"* {time.strftime('%Y-%m-%d')}, {platform.platform()}, {len(os.sched_getaffinity(0))} cores, "
        f"Python {platform.python_version()}",
        f"* {', '.join(versions)}",
    ]
    if platform_name == "cpu":
        return [*lines, "* `--platform=cpu`: tiny sizes, which test the command and say nothing of a machine"], None
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    query = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits", *([f"--id={chosen}"] if chosen else [])]
    try:
        found = call(query, 30).strip().splitlines()
    except (OSError, Failed) as error:
        raise BenchError(f"nvidia-smi lists no GPU ({error}); install NVIDIA's driver, or take --platform=cpu") from None
    gpus = [[cell.strip() for cell in line.split(",")] for line in found]
    lines += [f"* GPU {i}: {name}, driver {driver}, {memory} MiB" for i, (name, driver, memory) in enumerate(gpus)]
    return lines, _ROOM * sum(float(memory) for _, _, memory in gpus) / 1024


def make_parts(names: Sequence[str], platform_name: str, room: float | None) -> dict[str, Callable[[float], str]]:
    """The parts of these names, in their order; each takes the most seconds that it may last and returns its Markdown."""
    tiny = platform_name == "cpu"
    variables = (
        {"JAX_PLATFORMS": "cpu"} if tiny else {"JAX_PLATFORMS": "cuda,cpu", "XLA_PYTHON_CLIENT_MEM_FRACTION": str(_ROOM)}
    )
    parts: dict[str, Callable[..., str]] = {name: partial(take_step, full, tiny, room) for name, full in FULL.items()}
    parts |= {QUICKSTART: partial(train_quickstart, tiny), PYTORCH: partial(compare_with_pytorch, tiny)}
    return {name: partial(parts[name], **variables) for name in LIMITS if name in names}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the file."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--output", type=Path, default=Path("gpu_check.md"), metavar="FILE", help="to write (%(default)s)")
    parser.add_argument("--minutes", type=float, default=9.5, help="that all of it may take (%(default)s)")
    parser.add_argument("--parts", default=",".join(LIMITS), help="to run, separated by commas (%(default)s)")
    parser.add_argument("--platform", choices=["cuda", "cpu"], default="cuda", help="cpu: all of it at tiny sizes")
    args = parser.parse_args(argv)
    set_up_logging()
    jax.config.update("jax_platforms", "cpu")  # only shapes are computed here; the GPUs belong to the parts
    with user_errors():
        names = args.parts.split(",")
        for name in names:
            if name not in LIMITS:
                raise ConfigError(f"--parts has no {name!r}{closest(name, LIMITS)}; there are {', '.join(LIMITS)}")
        about, room = describe(args.platform)
        parts = make_parts(names, args.platform, room)
        check(parts, 60 * args.minutes, lambda outcomes: write_atomic(args.output, report(about, outcomes)))
        print(f"{args.output} is what to send back")


if __name__ == "__main__":
    main()
