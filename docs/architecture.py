"""The picture of the layout, drawn from the imports: rooms of `wt_jax`, and arrows to what each imports.

An arrow that follows from others is left out. `tests/test_layout.py` holds that no arrow leads back.
"""

import ast
import functools
from collections.abc import Iterable
from html import escape
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "wt_jax"
# Prefix of modules -> room; the longest that fits. Rooms are drawn with the line below their name.
ROOMS = {
    **dict.fromkeys(("errors", "specs", "files", "progress", "config", "configs", "config_files"), "config, specs, errors"),
    **dict.fromkeys(("losses", "teacher", "queue"), "losses"),
    **dict.fromkeys(
        ("eval.statistics", "eval.similarity", "eval.validation_split", "eval.protocols", "eval.config"), "protocols"
    ),
    **dict.fromkeys(("main", "__main__"), "main"),
    "weights.export": "export",
    **{name: name for name in ("kernels", "ops", "models", "augment", "weights", "data", "methods", "experiment", "cluster")},
    **{name: name for name in ("train", "eval", "search", "cli", "tools", "bench")},
}
ABOUT = {
    "main": "train, evaluate",
    "bench": "measurement",
    "tools": "commands",
    "cli": "arguments, exit codes",
    "search": "index and page",
    "eval": "features, report, compare",
    "export": "weights with a card",
    "train": "loop, step, checkpoints",
    "cluster": "processes of one run",
    "experiment": "configuration to method",
    "protocols": "kNN, probes, retrieval",
    "methods": "one file per method",
    "weights": "in and out",
    "augment": "views on the device",
    "models": "encoders and heads",
    "ops": "choice by platform",
    "kernels": "oneDNN, Numba",
    "data": "videos to clips",
    "losses": "pure functions",
    "config, specs, errors": "leaves: pure data",
}
WIDTH, HEIGHT, GAP_X, GAP_Y = 168, 50, 22, 46


def room_of(module: str) -> str:
    """The room of a module of the package."""
    fits = [prefix for prefix in ROOMS if module == prefix or module.startswith(f"{prefix}.")]
    return ROOMS[max(fits, key=len)]


@functools.cache
def arrows() -> dict[str, frozenset[str]]:
    """The rooms whose modules each room imports, itself left out."""
    found: dict[str, set[str]] = {room: set() for room in dict.fromkeys(ROOMS.values())}
    files = {
        ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file
        for file in PACKAGE.rglob("*.py")
    }
    for name, file in files.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wt_jax."):
                base = node.module.removeprefix("wt_jax.")
                targets = [inner if (inner := f"{base}.{alias.name}") in files else base for alias in node.names]
                found[room_of(name)] |= {room_of(target) for target in targets} if name != "__init__" else set()
    return {room: frozenset(targets - {room}) for room, targets in found.items()}


def below(room: str) -> frozenset[str]:
    """All rooms that a room reaches."""
    return frozenset().union(arrows()[room], *(below(target) for target in arrows()[room]))


def shown(room: str) -> list[str]:
    """The arrows of a room that do not follow from others."""
    return sorted(target for target in arrows()[room] if not any(target in below(other) for other in arrows()[room] - {target}))


@functools.cache
def level(room: str) -> int:
    """Rows between a room and the lowest one."""
    return max((1 + level(target) for target in arrows()[room]), default=0)


def draw() -> str:
    """The picture as SVG, with colors of its own and no font from elsewhere."""
    rows: dict[int, list[str]] = {}
    for room in arrows():
        rows.setdefault(level(room), []).append(room)
    places = _places(rows)
    width = max(x for x, _ in places.values()) + WIDTH + GAP_X
    height = max(y for _, y in places.values()) + HEIGHT + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" font-family="sans-serif">',
        "<title>Rooms of wt_jax and what each imports</title>",
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#ffffff"/>',
    ]
    for room, (x, y) in places.items():
        for target in shown(room):
            to_x, to_y = places[target]
            from_x, from_y, to_x, bend = x + WIDTH / 2, y + HEIGHT, to_x + WIDTH / 2, GAP_Y * 0.8
            points = ((from_x, from_y), (from_x, from_y + bend), (to_x, to_y - bend), (to_x, to_y))
            start, *others = (f"{px:.0f} {py:.0f}" for px, py in points)
            parts.append(f'<path d="M{start} C{" ".join(others)}" fill="none" stroke="#7a8699" stroke-width="1.4"/>')
            parts.append(f'<circle cx="{to_x:.0f}" cy="{to_y:.0f}" r="3" fill="#7a8699"/>')
    for room, (x, y) in places.items():
        middle = x + WIDTH / 2
        parts.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#eaf1fb" stroke="#2f5d9b"/>'
            f'<text x="{middle:.0f}" y="{y + 21:.0f}" text-anchor="middle" font-size="14" font-weight="bold" fill="#16325c">'
            f'{escape(room)}</text><text x="{middle:.0f}" y="{y + 39:.0f}" text-anchor="middle" font-size="12" fill="#33415c">'
            f"{escape(ABOUT[room])}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def _places(rows: dict[int, list[str]]) -> dict[str, tuple[float, float]]:
    """Left upper corners: the highest level on top, each row in the order of what its rooms are imported by."""
    most, top = max(map(len, rows.values())), max(rows)
    places: dict[str, tuple[float, float]] = {}
    for number in sorted(rows, reverse=True):
        ordered = sorted(
            rows[number], key=lambda room: (_mean(x for other, (x, _) in places.items() if room in shown(other)), room)
        )
        left = GAP_X + (most - len(ordered)) * (WIDTH + GAP_X) / 2
        for index, room in enumerate(ordered):
            places[room] = (left + index * (WIDTH + GAP_X), 12 + (top - number) * (HEIGHT + GAP_Y))
    return places


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0
