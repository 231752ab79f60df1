"""The language of the tables: for each tensor of ours a row that says which tensor of theirs it is, and in which layout.

`"stage{s}_block{b}/conv{c}/conv"` and `"layer{s}.{b-1}.conv{c}.0"` are one row for all blocks: `{b}` is any part of a
name, the same on both sides, and `{b-1}` the number before it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from wt_jax.errors import WeightsError


class Row(NamedTuple):
    """A tensor of ours, the tensor of theirs that it comes from, and the change of layout."""

    ours: str
    theirs: str
    layout: Callable[[np.ndarray], np.ndarray]


def _same(array: np.ndarray) -> np.ndarray:
    return array


def conv(ours: str, theirs: str) -> list[Row]:
    """A convolution without bias: OIDHW to DHWIO."""
    return [Row(f"params/{ours}/kernel", f"{theirs}.weight", lambda w: w.transpose(2, 3, 4, 1, 0))]


def layer_norm(ours: str, theirs: str) -> list[Row]:
    """A norm without statistics."""
    return [Row(f"params/{ours}/scale", f"{theirs}.weight", _same), Row(f"params/{ours}/bias", f"{theirs}.bias", _same)]


def batch_norm(ours: str, theirs: str) -> list[Row]:
    """A norm with running statistics; PyTorch's counter of batches is dropped."""
    mean = Row(f"batch_stats/{ours}/mean", f"{theirs}.running_mean", _same)
    return [*layer_norm(ours, theirs), mean, Row(f"batch_stats/{ours}/var", f"{theirs}.running_var", _same)]


def dense(ours: str, theirs: str) -> list[Row]:
    """A linear map with bias: (out, in) to (in, out)."""
    return [kernel(ours, theirs), bias(ours, f"{theirs}.bias")]


def kernel(ours: str, theirs: str) -> Row:
    """The kernel alone."""
    return Row(f"params/{ours}/kernel", f"{theirs}.weight", lambda w: w.transpose(1, 0))


def bias(ours: str, theirs: str) -> Row:
    """A bias, by its full name."""
    return Row(f"params/{ours}/bias", theirs, _same)


def tubelets(theirs: str, *, has_bias: bool = True) -> list[Row]:
    """A convolution whose windows do not overlap is a linear map: (C, 3[, t], h, w) to (t h w 3, C)."""

    def layout(weight: np.ndarray) -> np.ndarray:
        return np.moveaxis(weight, 1, -1).reshape(len(weight), -1).T

    rows = [Row("params/tubelets/dense/kernel", f"{theirs}.weight", layout)]
    return [*rows, bias("tubelets/dense", f"{theirs}.bias")] if has_bias else rows


def table(ours: str, theirs: str) -> Row:
    """A table (rows, C), of which theirs has more axes of size 1, or fewer."""
    return Row(f"params/tubelets/{ours}", theirs, lambda w: w.reshape(-1, w.shape[-1]))


def stacked(ours: str, weight: str, offset: str, *, key_bias: bool = False) -> list[Row]:
    """Query, key and value in one matrix (3 C, C) and one bias (3 C,); where keys have no bias of ours, theirs is left out."""

    def part(index: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda array: array.reshape(3, -1, *array.shape[1:])[index].T

    names = ("query", "key", "value")
    kernels = [Row(f"params/{ours}/{name}/kernel", weight, part(index)) for index, name in enumerate(names)]
    biases = [Row(f"params/{ours}/{name}/bias", offset, part(index)) for index, name in enumerate(names)]
    return [*kernels, *(row for row, name in zip(biases, names, strict=True) if key_bias or name != "key")]


def separate(ours: str, query: str, key: str, value: str, *, key_bias: bool = False) -> list[Row]:
    """Query, key and value as linear maps of their own; a bias of keys that we do not have is to be dropped."""
    rows = [*dense(f"{ours}/query", query), *dense(f"{ours}/value", value), kernel(f"{ours}/key", key)]
    return [*rows, bias(f"{ours}/key", f"{key}.bias")] if key_bias else rows


# Where keys are not turned, a bias of theirs adds the same number to a whole row of logits: it changes no attention weight.
KEY_BIASES = "biases of keys, which change nothing"


def unwrapped(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors without the parts of names that PyTorch's wrappers put in: of compiled, parallel and checkpointed modules."""
    names = {name: _WRAPPERS.sub("", name) for name in state}
    if len(set(names.values())) < len(names):  # Both a module and its wrapper are there.
        return dict(state)
    return {names[name]: array for name, array in state.items()}


def find_row(rows: Iterable[Row], ours: str) -> tuple[Row, str]:
    """The row of a tensor of ours and the name of theirs; KeyError for one that the table forgot."""
    for row in rows:
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/_]+)", re.escape(row.ours))
        if match := re.fullmatch(pattern, ours):
            return row, _filled(row.theirs, match.groupdict())
    raise KeyError(f"no row for {ours}")


