"""The contract of a method, and what it is built from.

A method is a frozen dataclass with no arrays inside; the trainer knows neither its name nor anything outside this list.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from wt_jax.config import ModelConfig
from wt_jax.models import build_encoder
from wt_jax.specs import AudioView, ClipView, View

Tree = Any  # a pytree of arrays
Batch = Mapping[str, Array]
Metrics = dict[str, Array]  # scalar float32


class MethodState(NamedTuple):
    """Everything that a method carries from step to step, as plain pytrees.

    Attributes:
      params: trained by the optimizer; the entry "encoder" is the encoder's.
      model_state: what is no parameter, by flax collection, each again with an entry "encoder" where the encoder has any:
        changed by a forward pass of the student (BatchNorm statistics), or constant (a frozen part of the encoder).
      teacher: returned by `update_teacher`, as {"params": ...} and collections like `model_state`; empty if there is none.
      buffers: queues and running centers, returned by `loss`.
    """

    params: Tree
    model_state: Tree
    teacher: Tree
    buffers: Tree


@dataclass(frozen=True)
class Pretrained:
    """Stored arrays that a method starts from.

    Attributes:
      folder: where they are.
      kind: "encoder": flax variables (`wt_jax.weights.folder`); "table": {"features": (N, D) float32}
        (`wt_jax.weights.table`).
      like: of an encoder, the model that it must equal; None: any.
    """

    folder: str
    kind: Literal["encoder", "table"] = "encoder"
    like: ModelConfig | None = None


@dataclass(frozen=True)
class Needs:
    """What a method requires of a run; checked before any device is touched.

    Attributes:
      batch_multiple: slots of its queue (`config.method.queue.size`), a multiple of the batch size; 0: there is no queue.
      min_batch: fewest videos in a piece of a batch (all of it, without accumulation).
      reason: for `min_batch`, for the error message.
      labels: whether it learns from the labels of the training videos.
      frozen: parts of `params` ("name" or "name.name") and the number of first steps in which no optimizer changes them;
        infinity: never.
      teacher_passes: forward passes of a step that read `teacher`.
    """

    batch_multiple: int = 0
    min_batch: int = 1
    reason: str = ""
    labels: bool = False
    frozen: Mapping[str, float] = field(default_factory=dict)
    teacher_passes: int = 0


class Method(Protocol):
    """One way to learn from views of videos.

    A batch maps "NAME" and "NAME.SUFFIX" to the arrays of each view, B rows each, after `wt_jax.augment.finish_views`: clips
    are (B, T, S, S, 3) float32 in [0, 1]. It also holds `video` and `label` (B,) int32 (label -1: unknown).
    """

    @property
    def views(self) -> Mapping[str, View]:
        """The views that the pipeline must produce."""
        ...

    @property
    def model(self) -> ModelConfig:
        """What describes `encoder`: an export holds it."""
        ...

    @property
    def encoder(self) -> nn.Module:
        """The module of `params["encoder"]`, `build_encoder(model)`: what is pre-trained, evaluated and exported."""
        ...

    @property
    def evaluated(self) -> Literal["student", "teacher"]:
        """The tree that evaluation, best checkpoint and export read: `params` and `model_state`, or `teacher`."""
        ...

    @property
    def pretrained(self) -> Mapping[str, Pretrained]:
        """The stored arrays that `init` needs, by names of the method's choice."""
        ...

    @property
    def needs(self) -> Needs:
        """What the run must have."""
        ...

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """The first state, for batches like this one; `pretrained` holds the arrays of each of `self.pretrained`."""
        ...

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Scalar loss of `params`; the state with new `model_state` and `buffers`, and metrics.

        `state.params` is not read: gradient flows into `params` alone.
        """
        ...

    def update_teacher(self, state: MethodState, step: ArrayLike) -> tuple[Tree, Metrics]:
        """The teacher after a step of the student, whose new `params` and `model_state` are in `state`; and metrics."""
        ...


@runtime_checkable
class Embeds(Protocol):
    """A method with a head on its encoder whose output can be evaluated too; a method need not have one."""

    def embed(self, params: Tree, model_state: Tree, clips: Array) -> Array:
        """Embeddings (B, D) float32 of clips (B, T, S, S, 3) float32 in [0, 1], by the evaluated tree."""
        ...


@runtime_checkable
class EmbedsSound(Embeds, Protocol):
    """A method whose head puts clips and sound into one space."""

    @property
    def sound(self) -> AudioView:
        """The sound that it reads, of the window of a clip."""
        ...

    def embed_sound(self, params: Tree, model_state: Tree, spectrograms: Array) -> Array:
        """Embeddings (B, D) float32 of spectrograms (B, columns, bands) float32, by the evaluated tree."""
        ...


@dataclass(frozen=True)
class Setup:
    """What every method gets from a configuration.

    Attributes:
      model: the encoder to pre-train.
      strong, weak: the two kinds of training view; a method names their windows.
      num_steps: steps of the whole training.
      log_every: the metrics of every so many steps are written, and those of the last one.
      num_classes: of the training videos; 0: unknown.
      pieces: that a batch is cut into; `loss` is called once for each.
    """

    model: ModelConfig
    strong: ClipView
    weak: ClipView
    num_steps: int
    log_every: int = 1
    num_classes: int = 0
    pieces: int = 1


@dataclass(frozen=True)
class Built:
    """The fields that the methods of this package share, and the answers that follow from them alone."""

    settings: Any
    setup: Setup

    @property
    def views(self) -> Mapping[str, View]:
        """Each method has its own."""
        raise NotImplementedError

    @property
    def model(self) -> ModelConfig:
        """That of the configuration."""
        return self.setup.model

    @property
    def encoder(self) -> nn.Module:
        """The encoder that the model names."""
        return build_encoder(self.model)

    @property
    def evaluated(self) -> Literal["student", "teacher"]:
        """The trained network."""
        return "student"

    @property
    def pretrained(self) -> Mapping[str, Pretrained]:
        """The encoder's first weights, if the configuration names a folder."""
        model = self.setup.model
        return {"encoder": Pretrained(model.weights, "encoder", model)} if model.weights else {}

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def update_teacher(self, state: MethodState, step: ArrayLike) -> tuple[Tree, Metrics]:
        """There is none, or it is frozen."""
        return state.teacher, {}


