"""Communication between devices in one step, from the shapes of the state: bytes per device for a mesh of any size.

Collectives run as rings: of an array of n bytes over p devices, each device sends (p - 1) / p n for an all-gather or a
reduce-scatter, and twice that for an all-reduce. BatchNorm's moments, metrics and the loss are a few KiB and left out.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from wt_jax.train.sharding import split_axis
from wt_jax.train.step import TrainState


def bytes_per_step(state: TrainState, *, data: int, fsdp: int, passes: int, rows: int) -> dict[str, float]:
    """Bytes that each device sends in one step, by cause.

    Args:
      state: shapes of the train state.
      data, fsdp: sizes of the mesh's axes.
      passes: forward passes that read the teacher; each gathers what is split.
      rows: clips in the global batch, which enter the queue on every device.

    Returns:
      "gradients": their reduction over all devices. "parameters": gathered for the student's forward and backward pass, and
      "teacher" for its passes, where they are split. "buffers": the queues where they are split, and the batch's entries.
    """
    whole, split = _sizes(state.params, fsdp)
    teacher = _sizes(state.teacher, fsdp)[1]
    buffers = _sizes(state.buffers, fsdp)[1]
    everywhere = data * fsdp
    ring, over_data, over_all = (1 - 1 / fsdp), (1 - 1 / data), (1 - 1 / everywhere)
    # A batch's entries are what one step puts over the oldest slots of each column.
    columns = [leaf for leaf in jax.tree.leaves(state.buffers) if leaf.ndim]
    entries = sum(rows * _bytes(leaf) / leaf.shape[0] for leaf in columns)
    return {
        # Split parameters: scattered within the group, then reduced between the groups, each device its part.
        "gradients": 2 * over_all * (whole - split) + ring * split + 2 * over_data * split / fsdp,
        "parameters": 2 * ring * split,
        "teacher": passes * ring * teacher,
        "buffers": ring * buffers + over_all * entries,
    }


def _bytes(leaf: Any) -> int:
    return int(np.prod(leaf.shape)) * leaf.dtype.itemsize


def _sizes(tree: Mapping[str, Any], fsdp: int) -> tuple[int, int]:
    """Bytes of a tree, and of those of its leaves that are split over `fsdp` devices."""
    leaves = jax.tree.leaves(tree)
    return sum(map(_bytes, leaves)), sum(_bytes(leaf) for leaf in leaves if split_axis(leaf.shape, fsdp) is not None)
