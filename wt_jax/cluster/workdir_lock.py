"""One run per workdir: a lock that names its holder.

The kernel's lock (flock) ends with the process, so a kill leaves nothing stale. It may not reach other hosts (gcsfuse,
some NFS): where another host wrote the lock file, that run's heartbeat is watched for a while, and the workdir is refused only
if it changes. No clocks are compared.
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
    """Lock the workdir for this process; locking it twice is fine.

    Raises:
      ConfigError: another run holds it; the message names that run.
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
        pass  # a file system without locks: only the file's content counts
    other = _read(path)
    if other.get("host", socket.gethostname()) != socket.gethostname() and _changes(heartbeat_file(workdir, 0), watch):
        os.close(handle)
        raise ConfigError(f"{workdir} is in use by {_holder(path)}; use another --workdir, or stop that run")
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "start": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(handle, 0)
    os.pwrite(handle, (json.dumps(mine) + "\n").encode(), 0)
    _held[path] = handle


def unlock_workdir(workdir: Path) -> None:
    """Unlock the workdir before the process ends."""
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


def _changes(path: Path, seconds: float) -> bool:
    """Whether the contents of a file change within some seconds."""

    def content() -> bytes:
        try:
            return path.read_bytes()
        except OSError:
            return b""

    first, end = content(), time.monotonic() + seconds
    while first and time.monotonic() < end:
        time.sleep(min(1.0, seconds / 10))
        if content() != first:
            return True
    return False
