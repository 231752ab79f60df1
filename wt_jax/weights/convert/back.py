"""The way back: an encoder's variables into a PyTorch state dict of the same kind, so that it loads with `strict=True`.

Another state dict of that architecture says which tensors there are. Each layout of a table only moves numbers: applied to the
numbers of places instead of values it says where every value belongs.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from wt_jax.errors import WeightsError
from wt_jax.weights.convert import KINDS
from wt_jax.weights.convert.tables import KEY_BIASES, find_row, unwrapped
from wt_jax.weights.folder import first_faults


def export_state(kind: str, variables: Mapping[str, Any], like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`like` with the encoder's tensors replaced by `variables`, in the dtypes of `like`.

    Biases of keys that we do not have become 0. What is not of the encoder (classifier, decoder, text tower) stays.

    Args:
      kind: a key of `wt_jax.weights.convert.KINDS`.
      variables: flax variables of that encoder.
      like: a state dict of the target, with any values.

    Raises:
      WeightsError: `like` is no state dict of this kind, or has other shapes.
    """
    plain = unwrapped(like)
    source = next((source for source in KINDS[kind].sources if source.is_of(plain)), None)
    if source is None:
        raise WeightsError(f"the state dict that the weights are to go into is none of --kind {kind}")
    found = source.sort(plain)
    full = dict(zip(plain, like, strict=True))
    written = {theirs: np.zeros(array.shape, array.dtype) for theirs, array in found.tensors.items()}
    faults = list(found.faults)
    leaves: dict[str, Any] = dict(flatten_dict(dict(variables), sep="/"))
    for ours, value in leaves.items():
        row, theirs = find_row(source.rows, ours)
        if theirs not in written:
            faults.append(f"{theirs} is missing")
            continue
        target = written[theirs]
        places = row.layout(np.arange(target.size).reshape(target.shape))
        if places.shape != value.shape:
            faults.append(f"{found.names[theirs]} is {target.shape}, which does not hold the {value.shape} of {ours}")
            continue
        target.reshape(-1)[places.reshape(-1)] = np.asarray(value).reshape(-1)
    if faults:
        raise WeightsError(f"the weights do not fit: {first_faults(faults)}")
    zeros = {name: np.zeros_like(plain[name]) for name in found.dropped.get(KEY_BIASES, [])}
    changed = {found.names[theirs]: array for theirs, array in written.items()} | zeros
    return {name: changed.get(short, like[name]) for short, name in full.items()}
