"""CLIP's text tower from the same file as its image tower: in OpenAI's names, which open_clip shares, or transformers'."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from wt_jax.errors import WeightsError
from wt_jax.models.text import TextTower
from wt_jax.weights.convert.clip import openai_blocks, transformers_blocks
from wt_jax.weights.convert.tables import Row, find_row, kernel, layer_norm, unwrapped
from wt_jax.weights.folder import first_faults

OPENAI = (
    Row("params/tokens", "token_embedding.weight", lambda w: w),
    Row("params/places", "positional_embedding", lambda w: w),
    *openai_blocks("transformer.resblocks.{i-1}"),
    *layer_norm("norm", "ln_final"),
    Row("params/project/kernel", "text_projection", lambda w: w),
)
TRANSFORMERS = (
    Row("params/tokens", "text_model.embeddings.token_embedding.weight", lambda w: w),
    Row("params/places", "text_model.embeddings.position_embedding.weight", lambda w: w),
    *transformers_blocks("text_model.encoder.layers.{i-1}"),
    *layer_norm("norm", "text_model.final_layer_norm"),
    kernel("project", "text_projection"),
)


def read_text_tower(
    state: Mapping[str, np.ndarray], *, head_width: int = 64, activation: str = "quick_gelu"
) -> tuple[TextTower, Mapping[str, Any]]:
    """The tower that a state dict holds, in the size of its tensors, and its flax variables (float32).

    Args:
      state: of a whole CLIP.
      head_width: channels of a head, 64 in every published size.
      activation: "quick_gelu" of OpenAI's weights, "gelu" of LAION's; no file says which.

    Raises:
      WeightsError: there is no such tower, or tensors of it are missing, left over or of another shape, by name.
    """
    state = unwrapped(state)
    rows = next((rows for rows in (OPENAI, TRANSFORMERS) if rows[0].theirs in state), None)
    if rows is None:
        raise WeightsError(f"there is no text tower of CLIP: no {OPENAI[0].theirs} and no {TRANSFORMERS[0].theirs}")
    vocabulary, channels = state[rows[0].theirs].shape
    blocks = next(row.theirs for row in rows if "{i-1}" in row.theirs).split("{i-1}")[0]
    depth = 1 + max((int(name.removeprefix(blocks).split(".")[0]) for name in state if name.startswith(blocks)), default=-1)
    length, project = len(state[rows[1].theirs]), rows[-1].layout(state[rows[-1].theirs]).shape[1]
    tower = TextTower(vocabulary, length, channels, max(1, channels // head_width), depth, project, activation)
    tokens = jnp.zeros((1, length), jnp.int32)
    wanted: Any = flatten_dict(jax.eval_shape(lambda: tower.init(jax.random.key(0), tokens)), sep="/")
    tensors, used, faults = {}, set(), []
    for ours, leaf in wanted.items():
        row, theirs = find_row(rows, ours)
        used.add(theirs)
        if theirs not in state:
            faults.append(f"{theirs} is missing")
            continue
        tensors[ours] = np.ascontiguousarray(row.layout(state[theirs]), np.float32)
        if tensors[ours].shape != leaf.shape:
            faults.append(f"{theirs} is {state[theirs].shape}, which does not make the {leaf.shape} of {ours}")
    faults += [f"{n} is left over" for n in state if n.startswith(blocks) and n not in used and not n.endswith("k_proj.bias")]
    if faults:
        raise WeightsError(f"the text tower does not fit: {first_faults(faults)}")
    return tower, unflatten_dict(tensors, sep="/")
