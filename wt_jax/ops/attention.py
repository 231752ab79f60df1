"""Attention of tokens to tokens: cuDNN's fused form in a program for an NVIDIA GPU that has it, XLA's in every other.

JAX's own default never takes the fused form. It needs bfloat16 (or float16, which nothing here has), heads of at most 128
numbers in multiples of 8 (what JAX demands on every such GPU) and compute capability 8.0 (cuDNN's flash attention). Whether
the GPU has it is decided where the function is traced, and for which platform a program is where it is lowered: what is
exported on a GPU's machine runs elsewhere too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

_CAPABILITY = (8, 0)
_HEAD = 128
_CUDNN = 90_800  # the version that `as_on_gpu` assumes, 9.8.0

_assumed = False


def attention(query: Array, key: Array, value: Array, *, causal: bool = False) -> Array:
    """Softmax of the scaled products of queries and keys, times the values.

    Args:
      query: (B, T, heads, D) of a float dtype.
      key, value: (B, S, heads, D) in the same dtype.
      causal: tokens attend to themselves and to those before.

    Returns:
      (B, T, heads, D) in the dtype of `query`.
    """
    form = partial(jax.nn.dot_product_attention, is_causal=causal)
    plain = partial(form, implementation="xla")
    if not (_fits(query) and (_assumed or _gpu_has_it())):
        return plain(query, key, value)
    return lax.platform_dependent(query, key, value, cuda=partial(form, implementation="cudnn"), default=plain)


def _fits(query: Array) -> bool:
    return query.dtype == jnp.bfloat16 and query.shape[-1] % 8 == 0 and query.shape[-1] <= _HEAD


def _gpu_has_it() -> bool:
    device = jax.devices()[0]
    if not device.device_kind.startswith("NVIDIA"):
        return False
    return tuple(map(int, device.compute_capability.split("."))) >= _CAPABILITY


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """Trace as on a machine with such a GPU and cuDNN, to see what is lowered there; nothing of it can be run."""
    from jax._src.cudnn import fused_attention_stablehlo as fused  # JAX traces nothing of cuDNN where it is not installed

    global _assumed
    before = _assumed, fused.check_cudnn_version
    _assumed, fused.check_cudnn_version = True, lambda: _CUDNN
    try:
        yield
    finally:
        _assumed, fused.check_cudnn_version = before
