"""The folder of a run: which configuration it belongs to, and what it was run with."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from wt_jax.cluster.processes import run_on_primary
from wt_jax.cluster.workdir_lock import lock_workdir
from wt_jax.config import Config, to_dict
from wt_jax.errors import ConfigError
from wt_jax.experiment import resolve
from wt_jax.files import write_atomic

# What may differ between two starts of one run: it changes neither the parameters nor the order of the data.
_FREE = {
    ("data", "workers"),
    ("data", "threads"),
    ("data", "cache_gib"),
    ("data", "max_bad_fraction"),
    ("data", "test"),
    ("train", "fsdp"),
    ("train", "log_every"),
    ("train", "eval_every"),
    ("train", "checkpoint_every"),
    ("train", "keep_checkpoints"),
    ("train", "profile"),
    ("train", "tensorboard"),
    ("train", "trackers"),
    ("train", "compile_cache"),
    ("model", "remat"),
}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "av", "opencv-python-headless")


def open_workdir(workdir: Path, config: Config) -> None:
    """Make the folder, or check that it belongs to this configuration; lock it; write `config.json` and `environment.json`.

    The primary process does it, and all processes raise its error.

    Raises:
      ConfigError: the folder holds a run of another configuration (the keys are named), is in use by another run (which is
        named), or cannot be written.
    """
    run_on_primary(lambda: _open(workdir, config), ConfigError)


def _open(workdir: Path, config: Config) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock_workdir(workdir)
        if (workdir / "config.json").exists():
            changed = _changed(to_dict(stored_config(workdir)), to_dict(config))
            if changed:
                remedy = "use another --workdir"
                if all(key.startswith("config.train.") for key in changed):
                    remedy += (
                        f"; to go on from what it learned, `wt-jax export_weights --workdir={workdir} FOLDER` and there "
                        "--config.model.weights=FOLDER"
                    )
                raise ConfigError(f"{workdir} holds a run with another configuration: {'; '.join(changed[:3])}; {remedy}")
        write_atomic(workdir / "config.json", json.dumps(to_dict(config), indent=1) + "\n")
        write_atomic(workdir / "environment.json", json.dumps(environment(), indent=1) + "\n")
    except OSError as error:
        raise ConfigError(f"workdir {workdir} cannot be written: {error.strerror or error}") from None


def read_config(workdir: Path) -> Config:
    """The configuration of a workdir; relative paths of data are those from the folder where the run was started.

    Raises:
      ConfigError: there is none.
    """
    found = _stored(workdir)
    started = workdir / "environment.json"
    folder = json.loads(started.read_text()).get("folder", "") if started.exists() else ""
    for key in ("train", "test", "root", "pack"):
        location = found.get("data", {}).get(key)
        if location and ":" not in location and not location.startswith("~"):
            found["data"][key] = os.path.join(folder, location)
    return resolve(found)


def stored_config(workdir: Path) -> Config:
    """The configuration of a workdir as the run was started with it, with the same relative paths.

    Raises:
      ConfigError: there is none.
    """
    return resolve(_stored(workdir))


def _stored(workdir: Path) -> dict[str, Any]:
    try:
        return json.loads((workdir / "config.json").read_text())
    except FileNotFoundError:
        raise ConfigError(f"{workdir} holds no config.json; is it the workdir of a run?") from None


def environment() -> dict[str, Any]:
    """Versions, devices, command and git revision, for the record of a run or of a measurement."""
    revision = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "python": sys.version.split()[0],
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
        "git": revision.stdout.strip() or "unknown",
        "command": sys.argv,
        "folder": os.getcwd(),
    }


def _changed(old: dict[str, Any], new: dict[str, Any], place: tuple[str, ...] = ()) -> list[str]:
    """Keys whose values differ and matter, as 'config.a.b was 1, is 2'."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        here, before, after = (*place, key), old.get(key), new.get(key)
        if here in _FREE or here[:1] == ("eval",):
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            found += _changed(before, after, here)
        elif before != after:
            found.append(f"config.{'.'.join(here)} was {before!r}, is {after!r}")
    return found
