"""From a configuration to a run: checked, then its method, optimizer, first state and step, its videos and its evaluation.

Config files build on `default_config(METHOD)`, a ConfigDict of every key; `resolve` turns the result, after the command
line's overrides, into a checked `Config`, before any device is touched; `prepare` makes the `Run` and compiles nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from wt_jax.config import Config, check_config, from_dict, steps_of, to_dict
from wt_jax.data.records import VideoList
from wt_jax.data.sources.open import open_source
from wt_jax.errors import ConfigError
from wt_jax.eval.config import EvalConfig
from wt_jax.eval.online import BEST_BY, Evaluator, make_evaluators
from wt_jax.eval.run_features import FeatureReader, open_run_videos
from wt_jax.methods import METHODS, default_settings
from wt_jax.methods.base import Method, Needs, Pretrained, Setup
from wt_jax.models import build_encoder
from wt_jax.train.optim import learning_rate, make_optimizer
from wt_jax.train.sharding import make_mesh
from wt_jax.train.step import TrainState, compile_step, make_init, make_step, state_shardings
from wt_jax.weights.folder import encoder_shapes, load_encoder
from wt_jax.weights.table import load_table


def default_config(method: str = "weak_teacher") -> ConfigDict:
    """Every key with its default, for config files to build on; `method` is a name of `wt_jax.methods.METHODS`."""
    return ConfigDict(to_dict(Config(method, default_settings(method), eval=EvalConfig())), type_safe=False).lock()


def resolve(config: ConfigDict | Mapping[str, Any]) -> Config:
    """The checked, frozen form.

    Raises:
      ConfigError: a key is unknown (the closest is named), a value has the wrong type, or the combination is impossible.
    """
    raw = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    settings = default_settings(raw.get("method_name", "weak_teacher"))
    resolved = from_dict(Config, {"eval": {}, **raw}, {"method": type(settings), "eval": EvalConfig})
    check_config(resolved)
    try:
        build_encoder(resolved.model)
    except ValueError as error:
        raise ConfigError(f"config.model: {error}") from None
    build_method(resolved)
    return resolved


def build_method(config: Config, num_steps: int = 1, num_classes: int = 0) -> Method:
    """The method of a configuration, for a training of `num_steps` steps on videos of `num_classes` classes (0: unknown).

    Raises:
      ConfigError: the method cannot run with this configuration.
    """
    setup = Setup(config.model, config.strong_view, config.weak_view, num_steps, config.train.log_every, num_classes)
    method = METHODS[config.method_name].build(config.method, setup)
    _check_needs(method.needs, config.train.batch_size, config.train.accumulate)
    return method


def _check_needs(needs: Needs, batch_size: int, accumulate: int) -> None:
    slots, piece = needs.batch_multiple, batch_size // accumulate
    if slots % batch_size:
        near = max(1, round(slots / batch_size)) * batch_size
        raise ConfigError(
            f"config.method.queue.size {slots} is not a multiple of config.train.batch_size {batch_size}; try {near}"
        )
    if piece < needs.min_batch:
        raise ConfigError(f"config.method: {needs.reason}: it needs {needs.min_batch} clips or more per piece, got {piece}")


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


@dataclass(frozen=True)
class Run:
    """A configuration on this machine and its videos: the parts that training and evaluation share.

    Attributes:
      config: checked.
      videos: to train on.
      program: the parts of the training.
      features: extracts the features by which the run is evaluated.
      evaluators: metrics of them while it trains, by name.
      best_by: the metric whose highest value marks the best checkpoint.
    """

    config: Config
    videos: VideoList
    program: Program
    features: FeatureReader
    evaluators: dict[str, Evaluator]
    best_by: str


def prepare(config: Config, videos: VideoList | None = None) -> Run:
    """Build everything and compile nothing; `videos` are those to train on, by default all of `config.data.train`.

    Raises:
      ConfigError, SourceError, WeightsError: the configuration cannot be run on this data, these devices or these weights.
    """
    if videos is None:
        if not config.data.train:
            raise ConfigError("config.data.train is empty; give a list file or a folder of videos")
        videos = open_source(config.data.train, config.data.root, config.data.max_bad_fraction)
    config.eval.features.check_devices("config.eval.features", jax.device_count())
    if config.train.compile_cache:
        jax.config.update("jax_compilation_cache_dir", config.train.compile_cache)
    if build_method(config).needs.labels and not videos.classes:
        raise ConfigError(f"{config.data.train} has no labels, and {config.method_name} learns from them; add one to each line")
    program = build(config, len(videos), len(videos.classes))
    features = FeatureReader(config, program.method, open_run_videos(config, videos), program.mesh)
    every = steps_of(config.train.eval_every, steps_per_epoch=program.steps_per_epoch)
    return Run(config, videos, program, features, make_evaluators(config.eval, features, every), BEST_BY)


def build(config: Config, num_videos: int, num_classes: int = 0) -> Program:
    """Build the parts of a training on `num_videos` videos of `num_classes` classes (0: unknown).

    Raises:
      ConfigError, WeightsError: the configuration cannot be run on these devices, or from these weights.
    """
    train = config.train
    steps_per_epoch = num_videos / train.batch_size
    num_steps = max(1, steps_of(train.duration, steps_per_epoch=steps_per_epoch))
    pieces = jax.device_count() * train.accumulate
    if train.batch_size % pieces:
        raise ConfigError(
            f"config.train.batch_size {train.batch_size} cannot be divided among {jax.device_count()} devices in "
            f"{train.accumulate} pieces; take a multiple of {pieces}"
        )
    try:
        mesh = make_mesh(train.fsdp)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    method = build_method(config, num_steps, num_classes)
    counted = build_method(replace(config, model=replace(config.model, remat=False)), num_steps, num_classes)
    schedule = learning_rate(config.optim, batch_size=train.batch_size, num_steps=num_steps, steps_per_epoch=steps_per_epoch)
    optimizer = make_optimizer(config.optim, schedule, method.encoder.layers, method.needs.frozen)
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
    saved, variables = load_encoder(Path(pretrained.folder))
    like = pretrained.like
    if like is None:
        return variables
    # A norm without statistics has other variables; that of a batch and that of its parts are the same at evaluation.
    same_norm = encoder_shapes(like).keys() == encoder_shapes(saved).keys()
    faults = [
        f"config.model.{name} is {getattr(like, name)!r}, the weights in {pretrained.folder} have {getattr(saved, name)!r}"
        for name in ("name", "width", "mean", "std", *(() if same_norm else ("norm",)))
        if getattr(like, name) != getattr(saved, name)
    ]
    if faults:
        raise ConfigError("; ".join(faults))
    return variables


def _load_table(pretrained: Pretrained) -> Any:
    return {"features": load_table(Path(pretrained.folder))[1]}


_LOADERS = {"encoder": _load_encoder, "table": _load_table}
