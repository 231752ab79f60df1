"""Where metrics go besides `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow. Each is an extra, imported when it is named.

A restart continues the same run: the services' identifiers are kept in `trackers.json` of the workdir.
"""

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from flax.traverse_util import flatten_dict

from wt_jax.config import Config, to_dict
from wt_jax.errors import ConfigError
from wt_jax.files import write_atomic


class Tracker(Protocol):
    """One place to which the metrics of a training are written, in the order of its steps."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write finite values by name."""
        ...

    def close(self) -> None:
        """Write what is still held back, and end."""
        ...


def open_trackers(config: Config, workdir: Path, start_step: int) -> list[Tracker]:
    """The places that a configuration names, for a training that starts behind `start_step`.

    Raises:
      ConfigError: a library is not installed.
    """
    names = ["tensorboard"] * config.train.tensorboard + [name for name in config.train.trackers.split(",") if name]
    opened: list[Tracker] = []
    for name in names:
        try:
            opened.append(_TRACKERS[name](config, workdir, start_step))
        except ImportError as error:
            key = "tensorboard" if name == "tensorboard" else "trackers"
            raise ConfigError(f"config.train.{key}: {name} is not installed ({error}); pip install 'wt_jax[{name}]'") from None
    return opened


class _TensorBoard:
    def __init__(self, config: Config, workdir: Path, start_step: int):
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]  # of an extra

        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._board.close()


class _WandB:
    """A run of the project WANDB_PROJECT, by default wt_jax, named after the workdir."""

    def __init__(self, config: Config, workdir: Path, start_step: int):
        import wandb  # pyright: ignore[reportMissingImports]  # of an extra

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "wt_jax"),
            name=workdir.name,
            dir=str(workdir),
            id=_identifier(workdir, "wandb", uuid.uuid4().hex),
            resume="allow",
            config=to_dict(config),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """A run of the experiment MLFLOW_EXPERIMENT_NAME, by default wt_jax, named after the workdir."""

    def __init__(self, config: Config, workdir: Path, start_step: int):
        import mlflow  # pyright: ignore[reportMissingImports]  # of an extra

        self._mlflow = mlflow
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "wt_jax"))
        known = _identifiers(workdir).get("mlflow")
        run = mlflow.start_run(run_id=known, run_name=None if known else workdir.name)
        if known is None:
            _identifier(workdir, "mlflow", run.info.run_id)
            mlflow.log_params({name: str(value) for name, value in flatten_dict(to_dict(config), sep=".").items()})

    def write(self, step: int, values: Mapping[str, float]) -> None:
        # Its names have no @.
        self._mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


_TRACKERS: dict[str, Any] = {"tensorboard": _TensorBoard, "wandb": _WandB, "mlflow": _MLflow}


def _identifiers(workdir: Path) -> dict[str, str]:
    path = workdir / "trackers.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _identifier(workdir: Path, name: str, fresh: str) -> str:
    """The identifier of a workdir's run, at the first time a fresh one."""
    known = _identifiers(workdir)
    if name not in known:
        known[name] = fresh
        write_atomic(workdir / "trackers.json", json.dumps(known) + "\n")
    return known[name]