def if_logged(metric: Callable[..., Array], *trees: Tree, step: ArrayLike, log_every: int, num_steps: int) -> Array:
    """`metric(*trees)`, a float32 scalar, in steps whose metrics are written, and NaN in all others.

    For metrics of whole networks, which take a part of a small batch's step. `step` counts the steps before this one;
    `log_every` and `num_steps` are those of `Setup`.
    """
    number = jnp.asarray(step) + 1
    written = (number % log_every == 0) | (number == num_steps)
    return lax.cond(written, metric, lambda *_: jnp.full((), jnp.nan, jnp.float32), *trees)


def evaluated_tree(evaluated: str, state: Any) -> tuple[Tree, Tree]:
    """(params, model_state) of the tree that a method's `evaluated` names, of a `MethodState` or `TrainState`."""
    if evaluated == "student":
        return state.params, state.model_state
    return state.teacher["params"], {name: part for name, part in state.teacher.items() if name != "params"}


def encoder_variables(params: Tree, model_state: Tree) -> Tree:
    """The flax variables of the encoder within those of a method."""
    state = {name: collection["encoder"] for name, collection in model_state.items() if "encoder" in collection}
    return {"params": params["encoder"], **state}


def with_encoder(variables: Tree, encoder: Tree | None) -> Tree:
    """`variables` of a whole network with those of its encoder replaced; None leaves them as they are."""
    if encoder is None:
        return variables
    return {name: {**part, "encoder": encoder[name]} if name in encoder else part for name, part in variables.items()}
