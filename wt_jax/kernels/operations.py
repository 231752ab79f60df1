"""oneDNN's convolutions and max-pooling, and kernels of our own, as operations of a jitted program.

Both gradients of a layer are one operation, so that what follows in the backward pass begins when both are done: a
convolution that shares the cores with another operation of the program takes longer than the two in turn, because its
threads wait for each other.
"""

import json
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from wt_jax import kernels
from wt_jax.kernels import onednn
from wt_jax.kernels.onednn import Instruction, Padding, Shape

# x without its batch (T, H, W, C), kernel or pooling window, strides, padding;
# for GroupNorm x without its batch (M, C), groups, epsilon where it is needed, and whether there is a ReLU
Layer = tuple[Any, ...]

TARGET = "wt_jax_cpu"  # the operations' name in a program

# Arrays in and arrays out of an operation; y is also its gradient.
_ARRAYS = {
    "value": (("x", "kernel"), ("y",)),
    "gradients": (("x", "kernel", "y"), ("x", "kernel")),
    "kernel_gradient": (("x", "y"), ("kernel",)),
    "max_pool": (("x",), ("y",)),
    "max_pool_gradient": (("x", "y"), ("x",)),
    "group_norm": (("x", "scale", "bias"), ("y", "moments")),
    "group_norm_gradients": (("x", "scale", "bias", "moments", "y"), ("x", "sums")),
}
# Arrays that every device has whole.
_WHOLE = ("kernel", "scale", "bias")
# Dimensions of the arrays; those with the same letter are the same, b is the batch.
_OF_CONV = {"x": "b t h w i", "kernel": "k l m i o", "y": "b u v x o"}
_OF_POOL = {"x": "b t h w i", "y": "b u v x i"}
_OF_GROUPS = {"x": "b m c", "scale": "c", "bias": "c", "y": "b m c", "moments": "b k g", "sums": "b k c"}


def available() -> bool:
    """Whether the operations here are to be used: they are wanted (`wt_jax.kernels.use_native`), and this machine has oneDNN.

    The first call that returns True also registers them with XLA.
    """
    return kernels.use_native() and _start()


@cache
def _start() -> bool:
    if onednn.library() is None:
        return False
    from wt_jax.kernels import native  # needs oneDNN, and imports Numba

    native.start(TARGET, _instructions)
    return True


def library_name() -> str:
    """Name or path of the library, where operations are `available`."""
    return onednn.loaded()._name


def value(x: jax.Array, kernel: jax.Array, strides: Shape, padding: Padding) -> jax.Array:
    """As `wt_jax.ops.conv3d.conv3d`, in float32."""
    return _operation("value", (x.shape[1:], kernel.shape, strides, padding), x, kernel)[0]


def gradients(x: jax.Array, kernel: jax.Array, dy: jax.Array, strides: Shape, padding: Padding) -> tuple[jax.Array, jax.Array]:
    """Gradients of `value` by x and by kernel, given that by its result."""
    dx, d_kernel = _operation("gradients", (x.shape[1:], kernel.shape, strides, padding), x, kernel, dy)
    return dx, d_kernel


def kernel_gradient(x: jax.Array, dy: jax.Array, size: Shape, strides: Shape, padding: Padding) -> jax.Array:
    """The second of `gradients` alone, for a kernel (`size`, Cin, Cout)."""
    kernel = (*size, x.shape[-1], dy.shape[-1])
    return _operation("kernel_gradient", (x.shape[1:], kernel, strides, padding), x, dy)[0]


def max_pool(x: jax.Array, window: Shape, strides: Shape, padding: Padding) -> jax.Array:
    """Maxima of windows of `x` (B, T, H, W, C) in float32, the padding never being one."""
    return _operation("max_pool", (x.shape[1:], window, strides, padding), x)[0]


def max_pool_gradient(x: jax.Array, dy: jax.Array, window: Shape, strides: Shape, padding: Padding) -> jax.Array:
    """Gradient of `max_pool` by x. Of equal maxima the first one gets it."""
    return _operation("max_pool_gradient", (x.shape[1:], window, strides, padding), x, dy)[0]


def group_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, epsilon: float, relu: bool
) -> tuple[jax.Array, jax.Array]:
    """GroupNorm of x (B, M, C) in float32, then a ReLU if `relu`; mean and inverse standard deviation (B, 2, `groups`)."""
    y, moments = _operation("group_norm", (x.shape[1:], groups, epsilon, relu), x, scale, bias)
    return y, moments


def group_norm_gradients(
    x: jax.Array, scale: jax.Array, bias: jax.Array, moments: jax.Array, dy: jax.Array, relu: bool
) -> tuple[jax.Array, jax.Array]:
    """Gradients of `group_norm` by x, and (B, 2, C) those of each clip by scale and bias."""
    layer = x.shape[1:], moments.shape[-1], relu
    dx, sums = _operation("group_norm_gradients", layer, x, scale, bias, moments, dy)
    return dx, sums


