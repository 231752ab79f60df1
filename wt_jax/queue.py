"""A ring buffer whose columns stay slot-aligned: one pointer for all of them, so slot j of each is the same video.

The queue of MoCo (He et al. 2020, arXiv 1911.05722), with several named columns. A queue is a plain dict of arrays:
its columns, plus `video` (K,) int32, `step` (K,) int32 and `pointer` () int32. Empty slots have video -1.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

Queue = dict[str, Array]


def empty_queue(size: int, columns: Mapping[str, int]) -> Queue:
    """A queue of `size` empty slots; `columns` maps a name to its embedding dimension."""
    queue = {name: jnp.zeros((size, dim), jnp.float32) for name, dim in columns.items()}
    empty = jnp.full((size,), -1, jnp.int32)
    return {**queue, "video": empty, "label": empty, "step": empty, "pointer": jnp.zeros((), jnp.int32)}


def enqueue(queue: Queue, entries: Mapping[str, Array], step: ArrayLike) -> Queue:
    """Put a batch of entries (B, ...) over the oldest slots; every column must be given, `video` and `label` included.

    Raises:
      ValueError: a column is missing or unknown, or the batch does not divide the queue (slots would tear apart).
    """
    columns = set(queue) - {"step", "pointer"}
    if set(entries) != columns:
        raise ValueError(f"queue columns are {sorted(columns)}, got {sorted(entries)}")
    batch, size = entries["video"].shape[0], queue["video"].shape[0]
    if size % batch:
        raise ValueError(f"queue size {size} is not a multiple of the batch {batch}")
    entries = {**entries, "step": jnp.full((batch,), step, jnp.int32)}
    put = {
        name: jax.lax.dynamic_update_slice_in_dim(queue[name], entry.astype(queue[name].dtype), queue["pointer"], 0)
        for name, entry in entries.items()
    }
    return {**put, "pointer": (queue["pointer"] + batch) % size}


def negatives_mask(queue: Queue, video: Array, *, drop_same_video: bool) -> Array:
    """(B, K) bool: slots that hold something and, if asked, hold another video than `video` (B,) int32 does."""
    filled = jnp.broadcast_to(queue["video"] >= 0, (video.shape[0], queue["video"].shape[0]))
    return filled & (queue["video"][None, :] != video[:, None]) if drop_same_video else filled
