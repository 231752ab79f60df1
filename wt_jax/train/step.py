"""The train state and the one generic step that every method runs through.

A step is a pure function of (state, batch): finish the views, differentiate the method's loss, update the student, let
the method move its teacher. Its randomness is the seed folded with the step, so nothing random is kept in the state.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from wt_jax.augment import finish_views
from wt_jax.methods.base import Method, where_written
from wt_jax.models.flops import counting
from wt_jax.train.sharding import batch_sharding, replicated, shard_parameters

Batch = dict[str, Array]
Given = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a run carries from step to step; `step` () int32 counts the finished ones."""

    step: Array
    params: Any
    model_state: Any
    opt_state: Any
    teacher: Any
    memory: Any


def batch_shapes(method: Method, batch_size: int) -> Batch:
    """What the pipeline yields for a method, as shapes."""
    views = {
        name: jax.ShapeDtypeStruct((batch_size, view.num_frames, view.size, view.size, 3), jnp.uint8)
        for name, view in method.views.items()
    }
    indices = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return {**views, "label": indices, "video": indices, "failed": indices}


def model_flops(method: Method, state: TrainState, batch_size: int) -> int:
    """FLOPs of one step as its user counts them: once for a pass of a teacher, three times for one that is trained.

    Counted are the layers of `wt_jax.models.flops` on their way through the method's loss, not what remat computes again, nor
    losses, queues and updates. `state` may be one of shapes; nothing is computed.
    """
    # What is trained is known by whose array a layer holds, and remat would hide that.
    setup = dataclasses.replace(method.setup, model=dataclasses.replace(method.setup.model, remat=False))
    method = dataclasses.replace(method, setup=setup)
    total = 0

    def loss(state: TrainState, batch: Batch):
        trained = {id(leaf) for leaf in jax.tree.leaves(state.params)}

        def add(flops: int, kernel: Array) -> None:
            nonlocal total
            total += flops * (3 if id(kernel) in trained else 1)

        key = jax.random.key(0)
        with counting(add):
            batch = finish_views(batch, method.views, key)
            return method.loss(state.params, state.model_state, state.teacher, state.memory, batch, key, state.step)

    jax.eval_shape(loss, state, batch_shapes(method, batch_size))
    return total


def make_init(method: Method, optimizer: optax.GradientTransformation, seed: int) -> Callable[[Given], TrainState]:
    """A function that makes the first state from the variables that `method.weights` asks for."""

    def init(given: Given) -> TrainState:
        shapes = {k: jnp.zeros(v.shape, v.dtype) for k, v in batch_shapes(method, 1).items()}
        key = jax.random.key(seed)
        first = method.init(key, finish_views(shapes, method.views, key), given)
        opt_state = optimizer.init(first.params)
        return TrainState(jnp.zeros((), jnp.int32), first.params, first.model_state, opt_state, first.teacher, first.memory)

    return init


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """Shardings of a state (or of its shapes)."""
    everywhere = {name: jax.tree.map(lambda _: replicated(mesh), getattr(state, name)) for name in ("step", "model_state")}
    split = {name: shard_parameters(getattr(state, name), mesh) for name in ("params", "opt_state", "teacher", "memory")}
    return TrainState(**everywhere, **split)


def make_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    seed: int,
    accumulate: int = 1,
    log_every: int = 1,
    num_steps: int = 0,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """The step: (state, batch of uint8 views) -> (state, scalar float32 metrics).

    With `accumulate` pieces the gradient is the mean over them. Each piece sees its own BatchNorm statistics and the
    memory that the pieces before it left, while parameters and teacher stand still. The gradient's norm is NaN in steps whose
    metrics are not written: those that are no multiple of `log_every`, nor the last of `num_steps`.
    """
    norm = partial(where_written, optax.tree.norm, log_every=log_every, num_steps=num_steps)

    def gradient(state: TrainState, model_state: Any, memory: Any, piece: Batch, key: Array):
        view_key, loss_key = jax.random.split(key)
        finished = finish_views(piece, method.views, view_key)

        def loss(params):
            return method.loss(params, model_state, state.teacher, memory, finished, loss_key, state.step)

        (_, (model_state, memory, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        return model_state, memory, metrics, grads

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if accumulate == 1:
            model_state, memory, metrics, grads = gradient(state, state.model_state, state.memory, batch, key)
        else:
            # Piece i takes rows i, i + n, ...: contiguous rows stay on their devices.
            pieces = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, accumulate, *x.shape[1:]), 1, 0), batch)

            def add(carry, piece):
                model_state, memory, total = carry
                # One key for all pieces: a clip's draw depends on its video, not on how the batch was cut.
                model_state, memory, metrics, grads = gradient(state, model_state, memory, piece, key)
                return (model_state, memory, jax.tree.map(jnp.add, total, grads)), metrics

            nothing = jax.tree.map(jnp.zeros_like, state.params)
            carry, metrics = jax.lax.scan(add, (state.model_state, state.memory, nothing), pieces)
            model_state, memory, total = carry
            grads = jax.tree.map(lambda g: g / accumulate, total)
            metrics = jax.tree.map(jnp.mean, metrics)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        teacher, figures = method.update_teacher(state.teacher, params, model_state, state.step)
        metrics = {
            **metrics,
            **figures,
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "gradient_norm": norm(grads, step=state.step),
            "failed": jnp.sum(batch["failed"] >= 0, dtype=jnp.float32),
        }
        return TrainState(state.step + 1, params, model_state, opt_state, teacher, memory), metrics

    return step


def compile_step(step: Callable, shardings: TrainState, mesh: Mesh) -> Callable:
    """The step under `jax.jit` with named shardings, the old state's memory reused for the new one."""
    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
