"""Reads a state dict from a file of PyTorch's or of safetensors, as NumPy arrays. PyTorch is only needed for its own files."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, deserialize

from wt_jax.errors import WeightsError

_NESTED = ("state_dict", "model_state", "model_state_dict", "model", "module")
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

    Raises:
      WeightsError: the file cannot be read, or holds no state dict.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is no file")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


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
        import torch
    except ImportError:
        raise WeightsError(
            f"{path} is a file of PyTorch's, and PyTorch is not installed; install it (`pip install 'wt_jax[peers]'`) "
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
