"""Encoders from other people's PyTorch weights: which kinds there are, and how a file's tensors become flax variables.

Each family of files has a table of its own (`torchvision.py`, `slow_r50.py`, `coclr.py`, `videomae.py`) that says for every
tensor of ours where theirs is. Nothing is guessed and nothing is silent: a tensor that is missing, left over or of another
shape is an error by name, and what is left out on purpose (classifier heads, queues, decoders) is told.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from wt_jax.config import ModelConfig
from wt_jax.errors import WeightsError
from wt_jax.weights.convert import coclr, slow_r50, torchvision, videomae
from wt_jax.weights.convert.files import read_state
from wt_jax.weights.convert.tables import Sorted, Source, find_row, unwrapped
from wt_jax.weights.folder import encoder_shapes, first_faults


@dataclass(frozen=True)
class Kind:
    """What a file may hold: the models that it may be (the one that fits is taken), and whose names it may use."""

    models: tuple[ModelConfig, ...]
    sources: tuple[Source, ...]
    clip: str  # what the authors feed the network with


def _videomae(size: str) -> Kind:
    return Kind((ModelConfig(f"vit_{size}"), ModelConfig(f"vit_{size}_fc_norm")), videomae.SOURCES, videomae.CLIP)


def _torchvision(name: str, source: Source) -> Kind:
    return Kind((ModelConfig(name, mean=torchvision.MEAN, std=torchvision.STD),), (source,), torchvision.CLIP)


KINDS: dict[str, Kind] = {
    "torchvision_r3d_18": _torchvision("r3d_18", torchvision.PLAIN),
    "torchvision_mc3_18": _torchvision("mc3_18", torchvision.PLAIN),
    "torchvision_r2plus1d_18": _torchvision("r2plus1d_18", torchvision.FACTORISED),
    "slow_r50": Kind((ModelConfig("slow_r50", mean=slow_r50.MEAN, std=slow_r50.STD),), slow_r50.SOURCES, slow_r50.CLIP),
    "coclr_s3d": Kind((ModelConfig("s3d_coclr"),), (coclr.SOURCE,), coclr.CLIP),
    "videomae_small": _videomae("small"),
    "videomae_base": _videomae("base"),
    "videomae_large": _videomae("large"),
}


@dataclass(frozen=True)
class Converted:
    """An encoder made from a file: its config, its flax variables (float32), whose names the file used, and what was left out.

    `dropped` maps what it is ("classifier") to the names in the file.
    """

    config: ModelConfig
    variables: Mapping[str, Any]
    source: str
    dropped: Mapping[str, list[str]]


def convert_file(kind: str, path: Path) -> Converted:
    """Read a file of PyTorch weights and convert it; `kind` is a key of `KINDS`.

    Raises:
      WeightsError: the file cannot be read or does not hold such an encoder; every fault by name.
    """
    return convert(kind, read_state(path), str(path))


def convert(kind: str, state: Mapping[str, np.ndarray], where: str) -> Converted:
    """Convert a state dict of NumPy arrays; `where` names it in errors.

    Raises:
      WeightsError: see `convert_file`.
    """
    known = KINDS[kind]
    state = unwrapped(state)
    source = next((source for source in known.sources if source.is_of(state)), None)
    if source is None:
        wanted = " or ".join(source.title for source in known.sources)
        raise WeightsError(f"{where} holds no names of {wanted}; it has {', '.join(list(state)[:3])}, ...")
    found = source.sort(state)
    # The candidates differ in names, not in sizes alone: the one with the fewest faults is the one that was meant.
    tries = [(config, *_build(config, source, found)) for config in known.models]
    config, tensors, faults = min(tries, key=lambda made: len(made[2]))
    if faults:
        raise WeightsError(f"{where} does not fit {config.name}: {first_faults(faults)}; is it of another --kind than {kind}?")
    return Converted(config, unflatten_dict(tensors, sep="/"), source.title, found.dropped)


def _build(config: ModelConfig, source: Source, found: Sorted) -> tuple[dict[str, np.ndarray], list[str]]:
    """Each tensor of the model from its place in the file, and everything that is wrong."""
    tensors, used, faults = {}, set(), list(found.faults)
    for ours, shape in encoder_shapes(config).items():
        row, theirs = find_row(source.rows, ours)
        if theirs not in found.tensors:
            faults.append(f"{theirs} is missing")
            continue
        used.add(theirs)
        array, name = found.tensors[theirs], found.names[theirs]
        try:
            tensors[ours] = np.ascontiguousarray(row.layout(array), np.float32)
        except (ValueError, IndexError):  # another number of axes
            tensors[ours] = array
        if tensors[ours].shape != shape:
            faults.append(f"{name} is {array.shape}, which does not make the {shape} of {ours}")
        elif not np.isfinite(tensors[ours]).all():
            faults.append(f"{name} holds values that are not finite")
    faults += [f"{name} is left over" for theirs, name in found.names.items() if theirs not in used]
    return tensors, faults
