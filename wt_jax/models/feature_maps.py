"""Feature maps of an encoder's layers by name, for evaluation, pictures and deep supervision."""

from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax


def layer_maps(
    encoder: nn.Module, variables: Any, clips: jax.Array, names: Collection[str], *, train: bool = False
) -> tuple[jax.Array, dict[str, jax.Array], Any]:
    """One forward pass that also returns the outputs of some layers.

    Args:
      encoder: a module of `wt_jax.models`; `encoder.layers` are its layer names, from input to output.
      variables: its flax variables.
      clips: (B, T, H, W, 3) float32 in [0, 1].
      names: which layers.
      train: whether norms use and update their statistics.

    Returns:
      Features (B, D) float32; {name: (B, t, h, w, C)}; the new state collections ({} unless `train`).

    Raises:
      ValueError: the encoder has no layer of such a name.
    """
    unknown = sorted(set(names) - set(encoder.layers))
    if unknown:
        raise ValueError(f"{type(encoder).__name__} has no layer {unknown[0]!r}; it has {', '.join(encoder.layers)}")

    # A transformer's block returns the tokens of places first.
    def wanted(module: nn.Module, method: str) -> bool:
        return method == "__call__" and len(module.path) == 1 and module.name in names

    mutable = ["intermediates", "batch_stats"] if train else ["intermediates"]
    feature, state = encoder.apply(variables, clips, train, mutable=mutable, capture_intermediates=wanted)
    state = dict(state)
    captured = state.pop("intermediates", {})
    return feature, {name: jax.tree.leaves(captured[name]["__call__"])[0] for name in names}, state
