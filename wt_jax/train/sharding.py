"""The sharding of arrays: a mesh of two axes, and one rule for everything in the train state.

The batch is split over both axes. Parameters, optimizer state, teacher and queues are split over "fsdp" (1: data-parallel)
along their largest axis that divides; statistics and counters are on every device.

Devices are in the order of their processes, not in one that JAX picks for the network: each process then owns one range of
the batch, whose rows are in the same order however many processes there are, and an "fsdp" group that fits a host is on one.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp")
_SMALL = 2**12  # elements: below this, gathering costs more than the memory it saves


def make_mesh(fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over `devices` (None: all there are), `fsdp` of them (0: all) along the second axis.

    Raises:
      ValueError: the number of devices is not a multiple of `fsdp`.
    """
    devices = devices or jax.devices()
    count = len(devices)
    fsdp = fsdp or count
    if count % fsdp:
        raise ValueError(f"config.train.fsdp {fsdp} does not divide the {count} devices")
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered).reshape(count // fsdp, fsdp), AXES, axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First axis over all devices."""
    return NamedSharding(mesh, P(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Everything on each device."""
    return NamedSharding(mesh, P())


def split_axis(shape: tuple[int, ...], parts: int) -> int | None:
    """The axis along which an array of the state is split into `parts`, or None: it is whole on every device."""
    fitting = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or np.prod(shape) < _SMALL or not fitting:
        return None
    return max(fitting, key=lambda axis: shape[axis])


def shard_parameters(tree: Any, mesh: Mesh) -> Any:
    """Shardings for a tree of parameters or of anything shaped like them (moments, teacher), and for queues."""

    def rule(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        axis = split_axis(leaf.shape, mesh.shape["fsdp"])
        return replicated(mesh) if axis is None else NamedSharding(mesh, P(*(None,) * axis, "fsdp"))

    return jax.tree.map(rule, tree)


def gathered(tree: Any, mesh: Mesh | None) -> Any:
    """Within a program, a tree of what may be split, whole on every device; as it is without a mesh, or one that splits none.

    Parameters are gathered for the passes, and gradients summed over all devices before each keeps its part. Left to
    itself, the compiler computes parts of the gradients, from the activations of the whole batch, gathered on every device.
    Queues are gathered once, not for each of their uses.
    """
    if mesh is None or mesh.shape["fsdp"] == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, jax.tree.map(lambda _: replicated(mesh), tree))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch as global arrays; the transfer runs in the background."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
