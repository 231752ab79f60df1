"""Numbers of published recipes, read from their files, beside ours; what differs has a reason, or is a fault.

Every entry of a recipe's file is compared, named in `Recipe.free` as of no concern, or a fault.
"""

import argparse
import ast
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isclose
from typing import Any
from unittest import mock

from wt_jax.bench.official.sources import Sources, command_line, read_yaml
from wt_jax.config import Config, from_dict
from wt_jax.config_files import load_config
from wt_jax.eval.config import EvalConfig
from wt_jax.methods import METHODS, default_settings


@dataclass(frozen=True)
class Recipe:
    """A recipe of ours and the file of another project that has its numbers.

    Attributes:
      name: of the recipe.
      clone, file: where it is published.
      read: {key: value} of that file.
      ours: {their key: our value, in their units}.
      free: pattern of keys of no concern: where data are, how often something is written, what the caller of the recipe sets.
      defaults: keys that the file leaves to the project's defaults.
    """

    name: str
    clone: str
    file: str
    read: Callable[[Sources], Mapping[str, Any]]
    ours: Callable[[], Mapping[str, Any]]
    free: str = ""
    defaults: Callable[[Sources], Mapping[str, Any]] = lambda _: {}


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"SOLVER.BASE_LR": 0.1, ...}."""
    found = {}
    for name, value in tree.items():
        key = f"{above}{name}"
        found |= flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal; numbers to 9 digits, lists and tuples alike."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return isclose(one, other, rel_tol=1e-9)
    return one == other


def recipe_row(recipe: Recipe, sources: Sources, reasons: Mapping[str, str]) -> tuple[str, list[str]]:
    """The row of a recipe in Markdown, and its faults: differences and keys without a reason, reasons without a difference."""
    explicit, ours = dict(recipe.read(sources)), recipe.ours()
    theirs = {**recipe.defaults(sources), **explicit}
    faults = [f"{recipe.name}: {key} is nowhere in {recipe.file}" for key in ours if key not in theirs]
    loose = [key for key in explicit if key not in ours and not re.fullmatch(recipe.free, key)]
    faults += [f"{recipe.name}: {key} = {explicit[key]!r} is not compared" for key in loose]
    apart = [key for key in ours if key in theirs and not same(ours[key], theirs[key])]
    faults += [f"{recipe.name}: {k} is {theirs[k]!r} there and {ours[k]!r} here" for k in apart if k not in reasons]
    faults += [f"{recipe.name}: the reason of {key} is of no difference" for key in reasons if key not in apart]
    equal = len([key for key in ours if key in theirs]) - len(apart)
    listed = "; ".join(f"{k} {_short(theirs[k])}, here {_short(ours[k])}: {reasons.get(k, '**no reason**')}" for k in apart)
    place = f"{recipe.clone} {sources.commit(recipe.clone)}, {recipe.file}"
    return f"| `{recipe.name}` | {place} | {equal} | {listed or 'none'} |", faults


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_short, value)) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)


def yaml_values(clone: str, file: str) -> Callable[[Sources], Mapping[str, Any]]:
    """The entries of a YAML file."""
    return lambda sources: flat(read_yaml(sources.file(clone, file)))


def default_values(clone: str) -> Callable[[Sources], Mapping[str, Any]]:
    """The defaults of PySlowFast's configurations, which are assignments."""

    def read(sources: Sources) -> Mapping[str, Any]:
        text, found = sources.file(clone, "slowfast/config/defaults.py").read_text(), {}
        for key, value in re.findall(r"^_C\.([\w.]+) = (.+?)(?:  #.*)?$", text, re.MULTILINE):
            with suppress(ValueError, SyntaxError):
                found[key] = ast.literal_eval(value)
        return found

    return read


def flags(
    clone: str, module: str, script: str, *words: str, call: str = "parse_args", below: str = "", absent: tuple[str, ...] = ()
) -> Callable[[Sources], Mapping[str, Any]]:
    """What a project's parser, `call` of `module`, makes of the command in `script` that has all `words`, or of `words`."""

    def read(sources: Sources) -> Mapping[str, Any]:
        text = sources.file(clone, script).read_text() if script else " ".join(("command.py", *words))
        found = getattr(sources.load(clone, module, below=below, absent=absent), call)
        # Commands that are published are older or newer than their parsers.
        known = mock.patch.object(argparse.ArgumentParser, "parse_args", lambda self, args=None: self.parse_known_args(args)[0])
        with known, command_line(text, *(words if script else ())):
            made = found() if callable(found) else found
            made = made.parse_args() if isinstance(made, argparse.ArgumentParser) else made
        return vars(made[0] if isinstance(made, tuple) else made)

    return read


def config(name: str) -> Config:
    """A configuration of ours. No method is built: some need files."""
    raw = load_config(name).to_dict()
    return from_dict(Config, {**raw, "eval": {}}, {"method": METHODS[raw["method_name"]].settings, "eval": EvalConfig})


def number(duration: str) -> float:
    """Of a duration."""
    return float(duration.split()[0])


def queue(name: str, **names: str) -> dict[str, Any]:
    """Queue, momentum, width and temperature of a method, by the names that theirs have."""
    settings = default_settings(name)
    values = {
        "queue": lambda: settings.queue.size,
        "momentum": lambda: settings.teacher.momentum,
        "dim": lambda: settings.head.dim,
        "hidden": lambda: settings.head.hidden,
        "t": lambda: settings.temperature,
        "t_weak": lambda: settings.weak_temperature,
    }
    return {theirs: values[ours]() for ours, theirs in names.items()}
