"""Weights of an encoder in a folder that others can read: `weights.safetensors` and `model.json`, its `ModelConfig`."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from wt_jax.models import ModelConfig

Variables = Mapping[str, Any]


class WeightsError(ValueError):
    """Weights that cannot be used; the message names what differs and the remedy."""


def save_encoder(folder: Path, config: ModelConfig, variables: Variables) -> None:
    """Write an encoder's flax variables (collections of nested dicts of arrays), named "params/stem1/conv/kernel"."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ascontiguousarray(leaf) for name, leaf in flatten_dict(dict(variables), sep="/").items()}
    save_file(tensors, folder / "weights.safetensors")
    (folder / "model.json").write_text(json.dumps(dataclasses.asdict(config), indent=1) + "\n")


def load_encoder(folder: Path) -> tuple[ModelConfig, Variables]:
    """The inverse of `save_encoder`; arrays are NumPy's.

    Raises:
      WeightsError: the folder holds no such files, or they cannot be read.
    """
    try:
        fields = json.loads((folder / "model.json").read_text())
        config = ModelConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
        return config, unflatten_dict(load_file(folder / "weights.safetensors"), sep="/")
    except (OSError, TypeError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{folder} holds no exported encoder that can be read ({error})") from None
