"""Several processes as one run: the roll call before any device is touched, and what the chief does for all.

Where a process belongs is told by flags or found by jax's own detection (Cloud TPU, GKE, Slurm, Open MPI). jax ends a
process that waits in vain without saying for whom, so the roll call comes first: each process says its name to process 0
on the coordinator's port, and all learn who is there and who is missing. Then the port is jax's.
"""

import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from typing import NoReturn

import jax
import numpy as np
from jax._src.clusters import ClusterEnv  # jax.distributed hides what it detects, and the roll call needs it
from jax._src.distributed import global_state  # nor does it offer a barrier that leaves the devices alone

from wt_jax.errors import ClusterError

HEARTBEAT_SECONDS = 60  # a process that is silent for so long is taken for dead by all others
_MESSAGE = 2000  # bytes of an error that the chief tells the others
# What the runtime says when a collective loses its partner. A fault of this process's own device is not among them.
_LOST = re.compile(r"\b(UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED)\b|(?i:gloo|nccl|connection|barrier|peer)")

_hosts: list[str] = [socket.gethostname()]


class PeerLost(RuntimeError):
    """Another process of the run has gone. Nothing is wrong here: the run can be started again."""


def join(coordinator: str = "", num_processes: int = 0, process_id: int = -1, timeout: float = 300.0) -> None:
    """Make this process one of several, if the arguments or the surroundings say so; call it before any device is touched.

    Args:
      coordinator: host:port at which process 0 listens; "": as detected.
      num_processes: how many processes there are; 0: as detected; 1: alone, whatever is detected.
      process_id: this process, in [0, num_processes); -1: as detected.
      timeout: seconds to wait for the others.

    Raises:
      ClusterError: the place of this process is told in part only, or processes are missing (they are named).
    """
    if num_processes == 1:
        return
    given = (coordinator or None, num_processes or None, process_id if process_id >= 0 else None, None, None, int(timeout))
    try:
        address, count, place, local = ClusterEnv.auto_detect_unset_distributed_params(*given)
    except Exception as error:  # asks environment variables and metadata servers; whatever fails is told
        raise ClusterError(f"the cluster around this process cannot be read ({error}); give --coordinator, ...") from error
    if (address is None and count is None and place is None) or count == 1:
        return
    if address is None or count is None or place is None:
        known = {"--coordinator": address, "--num_processes": count, "--process_id": place}
        raise ClusterError(f"{' and '.join(k for k, v in known.items() if v is None)} must be given too, or none of the three")
    if not 0 <= place < count:
        raise ClusterError(f"--process_id {place} is not in [0, {count})")
    deadline = time.monotonic() + timeout
    _hosts[:] = _call_the_roll(address, count, place, deadline)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its C++ handler of SIGTERM would replace ours, which agrees on the step at which all save.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        address,
        count,
        place,
        local_device_ids=local,
        cluster_detection_method="deactivate",
        initialization_timeout=max(10, int(deadline - time.monotonic())),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=HEARTBEAT_SECONDS,
    )


def is_primary_process() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def host_of(process: int) -> str:
    """The name of the host that a process runs on, as it gave it at the roll call."""
    return _hosts[process] if process < len(_hosts) else "?"


def by_chief(action: Callable[[], None], error: type[Exception]) -> None:
    """Let process 0 do something; where it raises `error`, all processes raise it with its message."""
    message = ""
    if is_primary_process():
        try:
            action()
        except error as fault:
            message = str(fault)
            if jax.process_count() == 1:
                raise
    if jax.process_count() > 1:
        text = np.zeros(_MESSAGE, np.uint8)
        data = message.encode()[:_MESSAGE]
        text[: len(data)] = np.frombuffer(data, np.uint8)
        message = from_chief(text).tobytes().rstrip(b"\0").decode(errors="replace")
        if message:
            raise error(message)


def from_chief(value: np.ndarray) -> np.ndarray:
    """Process 0's value, on every process."""
    if jax.process_count() == 1:
        return value
    from jax.experimental.multihost_utils import broadcast_one_to_all

    return np.asarray(broadcast_one_to_all(value))


def meet(place: str, timeout: float = 3600.0) -> None:
    """Wait until all processes have come to this place, for instance after a compilation that takes some of them longer.

    Over the coordinator, not the devices: gloo gives up on a partner that is 30 s late.
    """
    if jax.process_count() > 1:
        global_state.client.wait_at_barrier(place, int(1000 * timeout))


def lost_peer(error: BaseException | None) -> bool:
    """Whether an error of the runtime means that another process is not there any more."""
    runtime = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
    return jax.process_count() > 1 and runtime and bool(_LOST.search(str(error)[:200]))


def leave(code: int) -> NoReturn:
    """End this process at once: among several, jax would wait at exit for processes that may never come."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _call_the_roll(address: str, count: int, place: int, deadline: float) -> list[str]:
    """The host names of all processes, once all are there."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ClusterError(f"--coordinator {address!r} must be HOST:PORT")
    if place:
        return _answer_the_roll(host.strip("[]"), int(port), count, place, deadline)
    try:
        server = socket.create_server(("", int(port)), backlog=count)
    except OSError as error:
        raise ClusterError(f"process 0 cannot listen on port {port} ({error.strerror}); choose another port") from None
    hosts = {0: socket.gethostname()}
    lines: dict[int, socket.socket] = {}
    fault = ""
    with server:
        while len(hosts) < count and not fault and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                line, _ = server.accept()
                line.settimeout(5)
                said = json.loads(line.makefile().readline())
            except (TimeoutError, ValueError, ConnectionError):
                continue  # not one of ours, or nobody
            if said["of"] != count:
                fault = f"process {said['process']} on {said['host']} expects {said['of']} processes, process 0 {count}"
            elif said["process"] in hosts and said["process"] in lines and _still_there(lines[said["process"]]):
                places = f"on {hosts[said['process']]} and on {said['host']}"
                fault = f"two processes say that they are process {said['process']}, {places}"
            hosts[said["process"]], lines[said["process"]] = said["host"], line
        missing = sorted(set(range(count)) - set(hosts))
        if missing and not fault:
            present = ", ".join(f"{p} on {hosts[p]}" for p in sorted(hosts))
            many = "es" if len(missing) > 1 else ""
            fault = f"process{many} {', '.join(map(str, missing))} of {count} did not come in time; there are {present}"
        answer = json.dumps({"fault": fault, "hosts": [hosts.get(p, "?") for p in range(count)]}) + "\n"
        for line in lines.values():
            with line:
                try:
                    line.sendall(answer.encode())
                except OSError:
                    continue
    if fault:
        raise ClusterError(fault)
    return [hosts[p] for p in range(count)]


def _answer_the_roll(host: str, port: int, count: int, place: int, deadline: float) -> list[str]:
    cause = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=min(left, 10)) as line:
                said = {"process": place, "of": count, "host": socket.gethostname()}
                line.sendall((json.dumps(said) + "\n").encode())
                line.settimeout(left + 5)  # process 0 says at the deadline who is missing
                answer = json.loads(line.makefile().readline())
        except (OSError, ValueError) as error:
            cause = str(error)
            time.sleep(0.2)
            continue
        if answer["fault"]:
            raise ClusterError(answer["fault"])
        return answer["hosts"]
    raise ClusterError(f"process 0 cannot be reached at {host}:{port} ({cause}); process {place} of {count} gives up")


def _still_there(line: socket.socket) -> bool:
    """Whether the other end of a connection is open."""
    line.setblocking(False)
    try:
        return line.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        line.settimeout(5)
