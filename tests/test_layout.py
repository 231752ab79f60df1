"""The layout: imports point down a list of rooms, modules import each other in no circle, the CPU runtime has one door."""

import ast
import functools
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "wt_jax"
# From the leaves up; the longest name that fits a module is its place. A module imports its own place and those before it.
ORDER = (
    *("errors", "specs", "files", "progress", "teacher", "queue", "config", "configs", "config_files"),
    *("losses", "kernels", "ops", "models", "augment", "weights", "data", "methods"),
    *("eval.statistics", "eval.similarity", "eval.validation_split", "eval.protocols", "eval.config"),
    *("experiment", "cluster", "train", "weights.export", "eval", "search", "cli", "tools", "bench", "main", "__main__"),
)


@functools.cache
def modules() -> dict[str, str]:
    """Names of the package's modules, without the package's, and their texts."""
    names = {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): file.read_text() for name, file in names.items() if name != "__init__"}


@functools.cache
def imports() -> dict[str, set[str]]:
    """The package's modules that each module imports, anywhere in it."""
    found = {}
    for name, text in modules().items():
        targets = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = {f"{node.module}.{alias.name}".removeprefix("wt_jax.") for alias in node.names}
                targets |= names if names <= set(modules()) else {node.module}
        inside = {target.removeprefix("wt_jax.") for target in targets}
        found[name] = (inside & set(modules())) - {name}
    return found


def place(module: str) -> int:
    fits = [room for room in ORDER if module == room or module.startswith(f"{room}.")]
    assert fits, f"{module} is in no room of the order"
    return ORDER.index(max(fits, key=len))


def test_imports_point_down():
    upward = {
        f"{module} -> {target}" for module, targets in imports().items() for target in targets if place(target) > place(module)
    }
    assert not upward


def test_modules_import_each_other_in_no_circle():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in imports()[module]:
                visit(target, (*path, module))
            done.add(module)

    for module in modules():
        visit(module, ())


def test_the_cpu_runtime_is_behind_its_operations():
    doors = ("kernels", "ops", "data.video", "bench")
    for module, targets in imports().items():
        if not module.startswith(doors):
            assert not [target for target in targets if target.startswith("kernels")], module
            assert not re.search("onednn|numba", modules()[module], re.IGNORECASE), module
