"""FLOPs of an encoder, counted from its structure, and the counter, which `train.step.model_flops` applies to a step.

Counted are two per multiply-add of convolutions, dense layers and attention. Norms, activations and pooling are left out,
which is usual for model FLOPs (https://arxiv.org/abs/2204.02311, app. B). Multiplications with the zeros of the padding are
counted, as in published tables.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import flax.linen as nn
import jax
import jax.numpy as jnp

from wt_jax.models.layers import Conv3D
from wt_jax.models.transformer import Attention


@contextmanager
def counting(add: Callable[[int, jax.Array], None]) -> Iterator[None]:
    """Inside, each layer that multiplies calls `add` with its FLOPs and one array of its parameters."""

    def count(call, args, kwargs, context):
        y, module = call(*args, **kwargs), context.module
        if context.method_name == "__call__" and isinstance(module, Conv3D | nn.Dense):
            kernel, positions = module.get_variable("params", "kernel"), math.prod(jax.tree.leaves(y)[0].shape[:-1])
            add(2 * positions * math.prod(kernel.shape), kernel)
        elif context.method_name == "__call__" and isinstance(module, Attention):
            # Queries with keys, and weights with values.
            add(2 * 2 * y.size * math.prod(y.shape[1:-1]), module.get_variable("params", "out")["kernel"])
        return y

    with nn.intercept_methods(count):
        yield


def forward_flops(encoder: nn.Module, clip_shape: tuple[int, int, int, int]) -> int:
    """FLOPs of one forward pass of one clip of shape (T, H, W, 3). A training step costs about three times as many.

    Nothing is computed: the encoder is only traced.
    """
    total = 0

    def add(flops: int, kernel: jax.Array) -> None:
        nonlocal total
        total += flops

    with counting(add):
        clips = jax.ShapeDtypeStruct((1, *clip_shape), jnp.float32)
        jax.eval_shape(lambda clips: encoder.init(jax.random.key(0), clips, train=False), clips)
    return total