def _filled(template: str, parts: Mapping[str, str]) -> str:
    def value(match: re.Match) -> str:
        return str(int(parts[match[1]]) - 1) if match[2] else parts[match[1]]

    return re.sub(r"\{(\w+?)(-1)?\}", value, template)


_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

# Left out of every file.
_EVERYWHERE = {
    r".*\.num_batches_tracked$": "counters of PyTorch's BatchNorm",
    r"encoder_k\.": "the momentum copy of the encoder",
    r"queue": "queues",
}


class Sorted(NamedTuple):
    """A file by use: the encoder's tensors by their names in the table, their names in the file, what is dropped, faults."""

    tensors: dict[str, np.ndarray]
    names: dict[str, str]
    dropped: dict[str, list[str]]
    faults: list[str]


@dataclass(frozen=True)
class Source:
    """One way to name an encoder's tensors.

    Attributes:
      title: whose names.
      marker: regular expression that some name of such a file contains.
      rows: the table.
      prefixes: what stands before the names of the encoder that is meant, where a file holds several; the first that occurs
        is taken off. Anything else that stands before all names of one encoder is taken off too.
      dropped: regular expression of the beginning of a name, with or without the prefix -> what is left out with it.
      aliases: second beginnings of names under which a file holds the same tensors again.
    """

    title: str
    marker: str
    rows: tuple[Row, ...]
    prefixes: tuple[str, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def is_of(self, state: Mapping[str, np.ndarray]) -> bool:
        """Whether a state dict uses these names."""
        return any(re.search(self.marker, name) for name in state)

    def sort(self, state: Mapping[str, np.ndarray]) -> Sorted:
        """Split a state dict into the encoder's tensors and what is dropped."""
        found = Sorted({}, {}, {}, [])
        outer, prefix = self._prefixes(state)
        for full, array in state.items():
            if not full.startswith(outer):
                found.dropped.setdefault(f"what is not of {outer.rstrip('.')}", []).append(full)
                continue
            name = full.removeprefix(outer)
            short = name.removeprefix(prefix)
            what = self._dropped(name) or self._dropped(short)
            if what:
                found.dropped.setdefault(what, []).append(full)
                continue
            place = self._canonical(short)
            if place in found.tensors and not np.array_equal(found.tensors[place], array):
                found.faults.append(f"{full} differs from {found.names[place]}, though both are one layer")
            found.tensors[place], found.names[place] = array, full
        return found

    def _prefixes(self, state: Mapping[str, np.ndarray]) -> tuple[str, str]:
        """What a wrapper put before every name, such as Lightning's `model.`, and the one of `prefixes` that follows it.

        Raises:
          WeightsError: several encoders are in the file, and none of `prefixes` tells which is meant.
        """
        first = self.rows[0].theirs
        before = {name.removesuffix(first) for name in state if name.endswith(first)}
        before = sorted(prefix for prefix in before if not prefix or prefix.endswith("."))
        for prefix in self.prefixes:
            outer = [full.removesuffix(prefix) for full in before if full.endswith(prefix)]
            if len(outer) == 1:
                return outer[0], prefix
        if len(before) > 1 and "" not in before:
            raise WeightsError(f"there are several encoders, named {', '.join(before)}; save the state dict of one of them")
        return before[0] if len(before) == 1 else "", ""

    def _dropped(self, name: str) -> str | None:
        rules = {**self.dropped, **_EVERYWHERE}
        return next((what for pattern, what in rules.items() if re.match(pattern, name)), None)

    def _canonical(self, name: str) -> str:
        for alias, first in self.aliases.items():
            if name.startswith(f"{alias}."):
                return first + name.removeprefix(alias)
        return name
