"""One row of the table: what is compared with what, and how far the two are apart.

Where the source's code is a loss of embeddings, ours is the whole method with the identity in the place of its networks (the
teacher's is a fixed matrix, so that keys differ from queries): settings, pairs of views, negatives and reductions are the
method's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from wt_jax.bench.official.sources import Sources
from wt_jax.config import ModelConfig
from wt_jax.methods import METHODS, default_settings
from wt_jax.methods.base import MethodState, Setup
from wt_jax.models.embedder import l2_normalize
from wt_jax.specs import ClipView

B, D, K = 6, 16, 24  # videos, width of embeddings, slots
EQUAL = 1e-5  # the largest relative difference that is rounding in float32, over a whole network


class Found(NamedTuple):
    """Numbers of one side.

    Attributes:
      values: a loss, and states after the step.
      gradients: by name.
    """

    values: Mapping[str, Any]
    gradients: Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """A comparison of a method with a project's code.

    Attributes:
      method: names of `wt_jax.methods.METHODS`, comma-separated, or what else is compared.
      clone, files: where the code is.
      compared: what.
      run: returns ours and theirs; None: there is nothing to run.
      different: what the comparison leaves out, and why that is different.
      because: why the numbers themselves differ; "": they must not.
    """

    method: str
    clone: str
    files: str
    compared: str
    run: Callable[[Sources], tuple[Found, Found]] | None = None
    different: str = ""
    because: str = ""


def distance(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """Length of the difference over that of theirs, of all arrays together, and 1 where the names are not the same."""
    if set(ours) != set(theirs):
        return 1.0
    pairs = [(np.asarray(ours[name], np.float64), np.asarray(theirs[name], np.float64)) for name in theirs]
    if any(one.shape != other.shape for one, other in pairs):
        return 1.0
    apart = np.sqrt(sum(np.sum(np.square(one - other)) for one, other in pairs))
    return float(apart / max(np.sqrt(sum(np.sum(np.square(other)) for _, other in pairs)), 1e-30))


def differences(ours: Found, theirs: Found) -> tuple[float, float]:
    """The largest relative difference of a value, and the relative difference of all gradients together."""

    def one(side: Found, name: str) -> dict[str, Any]:
        return {name: side.values[name]} if name in side.values else {}

    values = [distance(one(ours, name), one(theirs, name)) for name in {*ours.values, *theirs.values}]
    gradients = [flatten_dict(dict(side.gradients), sep="/") for side in (ours, theirs)]
    return max(values), distance(*gradients)


class Plain(nn.Module):
    """In the place of a network: normalized inputs, times a fixed matrix if there is one."""

    matrix: Any = None

    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, None]:
        """As `wt_jax.models.embedder.Embedder` does."""
        return l2_normalize(x if self.matrix is None else x @ self.matrix), None


@dataclass(frozen=True)
class Case:
    """Random inputs of a method: embeddings (B, D) of its views, a teacher's matrix, and a queue that is full."""

    views: tuple[str, ...]
    seed: int = 0
    arrays: dict[str, np.ndarray] = field(init=False)
    matrix: np.ndarray = field(init=False)
    queue: np.ndarray = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        arrays = {name: rng.normal(size=(B, D)).astype(np.float32) for name in self.views}
        queue = rng.normal(size=(K, D))
        object.__setattr__(self, "arrays", arrays)
        object.__setattr__(self, "matrix", (np.eye(D) + rng.normal(size=(D, D)) / 4).astype(np.float32))
        object.__setattr__(self, "queue", (queue / np.linalg.norm(queue, axis=1, keepdims=True)).astype(np.float32))

    def ours(
        self,
        name: str,
        column: str = "",
        *,
        of: tuple[str, ...] = (),
        params: Any = None,
        buffers: Any = None,
        step: int = 0,
        **changes: Any,
    ) -> Found:
        """The loss of a method, the queue after it, and gradients.

        Args:
          name: of the method.
          column: of the queue; "": there is none.
          of: views whose gradients are wanted; by default all.
          params: of the method, beside its networks.
          buffers: of the method, where they are not a full queue.
          step: number of steps before.
          changes: settings that are not the method's defaults.
        """
        matrix = jnp.asarray(self.matrix)
        kind: Any = METHODS[name].build

        class Bare(kind):
            """The method without networks."""

            @property
            def network(self):
                return Plain(matrix if hasattr(self.settings, "teacher") or name == "seed" else None)

            @property
            def predictor(self):
                return Plain()

            def prepare(self, batch, rng):
                return batch

            def embed_views(self, params, state, batch):
                views = [view for group in self.teacher_views for view in group]
                students = [view for view in self.student_views if view in batch] or views
                queries = {view: Plain()(batch[view], True)[0] for view in students}
                return queries, {view: Plain(matrix)(batch[view], True)[0] for view in views}, {}

        view = ClipView(num_frames=1, size=1)
        method = Bare(replace(default_settings(name), **changes), Setup(ModelConfig(), view, view, 1000))
        ids = jnp.arange(B, dtype=jnp.int32)
        buffers = buffers or {}
        if column:
            slots = jnp.arange(B, B + K, dtype=jnp.int32)
            buffers = {column: self.queue, "video": slots, "label": slots, "step": 0 * slots, "pointer": jnp.int32(0)}
        state = MethodState({}, {}, {"params": {}}, buffers)

        @jax.jit
        def value(batch):
            batch = {**batch, "video": ids, "label": ids}
            found, (after, _) = method.loss(params or {}, state, batch, jax.random.key(0), jnp.int32(step))
            return found, after.buffers

        (loss, after), gradients = jax.value_and_grad(value, has_aux=True)(self.arrays)
        values = {"loss": loss} | ({"queue": after[column]} if column else {})
        return Found(values, {view: gradients[view] for view in of or self.views})


def check_row(check: Check, sources: Sources) -> tuple[str, list[str]]:
    """The row of a comparison in Markdown, and its fault: a difference without a reason."""
    cells = ", ".join(f"`{name}`" if name in METHODS else name for name in check.method.split(", "))
    if check.run is None:
        return f"| {cells} | {check.clone} | | | | {check.different} |", []
    place = f"{check.clone} {sources.commit(check.clone)}, {check.files}"
    value, gradient = differences(*check.run(sources))
    apart = max(value, gradient) > EQUAL
    verdict = f"different: {check.because or '**no reason**'}" if apart else "equal"
    note = f"{verdict}. {check.different}" if check.different else verdict
    fault = f"{check.method} and {check.clone}: value {value:.1e} and gradient {gradient:.1e} apart"
    return f"| {cells} | {place} | {check.compared} | {value:.0e} | {gradient:.0e} | {note} |", [fault] * (
        apart and not check.because
    )
