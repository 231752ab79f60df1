"""Several processes as one run: how they find each other, who writes, barriers, and how one of them exits.

Flags say which process this is, or JAX's own detection does (Cloud TPU, GKE, Slurm, Open MPI). JAX ends a process that waits
in vain without naming the missing ones, so a registration comes first: each process sends its name to process 0 on the
coordinator's port, and all learn who is present and who is missing. Then JAX takes the port.
"""

import collections
import json
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax._src.clusters import ClusterEnv  # jax.distributed hides what it detects, and registration needs it
from jax._src.distributed import global_state  # nor does it offer a barrier that does not use the devices

from wt_jax.errors import ClusterError

HEARTBEAT_SECONDS = 60  # a process that is silent for so long counts as dead for all others
_MESSAGE_BYTES = 2000  # of an error that the primary process sends to the others
# In the runtime's errors when a collective loses its partner. A fault of this process's own device has none of them.
_LOST = re.compile(r"\b(UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED)\b|(?i:gloo|nccl|connection|barrier|peer)")

_hosts: list[str] = [socket.gethostname()]
_barriers: collections.Counter[str] = collections.Counter()


def initialize(coordinator: str = "", num_processes: int = 0, process_id: int = -1, timeout: float = 300.0) -> None:
    """Make this process one of several, if the arguments or the environment say so; call it before any device is touched.

    Args:
      coordinator: host:port at which process 0 listens; "": as detected.
      num_processes: how many processes there are; 0: as detected; 1: alone, whatever is detected.
      process_id: this process, in [0, num_processes); -1: as detected.
      timeout: seconds to wait for the others.

    Raises:
      ClusterError: only some of the three arguments are known, or processes are missing (they are named).
    """
    if num_processes == 1:
        return
    given = (coordinator or None, num_processes or None, process_id if process_id >= 0 else None, None, None, int(timeout))
    try:
        address, count, index, local = ClusterEnv.auto_detect_unset_distributed_params(*given)
    except Exception as error:  # asks environment variables and metadata servers, which fail in many ways
        raise ClusterError(f"the cluster around this process cannot be read ({error}); give --coordinator, ...") from error
    if (address is None and count is None and index is None) or count == 1:
        return
    if address is None or count is None or index is None:
        known = {"--coordinator": address, "--num_processes": count, "--process_id": index}
        raise ClusterError(f"{' and '.join(k for k, v in known.items() if v is None)} must be given too, or none of the three")
    if not 0 <= index < count:
        raise ClusterError(f"--process_id {index} is not in [0, {count})")
    deadline = time.monotonic() + timeout
    _hosts[:] = _register(address, count, index, deadline)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its C++ handler of SIGTERM would replace ours, which agrees on the step at which all save.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        address,
        count,
        index,
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
    """The name of the host that a process runs on, as the process registered it."""
    return _hosts[process] if process < len(_hosts) else "?"


def run_on_primary(action: Callable[[], None], error: type[Exception], timeout: float = 0.0) -> None:
    """Call a function on the primary process; where it raises `error`, all processes raise it with its message.

    The others wait for it at most `timeout` seconds; 0: it takes less than half a minute.
    """
    message = ""
    if is_primary_process():
        try:
            action()
        except error as fault:
            message = str(fault)
            if jax.process_count() == 1:
                raise
    if jax.process_count() > 1:
        if timeout:
            barrier("primary process", timeout)
        text = np.zeros(_MESSAGE_BYTES, np.uint8)
        data = message.encode()[:_MESSAGE_BYTES]
        text[: len(data)] = np.frombuffer(data, np.uint8)
        message = broadcast_from_primary(text).tobytes().rstrip(b"\0").decode(errors="replace")
        if message:
            raise error(message)


def broadcast_from_primary(value: np.ndarray) -> np.ndarray:
    """The primary process's value, on every process."""
    if jax.process_count() == 1:
        return value
    from jax.experimental.multihost_utils import broadcast_one_to_all

    return np.asarray(broadcast_one_to_all(value))


def barrier(name: str, timeout: float = 3600.0) -> None:
    """Wait until all processes have called this with the same name, for instance after a compilation that takes some longer.

    It uses the coordinator, not the devices: gloo fails when a partner is 30 s late.
    """
    if jax.process_count() > 1:
        _barriers[name] += 1
        assert global_state.client is not None  # there is one where there are several processes
        global_state.client.wait_at_barrier(f"{name} {_barriers[name]}", int(1000 * timeout))


def is_peer_error(error: BaseException | None) -> bool:
    """Whether an error of the runtime means that another process has ended."""
    runtime = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
    return jax.process_count() > 1 and runtime and bool(_LOST.search(str(error)[:200]))


@contextmanager
def exit_at_once() -> Iterator[None]:
    """Around the work of a process: among several, an error or `sys.exit` in it ends the process without JAX's wait at exit.

    JAX waits there for processes that may never come, while those wait for this one.
    """
    try:
        yield
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)


def _register(address: str, count: int, index: int, deadline: float) -> list[str]:
    """The host names of all processes, once all are present."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ClusterError(f"--coordinator {address!r} must be HOST:PORT")
    if index:
        return _register_with_primary(host.strip("[]"), int(port), count, index, deadline)
    try:
        server = socket.create_server(("", int(port)), backlog=count)
    except OSError as error:
        raise ClusterError(f"process 0 cannot listen on port {port} ({error.strerror}); choose another port") from None
    hosts = {0: socket.gethostname()}
    connections: dict[int, socket.socket] = {}
    fault = ""
    with server:
        while len(hosts) < count and not fault and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                connection, _ = server.accept()
                connection.settimeout(5)
                hello = json.loads(connection.makefile().readline())
            except (TimeoutError, ValueError, ConnectionError):
                continue  # another program's connection, or none
            process, name = hello["process"], hello["host"]
            if hello["of"] != count:
                fault = f"process {process} on {name} expects {hello['of']} processes, process 0 {count}"
            elif process in connections and _is_open(connections[process]):
                fault = f"two processes have the index {process}, on {hosts[process]} and on {name}"
            hosts[process], connections[process] = name, connection
        missing = sorted(set(range(count)) - set(hosts))
        if missing and not fault:
            present = ", ".join(f"{p} on {hosts[p]}" for p in sorted(hosts))
            many = "es" if len(missing) > 1 else ""
            fault = f"process{many} {', '.join(map(str, missing))} of {count} did not connect in time; there are {present}"
        answer = json.dumps({"fault": fault, "hosts": [hosts.get(p, "?") for p in range(count)]}) + "\n"
        for connection in connections.values():
            with connection:
                try:
                    connection.sendall(answer.encode())
                except OSError:
                    continue
    if fault:
        raise ClusterError(fault)
    return [hosts[p] for p in range(count)]


def _register_with_primary(host: str, port: int, count: int, index: int, deadline: float) -> list[str]:
    cause = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=min(left, 10)) as connection:
                hello = {"process": index, "of": count, "host": socket.gethostname()}
                connection.sendall((json.dumps(hello) + "\n").encode())
                connection.settimeout(left + 5)  # process 0 answers at the deadline who is missing
                answer = json.loads(connection.makefile().readline())
        except (OSError, ValueError) as error:
            cause = str(error)
            time.sleep(0.2)
            continue
        if answer["fault"]:
            raise ClusterError(answer["fault"])
        return answer["hosts"]
    raise ClusterError(f"process 0 cannot be reached at {host}:{port} ({cause}); process {index} of {count} gives up")


def _is_open(connection: socket.socket) -> bool:
    """Whether the other end of a connection is open."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        connection.settimeout(5)
