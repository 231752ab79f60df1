"""Reads a state dict from a file of PyTorch's or of safetensors, as NumPy arrays. PyTorch is only needed for its own files."""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, deserialize

from wt_jax.errors import WeightsError

_NESTED = ("state_dict", "model_state", "model_state_dict", "model", "module", "target_encoder", "teacher")
# What a folder may hold, an index of several files first.
_IN_FOLDERS = ("*.safetensors.index.json", "*.bin.index.json", "*.safetensors", "*.bin", "*.pt", "*.pth")
_SHARD = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
}


def read_state(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name: `.safetensors`, or anything else as a file of `torch.save`; floats become float32.

    Of weights in several files the path may be their index (`model.safetensors.index.json`), one of them
    (`model-00001-of-00002.safetensors`), or their folder.

    Raises:
      WeightsError: a file cannot be read, is missing, or holds no state dict.
    """
    state: dict[str, np.ndarray] = {}
    for file in _files(path):
        if not file.is_file():
            raise WeightsError(f"{file} is no file" if file == path else f"{file} is missing, which belongs to {path}")
        state |= _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    return state


def _files(path: Path) -> list[Path]:
    """The files that hold the weights."""
    if path.is_dir():
        found = [next(iter(sorted(path.glob(pattern))), None) for pattern in _IN_FOLDERS]
        first = next((file for file in found if file), None)
        if first is None:
            raise WeightsError(f"{path} is a folder without weights; looked for {', '.join(_IN_FOLDERS)}")
        return _files(first)
    if path.name.endswith(".index.json") and path.is_file():
        try:
            names = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise WeightsError(f"{path} is no index of weights: it has no `weight_map`") from None
        return [path.parent / name for name in sorted(set(names))]
    if match := _SHARD.fullmatch(path.name):
        count = int(match["count"])
        shards = (f"{match['name']}-{shard:05d}-of-{count:05d}{match['suffix']}" for shard in range(1, count + 1))
        return [path.parent / shard for shard in shards]
    return [path]


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        found = deserialize(path.read_bytes())
        tensors = {name: np.frombuffer(t["data"], _DTYPES[t["dtype"]]).reshape(t["shape"]) for name, t in found}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors ({error})") from None
    except KeyError as error:
        raise WeightsError(f"{path} holds a tensor of type {error.args[0]}, which no encoder has") from None
    return {name: a if a.dtype.kind == "i" else a.astype(np.float32) for name, a in tensors.items()}


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch  # pyright: ignore[reportMissingImports]  # of an extra
    except ImportError:
        raise WeightsError(
            f"{path} is a file of PyTorch's, and PyTorch is not installed; install it (`pip install torch`) "
            "or save the state dict as .safetensors"
        ) from None
    try:
        # Tensors and plain values only: a pickle could run code. VideoMAE's authors keep their flags beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and for refused files
        raise WeightsError(
            f"{path} cannot be read by PyTorch as plain tensors ({str(error).strip().splitlines()[0]})"
        ) from None
    state = _innermost(held, torch.Tensor)
    if state is None:
        raise WeightsError(f"{path} holds no state dict (looked under {', '.join(_NESTED)})")
    return {name: (t.float() if t.is_floating_point() else t).detach().numpy() for name, t in state.items()}


def _innermost(held: Any, tensor: type) -> Mapping[str, Any] | None:
    """The dict of tensors in what was saved, or None."""
    while isinstance(held, Mapping):
        if held and all(isinstance(value, tensor) for value in held.values()):
            return held
        held = next((held[key] for key in _NESTED if isinstance(held.get(key), Mapping)), None)
    return None
