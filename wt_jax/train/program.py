"""A training as a program: method, optimizer, first state and step on these devices, and the run that the loop trains."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, cast

import jax
from jax.sharding import Mesh

from wt_jax.config import Config, ViTConfig, steps_of
from wt_jax.data.records import VideoList
from wt_jax.errors import ConfigError
from wt_jax.experiment import build_method
from wt_jax.methods.base import Method, Pretrained
from wt_jax.train.optim import learning_rate, make_optimizer
from wt_jax.train.sharding import make_mesh
from wt_jax.train.step import TrainState, compile_step, make_init, make_step, state_shardings
from wt_jax.weights.folder import encoder_shapes, load_encoder
from wt_jax.weights.table import load_table


@dataclass(frozen=True)
class Program:
    """The parts of a training on these devices, for a number of videos.

    Attributes:
      num_steps, steps_per_epoch: of the whole training.
      mesh: the devices.
      method: the method.
      counted: the same without rematerialization, for counting its operations.
      pretrained: the variables that the first state starts from, by the names of `method.pretrained`.
      init: pretrained -> TrainState.
      step: (TrainState, batch) -> (TrainState, metrics).
      shapes: of the state, with shardings.
    """

    num_steps: int
    steps_per_epoch: float
    mesh: Mesh
    method: Method
    counted: Method
    pretrained: dict[str, Any]
    init: jax.stages.Wrapped
    step: jax.stages.Wrapped
    shapes: TrainState

    def first_state(self) -> TrainState:
        """The state before the first step, on the devices."""
        return self.init(self.pretrained)


class Evaluator(Protocol):
    """An evaluation while the training runs."""

    @property
    def every(self) -> int:
        """Steps between two evaluations, at least 1."""
        ...

    def run(self, state: TrainState) -> dict[str, float]:
        """Scores by name, the same on every process; names of different evaluators differ."""
        ...


@dataclass(frozen=True)
class Run:
    """What the loop trains.

    Attributes:
      config: checked.
      videos: to train on.
      program: the parts of the training.
      evaluators: by name.
      best_by: the score whose highest value marks the best checkpoint.
    """

    config: Config
    videos: VideoList
    program: Program
    evaluators: dict[str, Evaluator]
    best_by: str


def build(config: Config, num_videos: int, num_classes: int = 0, devices: Sequence[Any] | None = None) -> Program:
    """Build the parts of a training on `num_videos` videos of `num_classes` classes (0: unknown).

    `devices` are those it is for, by default all there are; for others, nothing of it can be run.

    Raises:
      ConfigError, WeightsError: the configuration cannot be run on these devices, or from these weights.
    """
    train = config.train
    steps_per_epoch = num_videos / train.batch_size
    num_steps = max(1, steps_of(train.duration, steps_per_epoch=steps_per_epoch))
    try:
        mesh = make_mesh(train.fsdp, devices)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    pieces = mesh.size * train.accumulate
    if train.batch_size % pieces:
        raise ConfigError(
            f"config.train.batch_size {train.batch_size} cannot be divided among {mesh.size} devices in "
            f"{train.accumulate} pieces; take a multiple of {pieces}"
        )
    method = build_method(config, num_steps, num_classes)
    counted = build_method(replace(config, model=replace(config.model, remat=False)), num_steps, num_classes)
    schedule = learning_rate(config.optim, batch_size=train.batch_size, num_steps=num_steps, steps_per_epoch=steps_per_epoch)
    durations = {"num_steps": num_steps, "steps_per_epoch": steps_per_epoch}
    optimizer = make_optimizer(config.optim, schedule, method.encoder.layers, method.needs.frozen, **durations)
    pretrained = load_pretrained(method)
    init = make_init(method, optimizer, config.seed)
    state = jax.eval_shape(init, pretrained)
    shardings = state_shardings(state, mesh)
    step = make_step(
        method,
        optimizer,
        schedule,
        seed=config.seed,
        accumulate=train.accumulate,
        log_every=train.log_every,
        num_steps=num_steps,
        mesh=mesh,
    )
    shapes = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state, shardings
    )
    return Program(
        num_steps,
        steps_per_epoch,
        mesh,
        method,
        counted,
        pretrained,
        jax.jit(init, out_shardings=shardings),
        cast(jax.stages.Wrapped, compile_step(step, shardings, mesh)),
        shapes,
    )


def load_pretrained(method: Method) -> dict[str, Any]:
    """The arrays of each of `method.pretrained`.

    Raises:
      ConfigError, WeightsError: they cannot be read, or are of another model than the method asks for.
    """
    return {name: _LOADERS[each.kind](each) for name, each in method.pretrained.items()}


def _load_encoder(pretrained: Pretrained) -> Any:
    saved, variables = load_encoder(pretrained.folder)
    like = pretrained.like
    if like is None:
        return variables
    # A norm without statistics has other variables; that of a batch and that of its parts are the same at evaluation.
    same_norm = encoder_shapes(like).keys() == encoder_shapes(saved).keys()
    faults = [
        f"config.model.{name} is {getattr(like, name)!r}, the weights in {pretrained.folder} have {getattr(saved, name)!r}"
        for name in ("name", "width", "mean", "std", "aggregator", *(() if same_norm else ("norm",)))
        if getattr(like, name) != getattr(saved, name)
    ]
    # How it was initialized and what is drawn while it trains change no variable.
    forms = [replace(model.vit, init="normal", drop_path=0.0) for model in (like, saved)]
    faults += [
        f"config.model.vit.{field.name} is {getattr(forms[0], field.name)!r}, the weights in {pretrained.folder} have "
        f"{getattr(forms[1], field.name)!r}"
        for field in fields(ViTConfig)
        if getattr(forms[0], field.name) != getattr(forms[1], field.name)
    ]
    if faults:
        raise ConfigError("; ".join(faults))
    return variables


def _load_table(pretrained: Pretrained) -> Any:
    return {"features": load_table(Path(pretrained.folder))[1]}


_LOADERS = {"encoder": _load_encoder, "table": _load_table}
