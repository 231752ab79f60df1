"""Networks, forward passes and teachers, as several methods have them.

B: videos of the batch. A pass in training mode normalizes by the batch it sees, also that of a teacher, as MoCo's key encoder
does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.errors import ConfigError
from wt_jax.methods.base import Batch, Built, MethodState, Metrics, Needs, Tree, if_logged, with_encoder
from wt_jax.methods.settings import MLPSettings
from wt_jax.models.embedder import Embedder
from wt_jax.models.heads import MLP
from wt_jax.models.vit import ViT
from wt_jax.specs import ClipView
from wt_jax.teacher import MOMENTA, distance, ema_update


def clip_views(view: ClipView, count: int) -> dict[str, ClipView]:
    """`count` views of one kind, "clip1", "clip2", ..., each in a window of its own."""
    return {f"clip{i}": replace(view, window=str(i)) for i in range(1, count + 1)}


def make_head(settings: MLPSettings, encoder: nn.Module, dim: int, center: bool = False) -> MLP:
    """The head on `encoder`, to `dim` numbers, that settings describe; `center` as in `MLP`."""
    return MLP(settings.hidden or encoder.feature_dim, dim, settings.layers, settings.norm or None, center=center)


@dataclass(frozen=True)
class Trained(Built):
    """A student and nothing else."""

    @property
    def student(self) -> nn.Module:
        """The network that is trained."""
        raise NotImplementedError

    def inputs(self, batch: Batch) -> tuple[Array, ...]:
        """What the network is initialized with: the first view."""
        return (batch[next(iter(self.views))],)

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Fresh variables, and the pretrained encoder, if any."""
        return MethodState(*first_variables(self.student, rng, self.inputs(batch), pretrained), {}, {})


@dataclass(frozen=True)
class Tokens(Trained):
    """A student whose encoder is a vision transformer that can leave tokens out."""

    @property
    def transformer(self) -> ViT:
        """The encoder; ConfigError for one of another kind."""
        encoder = self.encoder
        if not isinstance(encoder, ViT) or encoder.form.attention != "joint":
            raise ConfigError("config.model must be a vision transformer, with config.model.vit.attention 'joint'")
        return encoder


@dataclass(frozen=True)
class Headed(Trained):
    """A student: an encoder and the head of `settings.head` on it."""

    @property
    def head(self) -> MLP:
        """The projection head."""
        return make_head(self.settings.head, self.encoder, self.settings.head.dim)

    @property
    def network(self) -> nn.Module:
        """Encoder and head."""
        return Embedder(self.encoder, self.head)

    @property
    def student(self) -> nn.Module:
        """`network`, and what a method adds to it."""
        return self.network

    @property
    def predictor(self) -> Embedder:
        """`network` with a predictor on top: two linear maps, as wide as the head, BatchNorm if the head has it."""
        head = self.head
        return Embedder(self.encoder, head, MLP(head.hidden, head.out, 2, head.norm))

    def embed(self, params: Tree, model_state: Tree, clips: Array) -> Array:
        """The embedding (B, D) of the head, for evaluation."""
        variables = {"params": params, **model_state}
        parts = {k: {name: v[name] for name in ("encoder", "head") if name in v} for k, v in variables.items()}
        return Embedder(self.encoder, self.head).apply(parts, clips, False)[0]


