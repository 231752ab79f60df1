"""Other projects' tensors by our names, where a whole network is compared."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict


def state_of(module: Any) -> dict[str, np.ndarray]:
    """A PyTorch module's tensors."""
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


def slopes_of(module: Any) -> dict[str, np.ndarray]:
    """Its gradients, of the parameters that have one."""
    return {name: value.grad.numpy() for name, value in module.named_parameters() if value.grad is not None}


def randomize(module: Any, torch: Any) -> None:
    """Everything random, norms and biases too: first values would hide a tensor that is forgotten."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def separated(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Query, key and value, which are one matrix in theirs, under names of their own; `q_bias` and `v_bias` too."""
    made = {}
    for name, value in state.items():
        place, _, last = name.rpartition(".")
        if place.endswith("qkv"):
            thirds = zip("qkv", np.split(value, 3), strict=True)
            made |= {f"{place.removesuffix('qkv')}{letter}.{last}": part for letter, part in thirds}
        elif last in ("q_bias", "v_bias"):
            made[f"{place}.{last[0]}.bias"] = value
        else:
            made[name] = value
    return made


def block(
    theirs: str,
    ours: str,
    attention: tuple[str, str, str, str] = ("attn.q", "attn.k", "attn.v", "attn.proj"),
    norms: tuple[str, str] = ("norm1", "norm2"),
    maps: tuple[str, str] = ("mlp.fc1", "mlp.fc2"),
) -> dict[str, str]:
    """The layers of a transformer's block, {theirs: ours}, for `renamed`."""
    names = dict(zip(attention, ("query", "key", "value", "out"), strict=True))
    return {
        **{f"{theirs}.{name}": f"{ours}/attention/{to}" for name, to in names.items()},
        **{f"{theirs}.{name}": f"{ours}/norm{i + 1}" for i, name in enumerate(norms)},
        **{f"{theirs}.{name}": f"{ours}/dense{i + 1}" for i, name in enumerate(maps)},
    }


def renamed(state: Mapping[str, np.ndarray], layers: Mapping[str, str], *, key_bias: bool = True) -> Any:
    """The tree of the layers {theirs: ours}: a `weight` of two axes is a kernel, transposed, one of one axis a scale."""
    made = {}
    for theirs, ours in layers.items():
        weight, bias = state.get(f"{theirs}.weight"), state.get(f"{theirs}.bias")
        if weight is not None:
            made[f"{ours}/{'kernel' if weight.ndim == 2 else 'scale'}"] = weight.T
        if bias is not None and (key_bias or not ours.endswith("attention/key")):
            made[f"{ours}/bias"] = bias
    return unflatten_dict(made, sep="/")
