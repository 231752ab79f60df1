"""Clones of other projects: which commit they are of, and their modules, run as they are in one process on a CPU."""

import ast
import builtins
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import shlex
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # of an extra
import torch.distributed as dist  # pyright: ignore[reportMissingImports]  # of an extra
import yaml

from wt_jax.errors import UserError


class NoSourceError(UserError):
    """A clone or a file of it is not there."""


class _StandIn(types.ModuleType):
    """A package that a module imports and the comparison never uses: it has every name, and as a decorator changes nothing."""

    __path__ = []  # noqa: RUF012  # the import system asks for it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(name)

    def __call__(self, *arguments: Any, **_: Any) -> Any:
        decorated = len(arguments) == 1 and isinstance(arguments[0], type | types.FunctionType)
        return arguments[0] if decorated else self

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return ()


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stand-ins for the named modules and all below them."""

    def __init__(self, names: Sequence[str]):
        self._names = names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        below = any(f"{fullname}.".startswith(f"{name}.") for name in self._names)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if below else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _Bare(importlib.abc.MetaPathFinder):
    """Finds the named packages without running their `__init__`, which would import the whole project."""

    def __init__(self, folder: Path, names: Sequence[str]):
        self._folder, self._names = folder, names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._names:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [str(self._folder / fullname.replace(".", "/"))]
        return spec


_KEPT = []  # a library that is dropped takes its operators with it


def declare_operators() -> None:
    """Two operators that a torchvision built for GPUs asks of a torch built for CPUs when it is imported; none is called."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms(Tensor a) -> Tensor", "qnms(Tensor a) -> Tensor"):
            library.define(operator)
        _KEPT.append(library)


