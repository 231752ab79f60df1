"""What a configuration comes to at full size, without training: `wt-jax inspect --config=...`.

Prints the encoder, the train state by part (from `eval_shape` of init and step) and the memory that the compiled step
needs on one device. The data need not exist.
"""

import jax
import numpy as np

from wt_jax.config import Config
from wt_jax.specs import batch_arrays
from wt_jax.train.communication import sent_per_step
from wt_jax.train.program import build
from wt_jax.train.step import batch_shapes

# Kinetics-400's training videos in the CVDF copy: only the schedule's length depends on it.
_VIDEOS = 241_258


def inspect_config(config: Config) -> str:
    """The report, as text."""
    batch_size = config.train.batch_size
    program = build(config, _VIDEOS)
    state, batch = program.shapes, batch_shapes(program.method, batch_size)
    _, metrics = jax.eval_shape(program.step, state, batch)
    memory = program.step.lower(state, batch).compile().memory_analysis()
    lines = [
        f"{config.method_name} with {config.model.name}, {config.model.dtype}, batch {batch_size} "
        f"on {jax.device_count()} {jax.devices()[0].device_kind} device(s)",
        f"views: {', '.join(f'{name} {batch[name].shape} {batch[name].dtype}' for name in batch_arrays(program.method.views))}",
    ]
    for part in ("params", "model_state", "opt_state", "teacher", "buffers"):
        leaves = jax.tree.leaves(getattr(state, part))
        count = sum(int(np.prod(leaf.shape)) for leaf in leaves)
        size = sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
        lines.append(f"{part:12} {count:>13,} numbers {size / 2**20:>10,.1f} MiB")
    sent = sent_per_step(program, batch_size)
    named = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in sent.items())
    lines.append(f"sent by each device per step, MiB: {named}")
    lines.append(f"metrics: {', '.join(sorted(metrics))}")
    assert memory is not None  # every backend of ours has it
    for name in ("argument", "output", "temp", "alias"):
        size = getattr(memory, f"{name}_size_in_bytes")
        lines.append(f"compiled step, per device: {name:9} {size / 2**30:>8.2f} GiB")
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    lines.append(f"compiled step, per device: in all    {(peak + memory.temp_size_in_bytes) / 2**30:>8.2f} GiB")
    return "\n".join(lines)
