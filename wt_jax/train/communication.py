"""Communication between devices in one step, from the shapes of the state: bytes per device for a mesh of any size.

Collectives run as rings: of an array of n bytes over p devices, each device sends (p - 1) / p n for an all-gather or a
reduce-scatter, and twice that for an all-reduce. Gradients travel in the precision that the backward pass computes them in.
With `config.train.accumulate` they are summed in float32 first, which is not counted. Metrics and the loss are a few bytes
and left out.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from wt_jax.augment import finish_views
from wt_jax.methods.base import Method, MethodState, Tree
from wt_jax.models.flops import counting
from wt_jax.train.program import Program
from wt_jax.train.sharding import split_axis
from wt_jax.train.step import TrainState, batch_shapes

# Operations that change no number, only its place.
_MOVES = ("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "copy", "rev")


class Backward(NamedTuple):
    """What a step exchanges because it is trained, as far as it depends on the method.

    Attributes:
      gradients: bytes of the gradient of each leaf of `params`, in the precision that it is computed in: bfloat16 where the
        layer is, though the parameter is not. One that is used several times is reduced as often.
      passes: forward passes of the student.
    """

    gradients: Tree
    passes: int


def backward(method: Method, state: TrainState, rows: int) -> Backward:
    """Trace the loss of `rows` clips; nothing is computed. The method must not rematerialize (`Program.counted`)."""
    calls: Counter[int] = Counter()

    def loss(params: Tree, state: MethodState, batch: Any) -> jax.Array:
        trained = {id(leaf) for leaf in jax.tree.leaves(params)}
        key = jax.random.key(0)
        with counting(lambda flops, kernel: calls.update([id(kernel)] if id(kernel) in trained else [])):
            return method.loss(params, state, finish_views(batch, method.views, key), key, jnp.int32(0))[0]

    traced = jax.make_jaxpr(jax.grad(loss))(state.params, state.method_state, batch_shapes(method, rows)).jaxpr
    leaves, structure = jax.tree.flatten(state.params)
    sizes = [leaf.size * _width(traced, var) for leaf, var in zip(leaves, traced.outvars, strict=True)]
    return Backward(jax.tree.unflatten(structure, sizes), max(calls.values(), default=1))


def bytes_per_step(
    state: TrainState, trained: Backward, *, data: int, fsdp: int, teacher_passes: int, rows: int
) -> dict[str, float]:
    """Bytes that each device sends in one step, by cause.

    Args:
      state: shapes of the train state.
      trained: of the method; see `backward`.
      data, fsdp: sizes of the mesh's axes.
      teacher_passes: forward passes that read the teacher.
      rows: clips in the global batch, which enter the queue on every device.

    Returns:
      "gradients": their reduction over all devices. "parameters" and "teacher": gathered once for all passes, in float32, where
      they are split; a compiler may narrow them before. "buffers": the queues where they are split, and the batch's entries.
      "statistics": BatchNorm's moments of the batch; what its backward pass sums are the gradients of scale and bias.
    """
    parameters, teacher, buffers = (_split_bytes(tree, fsdp) for tree in (state.params, state.teacher, state.buffers))
    ring, over_all = 1 - 1 / fsdp, 1 - 1 / (data * fsdp)
    # A batch's entries are what one step puts over the oldest slots of each column.
    columns = [leaf for leaf in jax.tree.leaves(state.buffers) if leaf.ndim]
    entries = sum(rows * _bytes(leaf) / leaf.shape[0] for leaf in columns)
    student, taught = (_statistics(tree) for tree in (state.model_state, state.teacher))
    return {
        "gradients": 2 * over_all * sum(jax.tree.leaves(trained.gradients)),
        "parameters": ring * parameters,
        "teacher": ring * teacher,
        "buffers": ring * buffers + over_all * entries,
        "statistics": 2 * over_all * (trained.passes * student + teacher_passes * taught),
    }


def sent_per_step(program: Program, rows: int) -> dict[str, float]:
    """`bytes_per_step` of a program on its mesh, with `rows` clips in the global batch."""
    trained, passes = backward(program.counted, program.shapes, rows), program.method.needs.teacher_passes
    return bytes_per_step(program.shapes, trained, **program.mesh.shape, teacher_passes=passes, rows=rows)


def _bytes(leaf: Any) -> int:
    return int(np.prod(leaf.shape)) * leaf.dtype.itemsize


def _statistics(tree: Mapping[str, Any]) -> int:
    return sum(map(_bytes, jax.tree.leaves(tree.get("batch_stats", {}))))


def _split_bytes(tree: Mapping[str, Any], fsdp: int) -> int:
    """Bytes of the leaves that are split over `fsdp` devices."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(tree) if split_axis(leaf.shape, fsdp) is not None)


def _width(jaxpr: Any, var: Any) -> int:
    """Bytes of each number of a result as its operation computes it, before it is widened; of a sum, those of both terms."""
    made_by = {out: (equation, place) for equation in jaxpr.eqns for place, out in enumerate(equation.outvars)}
    while not isinstance(var, Literal) and var in made_by:
        equation, place = made_by[var]
        name, inner = equation.primitive.name, equation.params.get("jaxpr")
        if name == "add_any":  # of two uses of a parameter
            return sum(_width(jaxpr, each) for each in equation.invars)
        if inner is not None and len((inner := getattr(inner, "jaxpr", inner)).outvars) == len(equation.outvars):
            if (result := inner.outvars[place]) not in inner.invars:
                return _width(inner, result)
            var = equation.invars[inner.invars.index(result)]
        elif name in _MOVES or name == "convert_element_type":
            if equation.invars[0].aval.dtype.itemsize > var.aval.dtype.itemsize:
                break
            var = equation.invars[0]
        else:
            break
    return var.aval.dtype.itemsize  # pyright: ignore[reportAttributeAccessIssue]  # of an array, as all results are
