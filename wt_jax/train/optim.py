"""The optimizer of a configuration, with the learning rate per 256 clips scaled in one visible line."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from wt_jax.config import OptimConfig, steps_of
from wt_jax.errors import ConfigError


def learning_rate(config: OptimConfig, *, batch_size: int, num_steps: int, steps_per_epoch: float) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then the schedule (Goyal et al. 2017, arXiv 1706.02677, for the scaling)."""
    peak = config.learning_rate * batch_size / 256
    durations = {"steps_per_epoch": steps_per_epoch, "total": num_steps}
    warmup = min(steps_of(config.warmup, **durations), num_steps - 1)
    if config.schedule == "cosine":
        body = optax.cosine_decay_schedule(peak, num_steps - warmup)
    elif config.schedule == "constant":
        body = optax.constant_schedule(peak)
    else:
        boundaries = {steps_of(milestone, **durations) - warmup: 0.1 for milestone in config.milestones}
        body = optax.piecewise_constant_schedule(peak, boundaries)
    if warmup:
        body = optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), body], [warmup])
    return _promoting(body)


def make_optimizer(
    config: OptimConfig, schedule: optax.Schedule, layers: Sequence[str] = (), frozen: str = ""
) -> optax.GradientTransformation:
    """The optax chain of a configuration.

    Args:
      config: what to build.
      schedule: learning rate by step.
      layers: names of the encoder's parts, from input to output, for `config.layer_decay`.
      frozen: top-level entry of the parameters that stays bit for bit as it is, weight decay or not; empty: none.
    """

    def decayed(params):
        return jax.tree.map(lambda leaf: config.decay_norms or leaf.ndim > 1, params)

    def matrices(params):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    penalty = optax.add_decayed_weights(config.weight_decay, decayed)
    match config.name:
        case "sgd":
            body = optax.chain(penalty, optax.sgd(schedule, config.momentum))
        case "adam":
            body = optax.chain(penalty, optax.adam(schedule))
        case "adamw":
            body = optax.adamw(schedule, weight_decay=config.weight_decay, mask=decayed)
        case "lars":
            # You et al. 2017 (arXiv 1708.03888); biases and norms are neither decayed nor rescaled, as in BYOL.
            body = optax.lars(schedule, config.weight_decay, matrices, trust_ratio_mask=matrices, momentum=config.momentum)
        case _:
            raise ValueError(f"unknown optimizer {config.name!r}")
    if config.clip_norm > 0:
        body = optax.chain(optax.clip_by_global_norm(config.clip_norm), body)
    if config.layer_decay < 1:
        body = optax.chain(body, _scale_layers(config.layer_decay, layers))
    if frozen:

        def part(params: Any) -> dict[str, str]:
            return {name: "frozen" if name == frozen else "trained" for name in params}

        body = optax.partition({"trained": body, "frozen": optax.set_to_zero()}, part)
    return optax.GradientTransformation(body.init, _promoting(body.update))


def _promoting(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same where JAX promotes no dtypes (`jax.numpy_dtype_promotion`): optax multiplies floats by its integer counters."""

    def call(*args: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args)

    return call


def layer_scales(params: Any, layers: Sequence[str], decay: float) -> Any:
    """A tree like `params` of the factors of each rate: decay ** n for the n-th layer of the encoder from the top.

    Only layers with matrices count. A norm on top of them, named in `layers` or not, has the full rate.

    Raises:
      ConfigError: the encoder has a part with matrices that `layers` does not name.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    counted = {path[1].key for path, leaf in leaves if path[0].key == "encoder" and leaf.ndim > 1}
    for name in sorted(counted - set(layers)):
        raise ConfigError(f"config.optim.layer_decay: the encoder's {name!r} is none of its layers {', '.join(layers)}")
    deep = [name for name in layers if name in counted]
    depths = {name: len(deep) - place for place, name in enumerate(deep)}

    def scale(path: tuple, leaf: Any) -> float:
        return decay ** depths.get(path[1].key, 0) if path[0].key == "encoder" else 1.0

    return jax.tree_util.tree_map_with_path(scale, params)


def _scale_layers(decay: float, layers: Sequence[str]) -> optax.GradientTransformation:
    """Multiplies each update by its layer's factor, weight decay within it included."""

    def update(updates, params=None):
        return jax.tree.map(lambda u, factor: u * factor, updates, layer_scales(updates, layers, decay))

    return optax.stateless(update)
