"""Where arrays live: a mesh of two axes, and one rule for everything in the train state.

The batch is split over both axes. Parameters, optimiser state and teacher are split over "fsdp" (1: data-parallel)
along their largest axis that divides; queues, statistics and counters are on every device.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp")
_SMALL = 2**12  # elements: below this, gathering costs more than the memory it saves


def make_mesh(fsdp: int = 1) -> Mesh:
    """A mesh over all devices, `fsdp` of them (0: all) along the second axis.

    Raises:
      ValueError: the number of devices is not a multiple of `fsdp`.
    """
    count = jax.device_count()
    fsdp = fsdp or count
    if count % fsdp:
        raise ValueError(f"config.train.fsdp {fsdp} does not divide the {count} devices")
    return jax.make_mesh((count // fsdp, fsdp), AXES, axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First axis over all devices."""
    return NamedSharding(mesh, P(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Everything on each device."""
    return NamedSharding(mesh, P())


def shard_parameters(tree: Any, mesh: Mesh) -> Any:
    """Shardings for a tree of parameters or of anything shaped like them (moments, teacher)."""
    parts = mesh.shape["fsdp"]

    def rule(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        fitting = [axis for axis, size in enumerate(leaf.shape) if size % parts == 0]
        if parts == 1 or np.prod(leaf.shape) < _SMALL or not fitting:
            return replicated(mesh)
        longest = max(fitting, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, P(*(None,) * longest, "fsdp"))

    return jax.tree.map(rule, tree)


def wait_for_all(name: str) -> None:
    """Return when every process is here; `name` tells one such place from another."""
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices(name)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch as global arrays; the transfer runs while the host goes on."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
