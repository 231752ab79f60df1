"""What the text of a compiled program says: its collectives, custom calls and copies, in bytes per device.

The text is that of `jax.stages.Compiled.as_text()`: HLO after the partitioning over devices, so shapes are those of one device.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
      kind: one of `COLLECTIVES`.
      shape: type of the result, without layout.
      size: bytes of the whole array: what a gather has after it, a scatter before it.
      group: devices that take part.
      repeats: how often it runs in one run of the program: the product of the trip counts of the loops around it.
    """

    kind: str
    shape: str
    size: int
    group: int
    repeats: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends, by a ring (`wt_jax/train/communication.py`)."""
        rounds = {"all-reduce": 2 * (1 - 1 / self.group), "collective-permute": 1.0}.get(self.kind, 1 - 1 / self.group)
        return self.repeats * rounds * self.size


class Copy(NamedTuple):
    """An array that is written to memory a second time, `repeats` times, in another layout or place."""

    size: int
    shape: str
    repeats: int
    cause: str


class _Instruction(NamedTuple):
    computation: str
    type: str
    opcode: str
    rest: str


def collectives(text: str, devices: int) -> list[Collective]:
    """The exchanges of a program for so many devices, each once.

    A TPU's compiler divides an exchange into parts that overlap with other work; all parts have its channel.
    """
    repeats, found = _repeats(text), {}
    for number, (computation, kind, opcode, rest) in enumerate(_instructions(text)):
        name = opcode.removesuffix("-start")
        if name not in COLLECTIVES:
            continue
        started = opcode.endswith("-start") and name in ("all-gather", "collective-permute")
        result = _elements(kind)[1] if started else kind  # such a start has what goes in, then what comes out
        group = _group(rest, devices)
        size = _size(result) * (group if name == "reduce-scatter" else 1)
        channel = re.search(r"channel_id=(\d+)", rest)
        key = (name, channel[1] if channel else f"alone {number}")
        found.setdefault(key, Collective(name, _plain(result), size, group, repeats[computation]))
    return list(found.values())


def custom_calls(text: str) -> Counter[str]:
    """Targets of custom calls and how often each is called, in HLO or StableHLO."""
    return Counter(
        first or second for first, second in re.findall(r'custom_call_target="([^"]+)"|custom_call @([\w.$]+)', text)
    )


def copies(text: str, at_least: int = 2**20) -> list[Copy]:
    """Copies and transpositions of so many bytes or more that are operations of their own, the largest first."""
    repeats, fused = _repeats(text), set(re.findall(r" fusion\(.*?calls=%?([\w.-]+)", text))
    found = []
    for computation, kind, opcode, rest in _instructions(text):
        if opcode in ("copy", "transpose") and computation not in fused and _size(kind) >= at_least:
            cause = re.search(r'op_name="([^"]+)"', rest)
            found.append(Copy(_size(kind), _plain(kind), repeats[computation], cause[1] if cause else ""))
    return sorted(found, key=lambda copy: -copy.size * copy.repeats)


def _instructions(text: str) -> Iterator[_Instruction]:
    computation = ""
    for line in text.splitlines():
        if line.endswith("{") and (header := re.match(r"(?:ENTRY )?%?([\w.-]+) ", line)):
            computation = header[1]
        match = re.match(r"\s+(?:ROOT )?%?[\w.-]+ = (.*)", line)
        if not match:
            continue
        end = _end_of_type(match[1])
        opcode, _, rest = match[1][end:].strip().partition("(")
        yield _Instruction(computation, match[1][:end], opcode, rest)


def _end_of_type(text: str) -> int:
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        if letter == " " and not depth:
            return i
    return len(text)


def _elements(kind: str) -> list[str]:
    """Types in a tuple's type."""
    parts, depth = [""], 0
    for letter in kind[1:-1]:
        depth += (letter in "({[") - (letter in ")}]")
        parts[-1] += letter
        if letter == "," and not depth:
            parts[-1] = parts[-1][:-1]
            parts.append("")
    return [part.strip() for part in parts]


def _plain(kind: str) -> str:
    """A type as its arrays alone, without layouts: "f32[8,128] + s32[8]"."""
    return " + ".join(f"{dtype}[{sizes}]" for dtype, sizes in _arrays(kind))


def _arrays(kind: str) -> list[tuple[str, str]]:
    return [found for found in re.findall(r"(\w+)\[([\d,]*)\]", kind) if found[0] not in ("token", "opaque")]


def _size(kind: str) -> int:
    total = 0
    for dtype, sizes in _arrays(kind):
        bits = re.search(r"\d+", dtype)
        count = 1
        for size in filter(None, sizes.split(",")):
            count *= int(size)
        total += count * (int(bits[0]) if bits else 8) // 8
    return total


def _group(rest: str, devices: int) -> int:
    """Devices in one group: of `{{0,1},{2,3}}`, of `[2,2]<=[4]`, of `mesh['x'=2,'y'=2] {'x'}`, or all."""
    groups = rest.partition("replica_groups=")[2]
    if listed := re.match(r"\{\{([\d,]+)\}", groups):
        return listed[1].count(",") + 1
    if shaped := re.match(r"\[\d+,(\d+)\]", groups):
        return int(shaped[1])
    if meshed := re.match(r"mesh\[(.*?)\] \{(.*?)\}", groups):
        sizes = {name: int(size) for name, size in re.findall(r"('\w+')=(\d+)", meshed[1])}
        return math.prod(sizes[name] for name in meshed[2].split(","))
    return devices


def _repeats(text: str) -> Counter[str]:
    """How often each computation runs, by the trip counts of loops; one that is not known counts once."""
    callers: dict[str, tuple[str, int]] = {}
    for computation, _, opcode, rest in _instructions(text):
        count = re.search(r'known_trip_count":\{"n":"(\d+)"', rest) if opcode == "while" else None
        branches = re.search(r"branch_computations=\{([^}]*)\}", rest)
        called = re.findall(r"(?:body|calls|to_apply|computation)=%?([\w.-]+)", rest)
        for name in called + re.findall(r"[\w.-]+", branches[1] if branches else ""):
            callers[name] = computation, int(count[1]) if count else 1
    repeats: Counter[str] = Counter()
    for name in {instruction.computation for instruction in _instructions(text)}:
        times, at = 1, name
        while at in callers:
            at, count = callers[at]
            times *= count
        repeats[name] = times
    return repeats
