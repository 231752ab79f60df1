"""One run per workdir: a lock that names its holder.

The kernel's lock (flock) goes with the process, so nothing stale is left by a kill. It may not reach other hosts (gcsfuse,
some NFS): a lock file that another host wrote is therefore watched for a while, and refused only if that run's heartbeat
moves. No clock is compared.
"""

import fcntl
import json
import os
import socket
import time
from pathlib import Path

from wt_jax.cluster.heartbeat import INTERVAL, heartbeat_file
from wt_jax.errors import ConfigError

_held: dict[Path, int] = {}  # open to the end of the process


def lock_workdir(workdir: Path, watch: float = 2.5 * INTERVAL) -> None:
    """Take the workdir for this process; taking it twice is fine.

    Raises:
      ConfigError: another run has it; the message says which.
    """
    path = workdir.resolve() / "lock"
    if path in _held:
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ConfigError(f"{workdir} is in use by {_holder(path)}; use another --workdir, or stop that run") from None
    except OSError:
        pass  # a file system without locks: what the file says is all there is
    other = _read(path)
    if other.get("host", socket.gethostname()) != socket.gethostname() and _moves(heartbeat_file(workdir, 0), watch):
        os.close(handle)
        raise ConfigError(f"{workdir} is in use by {_holder(path)}; use another --workdir, or stop that run")
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "start": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(handle, 0)
    os.pwrite(handle, (json.dumps(mine) + "\n").encode(), 0)
    _held[path] = handle


def unlock_workdir(workdir: Path) -> None:
    """Give the workdir back before the process ends."""
    handle = _held.pop(workdir.resolve() / "lock", None)
    if handle is not None:
        os.ftruncate(handle, 0)
        os.close(handle)


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _holder(path: Path) -> str:
    other = _read(path)
    if not other:
        return "another run"
    return f"the run with pid {other['pid']} on {other['host']}, started {other['start']}"


def _moves(path: Path, seconds: float) -> bool:
    """Whether the contents of a file change within some seconds."""

    def look() -> bytes:
        try:
            return path.read_bytes()
        except OSError:
            return b""

    first, end = look(), time.monotonic() + seconds
    while first and time.monotonic() < end:
        time.sleep(min(1.0, seconds / 10))
        if look() != first:
            return True
    return False
