"""From a configuration to the compiled parts of its training: mesh, method, first state, step. Nothing is compiled yet."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from wt_jax.config import Config, steps_of
from wt_jax.errors import ConfigError
from wt_jax.methods import build_method
from wt_jax.methods.base import Method
from wt_jax.models import ModelConfig
from wt_jax.train.optim import learning_rate, make_optimizer
from wt_jax.train.sharding import make_mesh
from wt_jax.train.step import TrainState, compile_step, make_init, make_step, state_shardings
from wt_jax.weights.folder import encoder_shapes, load_encoder


@dataclass(frozen=True)
class Program:
    """What a configuration comes to on these devices, for a number of videos."""

    num_steps: int
    steps_per_epoch: float
    mesh: Mesh
    method: Method
    given: dict[str, Any]  # variables that the first state starts from
    init: jax.stages.Wrapped  # given -> TrainState
    step: jax.stages.Wrapped
    shapes: TrainState  # of the state, with shardings

    def first_state(self) -> TrainState:
        """The state before the first step, on the devices."""
        return self.init(self.given)


def _load(folder: str, model: ModelConfig) -> Any:
    """The variables in a folder; where the encoder starts from it, `model` must say the same as the folder's model.json."""
    saved, variables = load_encoder(Path(folder))
    if folder != model.weights:
        return variables
    # A norm without statistics has other variables; that of a batch and that of its parts are the same at evaluation.
    same_norm = encoder_shapes(model).keys() == encoder_shapes(saved).keys()
    faults = [
        f"config.model.{name} is {getattr(model, name)!r}, the weights in {folder} have {getattr(saved, name)!r}"
        for name in ("name", "width", "mean", "std", *(() if same_norm else ("norm",)))
        if getattr(model, name) != getattr(saved, name)
    ]
    if faults:
        raise ConfigError("; ".join(faults))
    return variables


def build(config: Config, num_videos: int) -> Program:
    """Build the parts of a training.

    Raises:
      ConfigError, WeightsError: the configuration cannot be run on these devices, or from these weights.
    """
    train = config.train
    steps_per_epoch = num_videos / train.batch_size
    num_steps = max(1, steps_of(train.duration, steps_per_epoch=steps_per_epoch))
    pieces = jax.device_count() * train.accumulate
    if train.batch_size % pieces:
        raise ConfigError(
            f"config.train.batch_size {train.batch_size} cannot be shared by {jax.device_count()} devices in "
            f"{train.accumulate} pieces; take a multiple of {pieces}"
        )
    try:
        mesh = make_mesh(train.fsdp)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    method = build_method(config, num_steps)
    schedule = learning_rate(config.optim, batch_size=train.batch_size, num_steps=num_steps, steps_per_epoch=steps_per_epoch)
    frozen = getattr(config.method, "freeze", "")
    optimizer = make_optimizer(config.optim, schedule, method.encoder.layers, frozen)
    given = {name: _load(folder, config.model) for name, folder in method.weights.items()}
    init = make_init(method, optimizer, config.seed)
    state = jax.eval_shape(init, given)
    shardings = state_shardings(state, mesh)
    step = make_step(
        method,
        optimizer,
        schedule,
        seed=config.seed,
        accumulate=train.accumulate,
        log_every=train.log_every,
        num_steps=num_steps,
    )
    shapes = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state, shardings
    )
    return Program(
        num_steps,
        steps_per_epoch,
        mesh,
        method,
        given,
        jax.jit(init, out_shardings=shardings),
        compile_step(step, shardings, mesh),
        shapes,
    )