@dataclass(frozen=True)
class Taught(Trained):
    """A student, and a teacher that is its moving average by `settings.teacher`, without a predictor."""

    @property
    def needs(self) -> Needs:
        """One pass of the teacher."""
        return Needs(teacher_passes=1)

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Student and teacher start equal."""
        state = super().init(rng, batch, pretrained)
        student = {"params": state.params, **state.model_state}
        parts = {k: {name: part for name, part in v.items() if name != "predictor"} for k, v in student.items()}
        # A copy: student and teacher are donated to the step, and one buffer cannot be donated twice.
        return state._replace(teacher=jax.tree.map(jnp.copy, parts))

    def update_teacher(self, state: MethodState, step: ArrayLike) -> tuple[Tree, Metrics]:
        """Moves the teacher's parameters and BatchNorm statistics alike.

        The metric is the distance of teacher and student after that: before, it would keep both from being overwritten where
        they are.
        """
        settings, num_steps = self.settings.teacher, self.setup.num_steps
        momentum = MOMENTA[settings.schedule](settings.momentum, step, round(settings.stretch * num_steps))
        student = {"params": state.params, **state.model_state}
        student = {k: {name: student[k][name] for name in v} for k, v in state.teacher.items()}
        teacher = ema_update(state.teacher, student, momentum)
        trees, logged = (teacher["params"], student["params"]), {"log_every": self.setup.log_every, "num_steps": num_steps}
        return teacher, {"teacher_distance": if_logged(distance, *trees, step=step, **logged)}


@dataclass(frozen=True)
class Averaged(Headed, Taught):
    """A student with a head, and a teacher that is its moving average."""


def first_variables(
    network: nn.Module, rng: Array, inputs: Sequence[Array], pretrained: Mapping[str, Tree]
) -> tuple[Tree, Tree]:
    """Fresh parameters and model state of a network, its encoder's replaced by the pretrained ones, if any."""
    variables = with_encoder(network.init(rng, *(x[:1] for x in inputs), False), pretrained.get("encoder"))
    return variables["params"], {name: part for name, part in variables.items() if name != "params"}


def apply(network: nn.Module, variables: Tree, *inputs: Any, **options: Any) -> tuple[Any, Tree]:
    """A pass in training mode: outputs, and the new collections."""
    return network.apply(variables, *inputs, True, mutable=["batch_stats"], **options)


def apply_clips(network: nn.Module, variables: Tree, clips: Sequence[Array], separate: bool = True) -> tuple[list[Array], Tree]:
    """An embedder on several clips of each video: embeddings (B, D) per clip, and the new collections.

    Where there is a BatchNorm and clips are `separate`, each has a pass of its own, one after the other. Otherwise there is one
    pass, in which the clips of a video are neighbors, so that each stays on its device; a BatchNorm sees them all at once.
    """
    if separate and "batch_stats" in variables:
        found, state = [], {}
        for clip in clips:
            (embeddings, _), state = apply(network, {**variables, **state}, clip)
            found.append(embeddings)
        return found, state
    flat = jnp.stack(clips, axis=1).reshape(-1, *clips[0].shape[1:])
    (embeddings, _), state = apply(network, variables, flat)
    embeddings = embeddings.reshape(-1, len(clips), *embeddings.shape[1:])
    return [embeddings[:, i] for i in range(len(clips))], state


def shuffle(rows: Array, parts: int) -> Array:
    """The rows (B, ...) of `parts` contiguous parts in turn, one of each, so that every new part has rows of all old ones.

    MoCo shuffles by chance what each device's BatchNorm sees (section 3.3); this order is the same for every batch.
    """
    if parts in (1, len(rows)):
        return rows
    return rows.reshape(parts, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)


def student_then_teacher(
    student: nn.Module,
    student_variables: Tree,
    clips: Sequence[Array],
    teacher: nn.Module,
    teacher_variables: Tree,
    passes: Sequence[Sequence[Array]],
    *,
    separate: bool = True,
    parts: int = 1,
) -> tuple[list[Array], list[Array], Tree]:
    """The student on clips, then the teacher on groups of clips.

    Args:
      student, student_variables, clips: as in `apply_clips`.
      teacher, teacher_variables: the same.
      passes: groups of clips; each has a pass of its own.
      separate: whether clips have passes of their own too; see `apply_clips`.
      parts: that the encoder's BatchNorm divides the batch into. The teacher's passes see the videos shuffled among them; its
        embeddings are put back in order. So a key is not normalized together with the videos that its query was.

    Returns:
      Embeddings (B, D) of the student's clips; those of the teacher's clips, pass by pass; the student's new collections.
    """
    queries, model_state = apply_clips(student, student_variables, clips, separate)
    keys = []
    for group in passes:
        shuffled = [shuffle(clip, parts) for clip in group]
        found = apply_clips(teacher, teacher_variables, shuffled, separate)[0]
        keys += [shuffle(key, len(key) // parts) for key in found]
    return queries, keys, model_state
