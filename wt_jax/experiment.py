"""From a configuration to a checked one and its method.

Config files build on `default_config(METHOD)`, a ConfigDict of every key; `resolve` turns the result, after the command
line's overrides, into a checked `Config`, before any device is touched. `wt_jax.train.program.build` makes the training,
`wt_jax.eval.run.prepare` the whole run.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from wt_jax.config import Config, check_config, from_dict, to_dict
from wt_jax.errors import ConfigError
from wt_jax.eval.config import EvalConfig
from wt_jax.methods import METHODS, default_settings
from wt_jax.methods.base import Method, Needs, Setup
from wt_jax.models import build_encoder


def default_config(method: str = "weak_teacher") -> ConfigDict:
    """Every key with its default, for config files to build on; `method` is a name of `wt_jax.methods.METHODS`.

    The model is that of the method's source, where it needs one of its kind.
    """
    settings = default_settings(method)
    config = Config(method, settings, model=METHODS[method].model, eval=EvalConfig())
    return ConfigDict(to_dict(config), type_safe=False).lock()


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
    train = config.train
    setup = Setup(config.model, config.strong_view, config.weak_view, num_steps, train.log_every, num_classes, train.accumulate)
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
