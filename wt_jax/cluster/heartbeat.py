"""The heartbeat of each process: a file in the workdir, and every minute a log line.

It comes from a thread, so it also reports a process whose training hangs. Ages are measured on the monotonic clock.
"""

import json
import logging
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from wt_jax.cluster.processes import is_peer_error
from wt_jax.errors import PeerLost
from wt_jax.files import write_atomic

log = logging.getLogger(__name__)

INTERVAL = 10.0  # seconds between two writes of the file
_LINE_EVERY = 6  # files per log line


def heartbeat_file(workdir: Path, process: int) -> Path:
    """The file that a process writes."""
    return workdir / "heartbeats" / f"{process}.json"


class Heartbeat:
    """Writes every `INTERVAL` seconds what this process is doing; the work calls `at` when that changes."""

    def __init__(self, workdir: Path, interval: float = INTERVAL):
        self._path, self._interval = heartbeat_file(workdir, jax.process_index()), interval
        self._doing, self._step, self._since, self._beats = "starting", 0, time.monotonic(), 0
        self._start = time.monotonic()
        self._failed = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self.at("ended", self._step)
        self._write()

    def at(self, doing: str, step: int) -> None:
        """Set what is being done now, and the last finished step."""
        if (doing, step) != (self._doing, self._step):
            self._doing, self._step, self._since = doing, step, time.monotonic()

    def _run(self) -> None:
        while not self._end.wait(self._interval):
            self._beats += 1
            facts = self._write()
            if self._beats % _LINE_EVERY == 0:
                device = f", device memory {facts['device_gib']:.2f} GiB" if "device_gib" in facts else ""
                log.info(
                    "process %d on %s (pid %d): %s at step %d for %.0f s, up %.0f s, memory %.2f GiB%s",
                    *(facts[k] for k in ("process", "host", "pid", "doing", "step", "for_seconds", "up_seconds", "host_gib")),
                    device,
                )

    def _write(self) -> dict:
        now = time.monotonic()
        facts = {
            "process": jax.process_index(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "beat": self._beats,
            "doing": self._doing,
            "step": self._step,
            "for_seconds": round(now - self._since, 1),
            "up_seconds": round(now - self._start, 1),
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            **peak_memory(),
        }
        try:
            write_atomic(self._path, json.dumps(facts) + "\n")
        except OSError as error:  # which must not end the training
            if not self._failed:
                log.warning("the heartbeat cannot be written: %s", error)
            self._failed = True
        return facts


def peak_memory() -> dict[str, float]:
    """Peak memory of this process ("host_gib") and, where the backend counts it, of its fullest device ("device_gib")."""
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    found = {"host_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 3)}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    if peaks:
        found["device_gib"] = round(max(peaks) / 2**30, 3)
    return found


def silent_processes(workdir: Path) -> list[str]:
    """The processes that have ended, as 'process 1 on HOST (pid 7)'; those of other hosts are watched for an interval."""

    def read_all() -> dict[int, dict]:
        found = {}
        for process in range(jax.process_count()):
            try:
                found[process] = json.loads(heartbeat_file(workdir, process).read_text())
            except (OSError, ValueError):
                continue
        return found

    first, here = read_all(), socket.gethostname()
    ended = [p for p, facts in first.items() if facts["host"] == here and not _alive(facts["pid"])]
    if not ended and any(facts["host"] != here for facts in first.values()):
        time.sleep(1.5 * INTERVAL)
        later = read_all()
        ended = [p for p, facts in first.items() if facts["host"] != here and later.get(p, {}).get("beat") == facts["beat"]]
    return [f"process {p} on {first[p]['host']} (pid {first[p]['pid']})" for p in ended]


@contextmanager
def peer_errors(workdir: Path) -> Iterator[None]:
    """Inside, errors of the runtime that mean that another process has ended become `PeerLost`, which names the process."""
    try:
        yield
    except Exception as error:
        if not is_peer_error(error):
            raise
        names = ", ".join(silent_processes(workdir)) or "its own log has its name"
        raise PeerLost(f"a process of this run has ended ({names}): {str(error).strip().splitlines()[0]}") from error


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
