"""What a configuration comes to at full size, without training: `python -m wt_jax.main --mode=inspect --config=...`.

Prints the encoder, the train state by part (from `eval_shape` of init and step) and the memory that the compiled step
needs on one device. The data need not exist.
"""

import jax
import numpy as np

from wt_jax.config import Config, steps_of
from wt_jax.methods import build_method
from wt_jax.train.optim import learning_rate, make_optimizer
from wt_jax.train.sharding import make_mesh
from wt_jax.train.step import batch_shapes, compile_step, make_init, make_step, state_shardings

# Kinetics-400's training videos in the CVDF copy: only the schedule's length depends on it.
_VIDEOS = 241_258


def inspect_config(config: Config) -> str:
    """The report, as text."""
    batch_size = config.train.batch_size
    steps_per_epoch = _VIDEOS / batch_size
    num_steps = max(1, steps_of(config.train.duration, steps_per_epoch=steps_per_epoch))
    method = build_method(config, num_steps)
    schedule = learning_rate(config.optim, batch_size=batch_size, num_steps=num_steps, steps_per_epoch=steps_per_epoch)
    optimizer = make_optimizer(config.optim, schedule)
    init = make_init(method, optimizer, config.seed)
    state = jax.eval_shape(init)
    step = make_step(method, optimizer, schedule, seed=config.seed, accumulate=config.train.accumulate)
    batch = batch_shapes(method, batch_size)
    _, metrics = jax.eval_shape(step, state, batch)
    mesh = make_mesh(config.train.fsdp)
    shardings = state_shardings(state, mesh)
    memory = compile_step(step, shardings, mesh).lower(state, batch).compile().memory_analysis()
    lines = [
        f"{config.method_name} with {config.model.name}, {config.model.dtype}, batch {batch_size} "
        f"on {jax.device_count()} {jax.devices()[0].device_kind} device(s)",
        f"views: {', '.join(f'{name} {value.shape}' for name, value in batch.items() if value.ndim == 5)} uint8",
    ]
    for part in ("params", "model_state", "opt_state", "teacher", "memory"):
        leaves = jax.tree.leaves(getattr(state, part))
        count = sum(int(np.prod(leaf.shape)) for leaf in leaves)
        size = sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
        lines.append(f"{part:12} {count:>13,} numbers {size / 2**20:>10,.1f} MiB")
    lines.append(f"metrics: {', '.join(sorted(metrics))}")
    for name in ("argument", "output", "temp", "alias"):
        size = getattr(memory, f"{name}_size_in_bytes")
        lines.append(f"compiled step, per device: {name:9} {size / 2**30:>8.2f} GiB")
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    lines.append(f"compiled step, per device: in all    {(peak + memory.temp_size_in_bytes) / 2**30:>8.2f} GiB")
    return "\n".join(lines)
