"""The flag `--config`: a shipped configuration by its name, or any file by its path.

`k400` and `k400:byol` name shipped configurations (for evaluations, those of `configs/eval`); what ends in `.py` is a path.
"""

import difflib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

import wt_jax.configs
from wt_jax.config import closest
from wt_jax.errors import ConfigError

flags.disclaim_key_flags()  # the flag belongs to the command that defines it, whose --help lists it


def config_names(folder: str = "") -> list[str]:
    """Names of the shipped configurations, of `eval` if that is the folder; sorted."""
    return sorted(path.stem for path in _shipped(folder).glob("*.py") if "def get_config(" in path.read_text())


def find_config(value: str, folder: str = "") -> str:
    """The file of a configuration, with the argument behind a colon if there is one.

    Args:
      value: NAME, NAME:ARGUMENT, or a path that ends in `.py`, PATH:ARGUMENT as well.
      folder: where shipped configurations are searched: "" for trainings, "eval" for evaluations.

    Raises:
      ConfigError: there is no such configuration; the message names the closest.
    """
    name, colon, argument = value.partition(":")
    path = Path(name) if name.endswith(".py") else _shipped(folder) / f"{name}.py"
    if path.is_file():
        return f"{path}{colon}{argument}"
    names = config_names(folder)
    close = difflib.get_close_matches(path.stem, names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ConfigError(f"no configuration {name!r}{hint} (shipped: {', '.join(names)}; or the path of a .py file)")


def load_config(value: str, folder: str = "") -> ConfigDict:
    """What `get_config(ARGUMENT)` of a configuration returns, locked: keys cannot be added.

    Raises:
      ConfigError: there is no such configuration; see `find_config`.
    """
    file, *argument = find_config(value, folder).split(":", 1)
    spec = importlib.util.spec_from_file_location("config_file", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*argument).lock()


def unknown_key(arguments: Sequence[str]) -> str:
    """Which `--config.KEY=VALUE` has no key in the configuration of `--config`, with what there is; "": none is found."""
    named = [argument.removeprefix("--config=") for argument in arguments if argument.startswith("--config=")]
    if not named:
        return ""
    config = flags.FLAGS["config"].parser.parse(named[-1])
    for argument in arguments:
        section, path = config, "config"
        for part in argument.partition("=")[0].split(".")[1:] if argument.startswith("--config.") else ():
            key = part.partition("[")[0]
            if not isinstance(section, ConfigDict):
                return f"{path} is a value, not a section: {argument}"
            if key not in section:
                return f"{path} has no key {key!r}{closest(key, section)}; it has {', '.join(section)}"
            section, path = section[key], f"{path}.{key}"
    return ""


def define_config(default: str | None, text: str, folder: str = "") -> flags.FlagHolder[Any]:
    """Defines `--config` and its overrides `--config.KEY=VALUE`; the values are those of `find_config`, `default` as well."""
    holder = config_flags.DEFINE_config_file("config", None, text)
    flags.FLAGS["config"].parser = _Parser(folder)
    # Not `set_default`, which reads the file and its overrides now, while the module is imported and no error is caught.
    flags.FLAGS["config"].default = default
    flags.FLAGS["config"].default_as_str = repr(default)
    return holder


def with_default(arguments: Sequence[str]) -> list[str]:
    """The command line, with `--config` where it names none and the command has a default."""
    default = flags.FLAGS["config"].default if "config" in flags.FLAGS else None
    named = any(argument.partition("=")[0] in ("--config", "-config") for argument in arguments)
    return list(arguments) if named or default is None else [arguments[0], f"--config={default}", *arguments[1:]]


def _shipped(folder: str) -> Path:
    return Path(wt_jax.configs.__path__[0]) / folder


class _Parser(flags.ArgumentParser):
    def __init__(self, folder: str):
        self._folder = folder

    def parse(self, argument: str) -> ConfigDict:
        return load_config(argument, self._folder)

    def flag_type(self) -> str:
        return "NAME or FILE.py"
