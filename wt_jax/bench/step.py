"""Time and memory of a training step, its start, and the same step in PyTorch:

    wt-jax bench-step --config=configs/folder.py [--against=torch] [--methods=weak_teacher,moco] [--views]
        [--rounds=5] [--steps=5] [--busy=0,1,2] [--config.KEY=VALUE ...]

Prints a Markdown table: milliseconds per step, clips per second, fraction of the peak, memory, seconds to the first step.
The clips are noise of the shape of the config's views; no data is needed. `--methods` has a row for each method, `--views` adds
one without color, gray and blur. `--against=torch` (extra `bench`) adds the same step as
`wt_jax.bench.peers.torch_step` writes it, run in the fastest of several ways. Each contender has a process of its own and runs
in alternating rounds, so that other load affects all of them; on an accelerator each turn is a new process, so that each
has all of its memory. `--busy=0,1,2` has each turn alone and beside one and two processes that compute without a pause.
`--steps=0` measures the start alone, which needs no memory for the step.
"""

import importlib.util
import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import jax
from absl import app, flags

from wt_jax.bench.peers.measure_step import WAYS, Job
from wt_jax.bench.step_turns import Contender, bench, report
from wt_jax.cli import config_source, parse_flags, set_up_logging, user_errors, whole_numbers
from wt_jax.config import Config
from wt_jax.config_files import define_config
from wt_jax.errors import ConfigError
from wt_jax.eval.compare.runs import config_of
from wt_jax.experiment import resolve
from wt_jax.specs import PixelSpec

log = logging.getLogger("wt_jax")

_CONFIG = define_config(None, "Configuration: its model, its views, its batch size.")
_AGAINST = flags.DEFINE_enum("against", "", ["", "torch"], "Whom to compare with.")
_METHODS = flags.DEFINE_list("methods", [], "Methods to measure; the first is the reference. Default: that of the config.")
_VIEWS = flags.DEFINE_bool("views", False, "Also measure without color, gray and blur.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each contender.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 5, "Steps per turn; 0: measure the start alone.", lower_bound=0)
_BUSY = flags.DEFINE_list("busy", ["0"], "Numbers of busy processes to measure beside.")
_WAYS = flags.DEFINE_list("ways", [], "PyTorch's ways to try; default: all.")


def _plain(config: Config) -> Config:
    """The configuration without color, gray and blur."""
    kinds = {name: replace(getattr(config.views, name), pixels=PixelSpec()) for name in ("strong", "weak")}
    return replace(config, views=replace(config.views, **kinds))


def _rows(config: Config, folder: Path) -> list[Contender]:
    """The contenders that the flags name."""
    configs = {config.method_name: config}
    if _METHODS.value:
        file, overrides = config_source()
        configs = {name: config_of(file, name, config.seed, overrides)[0] for name in _METHODS.value}
    first = next(iter(configs))
    rows = {name: ("wt_jax", value) for name, value in configs.items()}
    if _VIEWS.value:
        rows[f"{first}, plain views"] = ("wt_jax", _plain(configs[first]))
    if _AGAINST.value:
        if importlib.util.find_spec("torch"):
            rows[f"{first}, PyTorch"] = ("torch", configs[first])
        else:
            log.warning("PyTorch is left out: it needs the extra `bench` (torch)")
    contenders = []
    for place, (name, (contender, value)) in enumerate(rows.items()):
        (own := folder / str(place)).mkdir()
        job = Job(contender, value, str(own / "cache"), tuple(_WAYS.value or WAYS), run=_STEPS.value > 0)
        contenders.append(Contender(name, job, own))
    return contenders


def main(argv: Sequence[str]) -> None:
    """Measure and print."""
    set_up_logging()
    # Only shapes are computed here; the accelerator belongs to the contenders.
    jax.config.update("jax_platforms", "cpu")
    with user_errors(), ExitStack() as stack:
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; options begin with --")
        if _CONFIG.value is None:
            raise ConfigError("--config=NAME is missing; quickstart is the smallest")
        for name in set(_WAYS.value) - set(WAYS):
            raise ConfigError(f"unknown way {name!r} in --ways; there are {', '.join(WAYS)}")
        loads = whole_numbers(_BUSY)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench_step")))
        contenders = _rows(resolve(_CONFIG.value), folder)
        for contender in contenders:
            stack.callback(contender.stop)
        bench(contenders, _ROUNDS.value, _STEPS.value, loads)
        print(report(contenders))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
