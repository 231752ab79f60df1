"""How much memory a process and its workers hold (Linux)."""

from pathlib import Path


def memory_of(pid: int) -> float:
    """MiB held by a process and all below it, shared pages counted once; 0 where /proc does not tell."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(place.name))
    total, left = 0, [pid]
    while left:
        current = left.pop()
        left += children.get(current, [])
        try:
            rows = Path(f"/proc/{current}/smaps_rollup").read_text().splitlines()
            total += sum(int(row.split()[1]) for row in rows if row.startswith("Pss:"))
        except OSError:
            continue
    return total / 1024


def peak_of_self() -> float:
    """The most MiB that this process has held; 0 where /proc does not tell. (`getrusage` counts what it was forked from.)"""
    status = Path("/proc/self/status")
    rows = status.read_text().splitlines() if status.exists() else []
    return sum(int(row.split()[1]) for row in rows if row.startswith("VmHWM:")) / 1024
