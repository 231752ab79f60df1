"""The optimiser of a configuration, with the learning rate per 256 clips scaled in one visible line."""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from wt_jax.config import ConfigError, OptimConfig, steps_of


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
        drops = {steps_of(drop, **durations) - warmup: 0.1 for drop in config.drops}
        body = optax.piecewise_constant_schedule(peak, drops)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), body], [warmup]) if warmup else body


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
            raise ValueError(f"unknown optimiser {config.name!r}")
    if config.clip_norm > 0:
        body = optax.chain(optax.clip_by_global_norm(config.clip_norm), body)
    if config.layer_decay < 1:
        body = optax.chain(body, _scale_layers(config.layer_decay, layers))
    if not frozen:
        return body

    def part(params: Any) -> dict[str, str]:
        return {name: "frozen" if name == frozen else "trained" for name in params}

    return optax.partition({"trained": body, "frozen": optax.set_to_zero()}, part)


def layer_scales(params: Any, layers: Sequence[str], decay: float) -> Any:
    """A tree like `params` of the factors of each rate: decay ** n for the n-th layer of the encoder from the top.

    Raises:
      ConfigError: the encoder has a part that `layers` does not name.
    """
    depths = {name: len(layers) - place for place, name in enumerate(layers)}

    def scale(path: tuple, leaf: Any) -> float:
        names = [key.key for key in path]
        if names[0] != "encoder":
            return 1.0
        if names[1] not in depths:
            known = ", ".join(layers)
            raise ConfigError(f"config.optim.layer_decay: the encoder's {names[1]!r} is none of its layers {known}")
        return decay ** depths[names[1]]

    return jax.tree_util.tree_map_with_path(scale, params)


def _scale_layers(decay: float, layers: Sequence[str]) -> optax.GradientTransformation:
    """Multiplies each update by its layer's factor, weight decay within it included."""

    def update(updates, params=None):
        return jax.tree.map(lambda u, factor: u * factor, updates, layer_scales(updates, layers, decay))

    return optax.stateless(update)
