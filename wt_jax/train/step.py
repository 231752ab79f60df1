"""The train state and the one generic step that every method runs through.

A step is a pure function of (state, batch): finish the views, differentiate the method's loss, update the student, update
the teacher. Its randomness is the seed folded with the step, so nothing random is kept in the state.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from wt_jax.augment import finish_views
from wt_jax.methods.base import Method, MethodState, Tree, if_logged
from wt_jax.models.flops import counting
from wt_jax.specs import batch_arrays
from wt_jax.train.sharding import batch_sharding, gathered, replicated, shard_parameters

Batch = dict[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a run carries from step to step; `step` () int32 counts the finished ones.

    The other fields but the optimizer's are those of `wt_jax.methods.base.MethodState`.
    """

    step: Array
    params: Tree
    model_state: Tree
    opt_state: Tree
    teacher: Tree
    buffers: Tree

    @property
    def method_state(self) -> MethodState:
        """What the method reads."""
        return MethodState(self.params, self.model_state, self.teacher, self.buffers)


def batch_shapes(method: Method, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What the pipeline yields for a method, as shapes."""
    views = {
        name: jax.ShapeDtypeStruct((batch_size, *shape), jnp.dtype(dtype))
        for name, (shape, dtype) in batch_arrays(method.views).items()
    }
    indices = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return {**views, "label": indices, "video": indices, "failed": indices}


def model_flops(method: Method, state: TrainState, batch_size: int) -> int:
    """FLOPs of one step by the usual count: once for a pass of a teacher, three times for one that is trained.

    Counted are the layers of `wt_jax.models.flops` in the method's loss; not losses, queues and updates. The method must not
    rematerialize: a trained layer is recognized by its array, which remat would hide. `state` may be one of shapes; nothing
    is computed.
    """
    total = 0

    def loss(state: TrainState, batch: Batch):
        trained = {id(leaf) for leaf in jax.tree.leaves(state.params)}

        def add(flops: int, kernel: Array) -> None:
            nonlocal total
            total += flops * (3 if id(kernel) in trained else 1)

        key = jax.random.key(0)
        with counting(add):
            batch = finish_views(batch, method.views, key)
            return method.loss(state.params, state.method_state, batch, key, state.step)

    jax.eval_shape(loss, state, batch_shapes(method, batch_size))
    return total


def make_init(method: Method, optimizer: optax.GradientTransformation, seed: int) -> Callable[[Mapping[str, Tree]], TrainState]:
    """A function that makes the first state from the arrays of `method.pretrained`, by its names."""

    def init(pretrained: Mapping[str, Tree]) -> TrainState:
        zeros = {name: jnp.zeros(each.shape, each.dtype) for name, each in batch_shapes(method, 1).items()}
        key = jax.random.key(seed)
        first = method.init(key, finish_views(zeros, method.views, key), pretrained)
        return TrainState(
            jnp.zeros((), jnp.int32),
            first.params,
            first.model_state,
            optimizer.init(first.params),
            first.teacher,
            first.buffers,
        )

    return init


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """Shardings of a state (or of its shapes)."""
    everywhere = {name: jax.tree.map(lambda _: replicated(mesh), getattr(state, name)) for name in ("step", "model_state")}
    split = {name: shard_parameters(getattr(state, name), mesh) for name in ("params", "opt_state", "teacher", "buffers")}
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
    mesh: Mesh | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """The step: (state, batch of the pipeline) -> (state, scalar float32 metrics).

    With `accumulate` pieces the gradient is the mean over them. Each piece has its own BatchNorm statistics and the buffers
    after the pieces before it, while parameters and teacher do not change. The gradient's norm is NaN in steps whose metrics
    are not written: those that are no multiple of `log_every`, nor the last of `num_steps`. `mesh` is that of the state, where
    it may be split.
    """
    norm = partial(if_logged, optax.tree.norm, log_every=log_every, num_steps=num_steps)

    def gradient(state: MethodState, piece: Batch, key: Array, step: Array) -> tuple[MethodState, dict[str, Array], Tree]:
        view_key, loss_key = jax.random.split(key)
        finished = finish_views(piece, method.views, view_key)
        value_and_grad = jax.value_and_grad(method.loss, has_aux=True)
        state = state._replace(buffers=gathered(state.buffers, mesh))
        (_, (after, metrics)), grads = value_and_grad(state.params, state, finished, loss_key, step)
        return state._replace(model_state=after.model_state, buffers=after.buffers), metrics, gathered(grads, mesh)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key, before = jax.random.fold_in(jax.random.key(seed), state.step), state.method_state
        whole = before._replace(params=gathered(before.params, mesh), teacher=gathered(before.teacher, mesh))
        if accumulate == 1:
            after, metrics, grads = gradient(whole, batch, key, state.step)
        else:
            # Piece i takes rows i, i + n, ...: contiguous rows stay on their devices.
            pieces = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, accumulate, *x.shape[1:]), 1, 0), batch)

            def add(carry, piece):
                model_state, buffers, total = carry
                # One key for all pieces: a clip's draw depends on its video, not on how the batch was cut.
                now = whole._replace(model_state=model_state, buffers=buffers)
                now, metrics, grads = gradient(now, piece, key, state.step)
                return (now.model_state, now.buffers, jax.tree.map(jnp.add, total, grads)), metrics

            zeros = jax.tree.map(jnp.zeros_like, before.params)
            carry, metrics = jax.lax.scan(add, (before.model_state, before.buffers, zeros), pieces)
            after = whole._replace(model_state=carry[0], buffers=carry[1])
            grads = jax.tree.map(lambda g: g / accumulate, carry[2])
            metrics = jax.tree.map(jnp.mean, metrics)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        after = after._replace(params=optax.apply_updates(state.params, updates), teacher=state.teacher)
        teacher, teacher_metrics = method.update_teacher(after, state.step)
        metrics = {
            **metrics,
            **teacher_metrics,
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "gradient_norm": norm(grads, step=state.step),
            "failed": jnp.sum(batch["failed"] >= 0, dtype=jnp.float32),
        }
        return TrainState(state.step + 1, after.params, after.model_state, opt_state, teacher, after.buffers), metrics

    return step


def compile_step(step: Callable, shardings: TrainState, mesh: Mesh) -> jax.stages.Wrapped:
    """The step under `jax.jit` with named shardings, the old state donated to the new one."""
    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
