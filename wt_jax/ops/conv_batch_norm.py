"""A convolution, BatchNorm and ReLU: on one CPU with oneDNN a single operation of the program.

One after the other, each would wait for threads to wake up, which for small layers takes as long as their work.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from wt_jax.kernels import operations
from wt_jax.kernels.onednn import Padding, Shape
from wt_jax.ops import batch_norm
from wt_jax.ops.batch_norm import Axis
from wt_jax.ops.conv3d import conv3d, gradients


class Layer(NamedTuple):
    """What both are: strides and padding as for `conv3d`, epsilon and relu as for `batch_norm`."""

    strides: Shape
    padding: Padding
    epsilon: float
    relu: bool


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def conv_batch_norm(
    x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array, layer: Layer
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`wt_jax.ops.batch_norm.batch_norm` of `conv3d`: its three results. All arrays are float32, and as there."""
    own = partial(operations.conv_norm, *layer, True)
    y, mean, var = _chosen(_ALONE, own, partial(_value_apart, layer, None), x, kernel, scale, bias)
    return y, mean, var


def _forward(x, kernel, scale, bias, layer):
    arrays = [array.value for array in (x, kernel, scale, bias)]
    y, mean, var, before, signs = _value(layer, *arrays)
    # As in conv3d: clips need no gradient. An empty tuple: it is wanted.
    return (y, mean, var), (*arrays, mean, var, before, signs, () if x.perturbed else None)


def _backward(layer, residuals, by_results):
    (*residuals, wanted), dy = residuals, by_results[0]
    if isinstance(dy, jax.custom_derivatives.SymbolicZero):
        return tuple(jnp.zeros_like(array) for array in residuals[:4])
    found = _gradients(layer, wanted is not None, *residuals, dy)
    return found if wanted is not None else (jnp.zeros_like(residuals[0]), *found)


conv_batch_norm.defvjp(_forward, _backward, symbolic_zeros=True)

# Dimensions of the arrays: x, kernel, scale, bias -> y, mean, variance, what the convolution gave, and
# oneDNN's note of what the ReLU let pass. The gradients want all of it, and the one by y; they are by the first four.
_X, _KERNEL, _Y = "b t h w i", "k l m i o", "b u v x o"
_ALONE = f"{_X}, {_KERNEL}, o, o -> {_Y}, o, o"  # without a gradient
_VALUE = f"{_ALONE}, {_Y}, s"
_GRADIENTS = f"{_X}, {_KERNEL}, o, o, o, o, {_Y}, s, {_Y} -> {_X}, {_KERNEL}, o, o"


def _value(layer: Layer, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    x, kernel = (array.shape for array in arrays[:2])
    signs = operations.signs_of(operations.shape_after(x, kernel[:3], kernel[-1], layer.strides, layer.padding), layer.relu)
    return _chosen(_VALUE, partial(operations.conv_norm, *layer, False), partial(_value_apart, layer, signs), *arrays)


def _gradients(layer: Layer, wanted: bool, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    rule = _GRADIENTS if wanted else _GRADIENTS.replace(f"-> {_X}, ", "-> ")
    own = partial(operations.conv_norm_gradients, *layer, wanted)
    return _chosen(rule, own, partial(_gradients_apart, layer, wanted), *arrays)


def _value_apart(
    layer: Layer, signs: int | None, x, kernel, scale, bias, across: Axis = None, convolve: Callable = conv3d
) -> tuple[jax.Array, ...]:
    before = convolve(x, kernel, layer.strides, layer.padding)
    y, mean, var = batch_norm.value(before, scale, bias, layer.epsilon, layer.relu, across)
    # Signs are for oneDNN's gradient; None: there will be none.
    return (y, mean, var) if signs is None else (y, mean, var, before, jnp.zeros(signs, jnp.uint8))


def _gradients_apart(
    layer: Layer, wanted: bool, x, kernel, scale, bias, mean, var, before, signs, dy, across: Axis = None, convolve=gradients
):
    given = before, scale, bias, mean, var, dy
    d_before, d_scale, d_bias = batch_norm.gradients(*given, layer.epsilon, layer.relu, across)
    dx, d_kernel = convolve(x, kernel, d_before, layer.strides, layer.padding, wanted)
    d_kernel = d_kernel if across is None else lax.psum(d_kernel, across)
    return ((dx,) if wanted else ()) + (d_kernel, d_scale, d_bias)


def _chosen(rule: str, own: Callable, apart: Callable, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """`own` on one CPU with oneDNN, for channels that fill its vectors; else `apart`."""
    if not operations.knows_batch_norm(arrays[1].shape[-1]):
        return apart(*arrays)

    @jax.custom_batching.custom_vmap
    def on_cpu(*arrays):
        return _of_one_device(rule, own, apart)(*arrays)

    @on_cpu.def_vmap
    def by_parts(size, mapped, *arrays):
        results = jax.vmap(apart, [0 if is_mapped else None for is_mapped in mapped])(*arrays)
        return results, (True,) * len(results)

    return lax.platform_dependent(*arrays, cpu=on_cpu, default=apart)


def _of_one_device(rule: str, own: Callable, apart: Callable) -> Callable:
    """`own` in a program of one device; in one of several `apart`, each device with its part of the batch."""

    def divide(mesh, arguments, results):
        batch = arguments[0].sharding.spec[0]
        split, whole = NamedSharding(mesh, PartitionSpec(batch)), NamedSharding(mesh, PartitionSpec())
        before, after = ([split if "b" in names else whole for names in side.split(", ")] for side in rule.split(" -> "))
        convolve = operations.value_here if rule in (_ALONE, _VALUE) else operations.gradients_here
        return mesh, partial(apart, across=batch, convolve=convolve), tuple(after), tuple(before)

    letters = tuple(sorted({letter for letter in rule if letter.isalpha()} - {"b"}, key=rule.index))
    divided = custom_partitioning(own)
    divided.def_partition(partition=divide, sharding_rule=lambda *_: (rule, {"need_replication_factors": letters}))
    return divided
