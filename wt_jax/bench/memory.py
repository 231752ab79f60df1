"""How much memory a process and its workers hold (Linux)."""

from pathlib import Path


def memory_of(pid: int) -> float:
    """MiB held by a process and all below it, shared pages counted once; 0 without /proc."""
    return sum(_kilobytes(f"/proc/{each}/smaps_rollup", "Pss:") for each in _all_of(pid)) / 1024


def peak_of(pid: int) -> float:
    """The most MiB that a process and all below it may have held: what they hold, and how much more each has held by itself,
    be it at another time than the others.

    Processes that have ended do not count; 0 without /proc.
    """
    beyond = 0
    for each in _all_of(pid):
        # The lesser first: a process that grows meanwhile must not seem to have held less than it does.
        now = _kilobytes(f"/proc/{each}/status", "VmRSS:")
        beyond += max(_kilobytes(f"/proc/{each}/status", "VmHWM:") - now, 0)
    held = memory_of(pid)
    return held and held + beyond / 1024


def peak_of_self() -> float:
    """The most MiB that this process has held; 0 without /proc. (`getrusage` includes the process it was forked from.)"""
    return _kilobytes("/proc/self/status", "VmHWM:") / 1024


def _all_of(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(place.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _kilobytes(path: str, name: str) -> int:
    """A number of a file of /proc; 0 where it is not there."""
    try:
        rows = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return sum(int(row.split()[1]) for row in rows if row.startswith(name))
