"""Weights of an encoder in a folder that others can read: `weights.safetensors`, `model.json` (its `ModelConfig`) and a card.

The tensors are named by their place, "params/stem1/conv/kernel"; `wt_jax.weights.convert` makes such a folder from PyTorch's
files, `wt_jax.tools.export_weights` from a run.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from wt_jax.config import ModelConfig, from_dict
from wt_jax.errors import WeightsError
from wt_jax.files import write_atomic
from wt_jax.models import build_encoder, first_encoder_variables
from wt_jax.weights.hub import local_folder

Variables = Mapping[str, Any]


def encoder_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every variable of an encoder; nothing is computed."""
    encoder = build_encoder(config)
    clips = jnp.zeros((1, 2, 16, 16, 3), jnp.float32)
    variables = jax.eval_shape(lambda: first_encoder_variables(encoder, jax.random.key(0), clips))
    return shapes_of(variables)


def shapes_of(variables: Variables) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of a tree."""
    leaves: dict[str, Any] = dict(flatten_dict(variables, sep="/"))
    return {name: leaf.shape for name, leaf in leaves.items()}


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], maker: str) -> list[str]:
    """What is missing, left over or different in `found`, by name; the values are shapes, or shapes with types."""
    faults = [f"{name} is missing" for name in wanted if name not in found]
    faults += [f"{name} is left over" for name in found if name not in wanted]
    both = (name for name in wanted if name in found and found[name] != wanted[name])
    return faults + [f"{name} is {found[name]}, {maker} makes {wanted[name]}" for name in both]


def first_faults(faults: list[str]) -> str:
    """The first three in one line, and how many more there are."""
    return "; ".join(faults[:3]) + (f" and {len(faults) - 3} more" if len(faults) > 3 else "")


def new_folder(folder: Path) -> None:
    """Raise WeightsError if a folder holds weights already: commands overwrite none."""
    if (folder / "weights.safetensors").exists():
        raise WeightsError(f"{folder} holds weights already; name another folder")


def save_encoder(folder: Path, config: ModelConfig, variables: Variables, card: str = "") -> None:
    """Write an encoder's flax variables (collections of nested dicts of arrays) and, if there is one, its card, README.md.

    `config.weights` is left out: the folder stands for itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ascontiguousarray(leaf) for name, leaf in flatten_dict(dict(variables), sep="/").items()}
    fields = dataclasses.asdict(dataclasses.replace(config, weights=""))
    write_atomic(folder / "weights.safetensors", save(tensors, {"format": "flax"}))
    write_atomic(folder / "model.json", (json.dumps(fields, indent=1) + "\n").encode())
    if card:
        write_atomic(folder / "README.md", card.encode())


def read_model(folder: Path | str) -> ModelConfig:
    """The model of a folder of weights, or of an address `hf://OWNER/NAME@REVISION`.

    Raises:
      WeightsError: the folder has no model.json, or it cannot be read.
    """
    folder = local_folder(folder)
    try:
        return from_dict(ModelConfig, json.loads((folder / "model.json").read_text()))
    except (OSError, TypeError, ValueError) as error:
        raise WeightsError(f"{folder} holds no exported encoder that can be read ({error})") from None


def load_encoder(folder: Path | str) -> tuple[ModelConfig, Variables]:
    """The inverse of `save_encoder`, from a folder or an address `hf://OWNER/NAME@REVISION`; arrays are NumPy's.

    Raises:
      WeightsError: the folder holds no such files, they cannot be read, or they are not those of the encoder that its
        model.json names (each tensor by name).
    """
    folder = local_folder(folder)
    config = read_model(folder)
    try:
        tensors = load_file(folder / "weights.safetensors")
        wanted = encoder_shapes(config)
    except (OSError, TypeError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{folder} holds no exported encoder that can be read ({error})") from None
    faults = differences({name: array.shape for name, array in tensors.items()}, wanted, config.name)
    if faults:
        raise WeightsError(f"{folder}/weights.safetensors is not the {config.name} of its model.json: {first_faults(faults)}")
    return config, unflatten_dict(tensors, sep="/")
