"""What the trainer asks of a method. A method is a frozen dataclass with no arrays inside; the trainer never knows its name."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from jax import Array
from jax.typing import ArrayLike

from wt_jax.data.views import ViewSpec

Tree = Any  # a pytree of arrays


class Init(NamedTuple):
    """Everything a method carries from step to step, as plain pytrees.

    Attributes:
      params: what the optimiser trains.
      model_state: what a forward pass of the student changes (BatchNorm statistics).
      teacher: what `update_teacher` moves; empty if there is none.
      memory: queues and running centres.
    """

    params: Tree
    model_state: Tree
    teacher: Tree
    memory: Tree


class Method(Protocol):
    """One way to learn from views of videos.

    `batch` maps each view's name to (B, T, S, S, 3) float32, and holds `video` and `label` (B,) int32 (label -1: unknown).
    """

    @property
    def views(self) -> Mapping[str, ViewSpec]:
        """The views that the pipeline must produce."""
        ...

    def init(self, rng: Array, batch: Mapping[str, Array]) -> Init:
        """Fresh parameters and state for batches like this one."""
        ...

    def loss(
        self,
        params: Tree,
        model_state: Tree,
        teacher: Tree,
        memory: Tree,
        batch: Mapping[str, Array],
        rng: Array,
        step: ArrayLike,
    ) -> tuple[Array, tuple[Tree, Tree, dict[str, Array]]]:
        """Scalar loss, and the new model state, the new memory and scalar metrics."""
        ...

    def update_teacher(self, teacher: Tree, params: Tree, model_state: Tree, step: ArrayLike) -> Tree:
        """The teacher after a step of the student."""
        ...

    def features(self, params: Tree, model_state: Tree, clips: Array) -> Array:
        """What evaluation reads: (B, T, S, S, 3) float32 clips -> (B, D) float32."""
        ...