def shape_after(x: Shape, window: Shape, channels: int, strides: Shape, padding: Padding) -> Shape:
    """What a window (t, h, w) that moves over `x` (B, T, H, W, C) gives, with so many channels."""
    steps = zip(x[1:4], window, strides, padding, strict=True)
    return x[0], *((size + low + high - length) // step + 1 for size, length, step, (low, high) in steps), channels


def _shapes(kind: str, layer: Layer, batch: int) -> dict[str, Shape]:
    """Shapes of an operation's arrays by the names that `_ARRAYS` has for them."""
    if kind.startswith("group_norm"):
        (positions, channels), groups = layer[0], layer[1]
        x, each = (batch, positions, channels), (channels,)
        return {"x": x, "scale": each, "bias": each, "moments": (batch, 2, groups), "y": x, "sums": (batch, 2, channels)}
    video, kernel, strides, padding = layer
    x, channels = (batch, *video), video[3] if kind.startswith("max") else kernel[4]
    return {"x": x, "kernel": kernel, "y": shape_after(x, kernel[:3], channels, strides, padding)}


def _on_one_device(kind: str, layer: Layer, *arrays: jax.Array) -> list[jax.Array]:
    shapes = _shapes(kind, layer, arrays[0].shape[0])
    results = [jax.ShapeDtypeStruct(shapes[name], jnp.float32) for name in _ARRAYS[kind][1]]
    return list(jax.ffi.ffi_call(TARGET, results)(*arrays, text=_text(kind, *shapes.values(), *layer[2:])))


def _divide(kind, layer, mesh, arguments, results):
    """What each device does: its own part of the batch, and for a kernel gradient the sum over devices."""
    batch = arguments[0].sharding.spec[0]
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(batch))
    shardings = [[whole if name in _WHOLE else split for name in names] for names in _ARRAYS[kind]]

    def on_each(*arrays):
        out = _on_one_device(kind, layer, *arrays)
        if batch is None:
            return out
        summed = [name == "kernel" for name in _ARRAYS[kind][1]]
        return [jax.lax.psum(a, batch) if add else a for a, add in zip(out, summed, strict=True)]

    return mesh, on_each, shardings[1], tuple(shardings[0])


def _rule(kind, *_):
    families = {"max_pool": _OF_POOL, "group_norm": _OF_GROUPS}
    dimensions = next((found for name, found in families.items() if kind.startswith(name)), _OF_CONV)
    rule = " -> ".join(", ".join(dimensions[name] for name in names) for names in _ARRAYS[kind])
    letters = dict.fromkeys(letter for letter in rule if letter.isalpha())  # in order of appearance, as JAX requires
    options = {"need_replication_factors": tuple(letter for letter in letters if letter != "b")}
    return rule, options | ({"reduction_factors": ("b",)} if kind == "kernel_gradient" else {})


_divided = custom_partitioning(_on_one_device, static_argnums=(0, 1))
_divided.def_partition(partition=_divide, sharding_rule=_rule)


def _operation(kind: str, layer: Layer, *arrays: jax.Array) -> list[jax.Array]:
    """`_on_one_device` on every device; under `jax.vmap` one after the other."""
    return jax.custom_batching.sequential_vmap(partial(_divided, kind, layer))(*arrays)


def _text(kind: str, *layer: Shape | Padding | float) -> str:
    """The text of an operation, which `_instructions` reads."""
    return json.dumps([kind, *layer])


def _instructions(text: str) -> list[Instruction]:
    kind, *layer = json.loads(text)
    return [step for operation, indices in _operations(kind, layer) for step in operation.instructions(indices)]


def _operations(kind: str, layer: list) -> Sequence[tuple[Any, list[int]]]:
    """The parts of an operation, and the indices of their arrays, arguments being counted before results."""
    if kind.startswith("max_pool"):
        return [(onednn.MaxPool(kind, *layer), [0, 1] if kind == "max_pool" else [0, 1, 2])]
    if kind.startswith("group_norm"):
        from wt_jax.kernels import loops  # needs oneDNN's threads

        make = loops.group_norm if kind == "group_norm" else loops.group_norm_gradients
        kernel = make(layer[0], layer[3][2], *layer[6:])
        return [(kernel, list(range(sum(map(len, _ARRAYS[kind])))))]
    # The order of a convolution's arrays: x, kernel, y.
    if kind == "gradients":
        of_input, of_kernel = (onednn.Convolution(name, *layer) for name in ("input_gradient", "kernel_gradient"))
        return [(of_input, [3, 1, 2]), (of_kernel, [0, 4, 2])]
    return [(onednn.Convolution(kind, *layer), [0, 1, 2] if kind == "value" else [0, 2, 1])]
