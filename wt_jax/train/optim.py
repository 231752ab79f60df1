"""The optimizer of a configuration, with the learning rate per 256 clips scaled in one visible line."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wt_jax.config import OptimConfig, closest, steps_of
from wt_jax.errors import ConfigError


def learning_rate(config: OptimConfig, *, batch_size: int, num_steps: int, steps_per_epoch: float) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then the schedule (Goyal et al. 2017, arXiv 1706.02677, for the scaling)."""
    peak = config.learning_rate * batch_size / 256
    durations = {"steps_per_epoch": steps_per_epoch, "total": num_steps}
    warmup = min(steps_of(config.warmup, **durations), num_steps - 1)
    if config.schedule == "cosine":
        final = config.final_rate / config.learning_rate if config.final_rate else 0.0
        body = optax.cosine_decay_schedule(peak, round(config.stretch * num_steps) - warmup, final)
    elif config.schedule == "constant":
        body = optax.constant_schedule(peak)
    else:
        boundaries = {steps_of(milestone, **durations) - warmup: 0.1 for milestone in config.milestones}
        body = optax.piecewise_constant_schedule(peak, boundaries)
    if warmup:
        start = config.start_rate * batch_size / 256
        body = optax.join_schedules([optax.linear_schedule(start, peak, warmup), body], [warmup])
    return _promoting(body)


def weight_decay(config: OptimConfig, num_steps: int) -> float | optax.Schedule:
    """Weight decay, by step where it goes to another value along a half cosine (DINO, arXiv 2104.14294)."""
    first, last = config.weight_decay, config.final_weight_decay
    if not last:
        return first
    cosine = _promoting(optax.cosine_decay_schedule(1.0, round(config.stretch * num_steps)))
    return lambda step: last + (first - last) * cosine(step)


def make_optimizer(
    config: OptimConfig,
    schedule: optax.Schedule,
    layers: Sequence[str] = (),
    frozen: Mapping[str, float] | None = None,
    *,
    num_steps: int = 1,
    steps_per_epoch: float = 1.0,
) -> optax.GradientTransformation:
    """The optax chain of a configuration.

    Args:
      config: what to build.
      schedule: learning rate by step.
      layers: names of the encoder's parts, from input to output, for `config.layer_decay`.
      frozen: parts of the parameters ("name" or "name.name") and the number of first steps in which they stay bit for bit as
        they are, weight decay or not; infinity: always. Their moments start with the first step in which they are trained, as
        in PyTorch, where a parameter without gradient is left out.
      num_steps, steps_per_epoch: of the training, for what changes with time.
    """
    decay = weight_decay(config, num_steps)
    parts: dict[Hashable, optax.GradientTransformation] = {"": _body(config, schedule, decay)}
    for name, steps in (frozen or {}).items():
        if math.isinf(steps):
            parts[name] = optax.set_to_zero()
        elif steps:
            parts[name] = _from_step(int(steps), config, schedule, decay)
    body = parts[""]
    if len(parts) > 1:

        def part(path: tuple, _: Any) -> str:
            names = (".".join(key.key for key in path[:depth]) for depth in range(1, len(path) + 1))
            return next((name for name in names if name in parts), "")

        body = optax.partition(parts, lambda params: jax.tree_util.tree_map_with_path(part, params))
    if config.clip_norm > 0:
        clip = _clip(config.clip_each, config.clip_norm)
        if start := steps_of(config.clip_from, steps_per_epoch=steps_per_epoch, total=num_steps):

            def begun(step: Any, **_: Any) -> Any:
                return step >= start

            clip = optax.conditionally_transform(clip, begun)
        body = optax.chain(clip, body)
    if config.layer_decay < 1:
        body = optax.chain(body, _scale(lambda params: layer_scales(params, layers, config.layer_decay)))
    if config.part_rates:
        body = optax.chain(body, _scale(lambda params: part_scales(params, dict(config.part_rates))))
    return optax.GradientTransformation(body.init, _promoting(body.update))


def _from_step(
    first: int, config: OptimConfig, schedule: optax.Schedule, decay: float | optax.Schedule
) -> optax.GradientTransformation:
    """The optimizer from step `first` on; before, neither parameters nor its state change."""

    def later(value: optax.Schedule) -> optax.Schedule:
        return lambda count: value(count + first)  # its own count is 0 in its first step

    def begun(step: Any, **_: Any) -> Any:
        return step >= first

    return optax.conditionally_mask(_body(config, later(schedule), later(decay) if callable(decay) else decay), begun)


def _body(config: OptimConfig, schedule: optax.Schedule, decay: float | optax.Schedule) -> optax.GradientTransformation:
    b1, b2 = config.betas

    def decayed(params):
        return jax.tree.map(lambda leaf: config.decay_norms or leaf.ndim > 1, params)

    def matrices(params):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    penalty = optax.add_decayed_weights(decay, decayed)
    match config.name:
        case "sgd":
            return optax.chain(penalty, optax.sgd(schedule, config.momentum))
        case "adam":
            return optax.chain(penalty, optax.adam(schedule, b1, b2))
        case "adamw":
            return optax.adamw(schedule, b1, b2, weight_decay=decay, mask=decayed)
        case "lars":
            # You et al. 2017 (arXiv 1708.03888); biases and norms are neither decayed nor rescaled, as in BYOL.
            return optax.lars(schedule, decay, matrices, trust_ratio_mask=matrices, momentum=config.momentum)
        case _:
            raise ValueError(f"unknown optimizer {config.name!r}")


def _promoting(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same where JAX promotes no dtypes (`jax.numpy_dtype_promotion`): optax multiplies floats by its integer counters."""

    def call(*args: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args)

    return call


def _clip(each: str, most: float) -> optax.GradientTransformation:
    """Scales gradients down to a norm of all, of each top-level entry, or of each tensor."""
    if each == "all":
        return optax.clip_by_global_norm(most)

    def smaller(tree: Any) -> Any:
        factor = jnp.minimum(1.0, most / (optax.tree.norm(tree) + 1e-6))
        return jax.tree.map(lambda leaf: leaf * factor, tree)

    def update(updates, params=None):
        return jax.tree.map(smaller, updates) if each == "tensor" else {k: smaller(part) for k, part in updates.items()}

    return optax.stateless(update)


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


def part_scales(params: Any, rates: Mapping[str, float]) -> Any:
    """A tree like `params` of the factors of each rate, by top-level entry; 1 for those that `rates` does not name.

    Raises:
      ConfigError: `rates` names an entry that there is not.
    """
    for name in rates:
        if name not in params:
            known = f"{', '.join(params)}{closest(name, params)}"
            raise ConfigError(f"config.optim.part_rates: {name!r} is none of the parts {known}")
    factors = {name: rates.get(name, 1.0) for name in params}
    return {name: jax.tree.map(lambda _, factor=factors[name]: factor, part) for name, part in params.items()}


def _scale(factors: Callable[[Any], Any]) -> optax.GradientTransformation:
    """Multiplies each update by its factor, weight decay within it included."""

    def update(updates, params=None):
        return jax.tree.map(lambda u, factor: u * factor, updates, factors(updates))

    return optax.stateless(update)