@contextlib.contextmanager
def _stand_ins(folder: Path) -> Iterator[None]:
    """What files of a folder import and cannot be imported is replaced by stand-ins; installed packages do without theirs."""
    original = builtins.__import__

    def lenient(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        try:
            return original(name, globals, locals, fromlist, level)
        except ImportError:
            if level or not str((globals or {}).get("__file__")).startswith(str(folder)):
                raise
            parts = name.split(".")
            for place in (".".join(parts[: i + 1]) for i in range(len(parts))):
                sys.modules.setdefault(place, _StandIn(place))
            return original(name, globals, locals, fromlist, level)

    builtins.__import__ = lenient
    try:
        yield
    finally:
        builtins.__import__ = original


class Sources:
    """A folder of clones, by the names that its callers know them by."""

    def __init__(self, folder: Path):
        self.folder = folder

    def file(self, clone: str, name: str = "") -> Path:
        """A file of a clone.

        Raises:
          NoSourceError: it is not there.
        """
        path = self.folder / clone / name
        if not path.exists():
            raise NoSourceError(f"{path} is not there; clone the project into {self.folder / clone}")
        return path

    def commit(self, clone: str) -> str:
        """The commit of a clone, 7 digits; "unknown" of a folder without one."""
        folder = self.file(clone)
        if not (folder / ".git").exists():
            return "unknown"
        command = ["git", "-C", str(folder), "rev-parse", "--short=7", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        return found.stdout.strip()[:7] or "unknown"

    def load(self, clone: str, name: str, *, below: str = "", bare: Sequence[str] = (), absent: Sequence[str] = ()) -> Any:
        """A module of a clone, imported as it is; no other import sees it or what it imports.

        What is not installed is replaced by stand-ins.

        Args:
          clone: the project.
          name: of the module, from the folder that its code expects on the path.
          below: that folder, in the clone.
          bare: packages whose `__init__` is not run.
          absent: modules that are stand-ins although they are there, since importing them would take the whole project.
        """
        folder = self.file(clone, below)
        declare_operators()
        finders = ([_Absent(absent)] if absent else []) + ([_Bare(folder, bare)] if bare else [])
        before, argv, path = set(sys.modules), sys.argv, list(sys.path)
        sys.path.insert(0, str(folder))
        sys.meta_path[:0] = finders
        sys.argv = [name]  # some parse their flags where they are imported
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(None), _stand_ins(self.folder):
                warnings.simplefilter("ignore")
                return importlib.import_module(name)
        finally:
            sys.argv, sys.path[:] = argv, path
            for finder in finders:
                sys.meta_path.remove(finder)
            for other in [other for other in set(sys.modules) - before if self._is_of_clones(sys.modules[other])]:
                del sys.modules[other]

    def _is_of_clones(self, module: types.ModuleType) -> bool:
        """Whether a module is of a clone or a stand-in."""
        places = [getattr(module, "__file__", None) or "", *map(str, getattr(module, "__path__", ()))]
        return isinstance(module, _StandIn) or any(place.startswith(str(self.folder)) for place in places)


def class_of(file: Path, name: str, names: dict[str, Any]) -> Any:
    """One class of a script, without what the script imports and does; `names` are what the class refers to."""
    text = file.read_text()
    start = text.index(f"class {name}(")
    rest = re.search(r"\n(?=class |def )", text[start + 1 :])
    space = dict(names)
    exec(compile(text[start : start + 1 + rest.start() if rest else None], str(file), "exec"), space)
    return space[name]


@contextlib.contextmanager
def one_process() -> Iterator[list[float]]:
    """PyTorch as if there were a GPU and a group of one process; yields the losses whose gradient is asked for.

    `.cuda()` returns what it is called on, mixed precision is off, warnings and standard output are dropped.
    """
    losses: list[float] = []
    backward = torch.Tensor.backward

    def recorded(tensor: torch.Tensor, *arguments: Any, **options: Any) -> None:
        losses.append(float(tensor.detach()))
        backward(tensor, *arguments, **options)

    class Scaler:
        """Scales nothing."""

        def __init__(self, *_: Any, **__: Any):
            pass

        def scale(self, loss: torch.Tensor) -> torch.Tensor:
            return loss

        def step(self, optimizer: Any) -> None:
            optimizer.step()

        def update(self) -> None:
            pass

    make = torch.tensor

    def on_cpu(*arguments: Any, **options: Any) -> torch.Tensor:
        return make(*arguments, **{name: value for name, value in options.items() if name != "device"})

    changed = {
        (torch, "tensor"): on_cpu,
        (torch.Tensor, "cuda"): lambda tensor, *_, **__: tensor,
        (torch.nn.Module, "cuda"): lambda module, *_, **__: module,
        (torch.Tensor, "backward"): recorded,
        (torch.cuda, "synchronize"): lambda *_: None,
        (torch.cuda.amp, "autocast"): lambda *_, **__: contextlib.nullcontext(),
        (torch.cuda.amp, "GradScaler"): Scaler,
    }
    kept = {(place, name): getattr(place, name) for place, name in changed}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]  # it is documented
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for (place, name), value in changed.items():
            setattr(place, name, value)
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield losses
    finally:
        for (place, name), value in kept.items():
            setattr(place, name, value)
        dist.destroy_process_group()
        torch.set_num_threads(threads)


class NoOptimizer:
    """An optimizer that changes nothing, for functions that do a whole step."""

    param_groups = ({"lr": 0.0, "weight_decay": 0.0, "lr_scale": 1.0},)

    @property
    def optim(self) -> "NoOptimizer":
        """Of a wrapped optimizer."""
        return self

    def zero_grad(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def step(self, *_: Any, **__: Any) -> None:
        """Nothing."""


class Linear(torch.nn.Module):
    """A network: inputs (B, D) by a fixed matrix, or as they are; in the place of an encoder and a head of any kind."""

    def __init__(self, matrix: np.ndarray | None = None):
        super().__init__()
        self.matrix = None if matrix is None else torch.tensor(matrix)

    def forward(self, x: Any) -> torch.Tensor:
        """A path of several is a list of one."""
        x = x[0] if isinstance(x, list) else x
        return x if self.matrix is None else x @ self.matrix


def leaf(array: np.ndarray) -> torch.Tensor:
    """A tensor that receives a gradient."""
    return torch.tensor(array, requires_grad=True)


def gradient(tensor: torch.Tensor) -> np.ndarray:
    """What a leaf received."""
    return np.zeros(tensor.shape, np.float32) if tensor.grad is None else tensor.grad.numpy()


@contextlib.contextmanager
def command_line(text: str = "", *words: str) -> Iterator[None]:
    """A project's parser reads this: the flags after `.py` of the first command in `text` that has all `words`."""
    lines = text.replace("\\\n", " ").split("\n")
    line = next((line for line in lines if ".py" in line and all(word in line for word in words)), "")
    argv, sys.argv = sys.argv, ["command", *shlex.split(line.partition(".py")[2])]
    try:
        yield
    finally:
        sys.argv = argv


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file; numbers that YAML 1.1 takes for text ("1e-6") are numbers, as these projects read them."""

    def read(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: read(part) for name, part in value.items()}
        if isinstance(value, str):
            with contextlib.suppress(ValueError, SyntaxError):
                return ast.literal_eval(value)
        return value

    return read(yaml.safe_load(file.read_text()))
