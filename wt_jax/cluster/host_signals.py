"""What all processes must know of a step: whether one of them should stop, which host is slow, which videos failed.

Each process adds a row per device to a small global array, and a jitted identity replicates it. It is dispatched
behind the step and read with the step's metrics, one step late, so it costs no wait; and as all processes read the same
array of the same step, they decide alike without further communication.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from wt_jax.cluster.processes import host_of

_NUMBERS = ("stop", "busy")

# (batch on the devices, whether to stop, busy seconds) -> arrays for `read`
Broadcast = Callable[[dict[str, jax.Array], bool, float], dict[str, jax.Array]]


@dataclass(frozen=True)
class HostSignals:
    """The signals of one step, the same on every process.

    Attributes:
      stop: whether any process was asked to stop.
      busy: (processes,) float32; seconds that each process spent on its own between two steps: waiting for data, moving it.
      video, failed: (B,) int32 of the whole batch, see `wt_jax.data.pipeline.train_batches`.
    """

    stop: bool
    busy: np.ndarray
    video: np.ndarray
    failed: np.ndarray


def make_broadcast(mesh: Mesh) -> Broadcast:
    """The function that replicates the signals of every process on all devices of `mesh`."""
    replicate = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))
    rows = NamedSharding(mesh, P(mesh.axis_names))
    local = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)

    def broadcast(batch: dict[str, jax.Array], stop: bool, busy: float) -> dict[str, jax.Array]:
        numbers = jax.make_array_from_process_local_data(rows, np.array([[stop, busy]] * local, np.float32))
        return replicate({"video": batch["video"], "failed": batch["failed"], "numbers": numbers})

    return broadcast


def read(signals: dict[str, jax.Array]) -> HostSignals:
    """What `make_broadcast`'s function replicated; waits for it."""
    values = jax.device_get(signals)
    numbers = dict(zip(_NUMBERS, values["numbers"].T, strict=True))
    # Devices are in the order of their processes, the same number each.
    busy = numbers["busy"].reshape(jax.process_count(), -1)[:, 0]
    return HostSignals(bool(numbers["stop"].any()), busy, values["video"], values["failed"])


def slow_host(busy: np.ndarray, seconds: float) -> str:
    """A log line that names the host for which the others wait, or "".

    Args:
      busy: (steps, processes) seconds of each step that each process spent on its own.
      seconds: of the whole stretch. A host is slow if its own time is a quarter of it and twice the median of the others.
    """
    if busy.size == 0 or busy.shape[1] < 2:
        return ""
    total = busy.sum(axis=0)
    slowest = int(total.argmax())
    others = float(np.median(np.delete(total, slowest)))
    if total[slowest] < 0.25 * seconds or total[slowest] < 2 * others:
        return ""
    return (
        f"process {slowest} on {host_of(slowest)} is slow: it spent {total[slowest] / seconds:.0%} of the time waiting for "
        f"data and moving it, the median of the others {others / seconds:.0%}"
    )
