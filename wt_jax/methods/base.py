"""What the trainer asks of a method, and what a method is built from.

A method is a frozen dataclass with no arrays inside; the trainer never knows its name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from wt_jax.models import ModelConfig, build_encoder
from wt_jax.specs import ClipView

Tree = Any  # a pytree of arrays


class Init(NamedTuple):
    """Everything a method carries from step to step, as plain pytrees.

    Attributes:
      params: what the optimizer trains; its entry "encoder" is what evaluation reads.
      model_state: what a forward pass of the student changes (BatchNorm statistics), by flax collection, each again with
        an entry "encoder" where the encoder has any.
      teacher: what `update_teacher` moves; empty if there is none.
      memory: queues and running centers.
    """

    params: Tree
    model_state: Tree
    teacher: Tree
    memory: Tree


class Method(Protocol):
    """One way to learn from views of videos.

    `batch` maps each view's name to (B, T, S, S, 3) float32 in [0, 1], and holds `video` and `label` (B,) int32 (label -1:
    unknown).
    """

    @property
    def views(self) -> Mapping[str, ClipView]:
        """The views that the pipeline must produce."""
        ...

    @property
    def encoder(self) -> nn.Module:
        """The module of `params["encoder"]`: what is pre-trained, evaluated and exported."""
        ...

    @property
    def weights(self) -> Mapping[str, str]:
        """Folders of exported weights (`wt_jax.weights.folder`) that `init` is to be given, by names of the method's choice."""
        ...

    def init(self, rng: Array, batch: Mapping[str, Array], given: Mapping[str, Tree]) -> Init:
        """Fresh parameters and state for batches like this one; `given` holds the variables of each of `weights`."""
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

    def update_teacher(self, teacher: Tree, params: Tree, model_state: Tree, step: ArrayLike) -> tuple[Tree, dict[str, Array]]:
        """The teacher after a step of the student, and scalar metrics of it."""
        ...


@runtime_checkable
class Embeds(Protocol):
    """A method with a head on its encoder whose output can be evaluated too; a method need not have one."""

    def embed(self, params: Tree, model_state: Tree, clips: Array) -> Array:
        """Embeddings (B, D) float32 of clips (B, T, S, S, 3) float32 in [0, 1], as the trained student makes them."""
        ...


@dataclass(frozen=True)
class Setup:
    """What a configuration gives to every method alike.

    Attributes:
      model: the encoder to pre-train.
      strong, weak: the two kinds of training view; a method names their windows.
      num_steps: steps of the whole training.
      log_every: the metrics of every so many steps are written, and those of the last one.
    """

    model: ModelConfig
    strong: ClipView
    weak: ClipView
    num_steps: int
    log_every: int = 1


@dataclass(frozen=True)
class Built:
    """The fields that the methods of this package share, and the two answers that follow from them alone."""

    settings: Any
    setup: Setup

    @property
    def encoder(self) -> nn.Module:
        """The encoder that the configuration names."""
        return build_encoder(self.setup.model)

    @property
    def weights(self) -> Mapping[str, str]:
        """Where the encoder starts from, if the configuration names a folder."""
        return {"encoder": self.setup.model.weights} if self.setup.model.weights else {}


def where_written(figure: Callable[..., Array], *trees: Tree, step: ArrayLike, log_every: int, num_steps: int) -> Array:
    """`figure(*trees)`, a float32 scalar, in steps whose metrics are written, and NaN in all others.

    For figures of whole networks, which take a share of a small batch's step. `step` counts the steps before this one;
    `log_every` and `num_steps` are those of `Setup`.
    """
    number = jnp.asarray(step) + 1
    written = (number % log_every == 0) | (number == num_steps)
    return lax.cond(written, figure, lambda *_: jnp.full((), jnp.nan, jnp.float32), *trees)


def encoder_variables(params: Tree, model_state: Tree) -> Tree:
    """The flax variables of the encoder within those of a method."""
    state = {name: collection["encoder"] for name, collection in model_state.items() if "encoder" in collection}
    return {"params": params["encoder"], **state}


def with_encoder(variables: Tree, encoder: Tree | None) -> Tree:
    """`variables` of a whole network with those of its encoder replaced; None leaves them as they are."""
    if encoder is None:
        return variables
    return {name: {**part, "encoder": encoder[name]} if name in encoder else part for name, part in variables.items()}
