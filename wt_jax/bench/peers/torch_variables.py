"""Our parameters in PyTorch's modules of `torch_networks`, whose parts have our names."""

from collections.abc import Mapping

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # of an extra
from flax.traverse_util import flatten_dict
from torch import nn  # pyright: ignore[reportMissingImports]  # of an extra


def load_variables(module: nn.Module, params: Mapping) -> None:
    """Fill an `Embedder` with our parameters (a nested dict of arrays), each exactly once."""
    flat = {name: np.asarray(value) for name, value in flatten_dict(params, sep=".").items()}
    state = {}
    for name, parameter in module.named_parameters():
        place = name.replace("head.parts.", "head.").replace("encoder.blocks.", "encoder.block")
        if "encoder.blocks." in name:
            number, _, rest = place.removeprefix("encoder.block").partition(".")
            place = f"encoder.block{int(number) + 1}.{rest}"
        state[name] = _theirs(flat, place, parameter)
    if flat:
        raise ValueError(f"PyTorch's module has no place for {sorted(flat)[0]}")
    module.load_state_dict(state, strict=False)


def _theirs(flat: dict[str, np.ndarray], place: str, parameter: torch.Tensor) -> torch.Tensor:
    """One parameter of theirs from ours, which are taken out of `flat`."""
    block, _, last = place.rpartition(".")
    if last in ("query_bias", "value_bias"):
        return torch.from_numpy(flat.pop(f"{block}.attention.{last.removesuffix('_bias')}.bias").copy())
    if place.endswith("qkv.weight"):
        block = block.removesuffix(".qkv")
        kernels = [flat.pop(f"{block}.attention.{name}.kernel") for name in ("query", "key", "value")]
        return torch.from_numpy(np.concatenate(kernels, axis=1).T.copy())
    if block.endswith(".out"):
        block = block.removesuffix("out") + "attention.out"
    if last == "bias":
        return torch.from_numpy(flat.pop(f"{block}.bias").copy())
    if parameter.ndim == 1:
        return torch.from_numpy(flat.pop(f"{block}.scale").copy())
    kernel = flat.pop(f"{block}.kernel")
    return torch.from_numpy(np.moveaxis(kernel, (-1, -2), (0, 1)).copy())
