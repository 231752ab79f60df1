"""The optimiser of a configuration, with the learning rate per 256 clips scaled in one visible line."""

import jax
import optax

from wt_jax.config import OptimConfig, steps_of


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


def make_optimizer(config: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optax chain of a configuration."""

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
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), body) if config.clip_norm > 0 else body
