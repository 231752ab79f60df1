"""FLOPs of an encoder, counted from its structure: two per multiply-add of its convolutions, dense layers and attention.

Norms, activations and pooling are left out, as is usual for model FLOPs (https://arxiv.org/abs/2204.02311, app. B).
Multiplications with the zeros of the padding are counted, as in published tables.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from wt_jax.models.layers import Conv3D
from wt_jax.models.vit import Attention


def forward_flops(encoder: nn.Module, clip_shape: tuple[int, int, int, int]) -> int:
    """FLOPs of one forward pass of one clip of shape (T, H, W, 3). A training step costs about three times as many.

    Nothing is computed: the encoder is only traced.
    """
    total = 0

    def count(call, args, kwargs, context):
        nonlocal total
        y = call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, Conv3D | nn.Dense):
            kernel = context.module.get_variable("params", "kernel")
            total += 2 * (y.size // y.shape[-1]) * math.prod(kernel.shape)
        elif context.method_name == "__call__" and isinstance(context.module, Attention):
            # Queries with keys, and weights with values.
            total += 2 * 2 * y.size * math.prod(y.shape[1:-1])
        return y

    with nn.intercept_methods(count):
        clips = jax.ShapeDtypeStruct((1, *clip_shape), jnp.float32)
        jax.eval_shape(lambda clips: encoder.init(jax.random.key(0), clips, train=False), clips)
    return total
