"""What several methods do alike: networks, training-mode passes, teachers, figures to watch."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax import ops
from wt_jax.methods.base import Built, MethodState, Tree, if_logged, with_encoder
from wt_jax.models.embedder import Embedder
from wt_jax.models.heads import MLP
from wt_jax.queue import Queue
from wt_jax.specs import ClipView
from wt_jax.teacher import cosine_momentum, distance, ema_update


def clip_views(view: ClipView, count: int) -> dict[str, ClipView]:
    """`count` views of one kind, "clip1", "clip2", ..., each in a window of its own."""
    return {f"clip{i}": dataclasses.replace(view, window=str(i)) for i in range(1, count + 1)}


def make_head(settings: Any, encoder: nn.Module, out: int | None = None) -> MLP:
    """The head that `hidden`, `dim`, `head_layers` and `head_norm` of the settings describe; `out` replaces `dim`."""
    hidden = settings.hidden or encoder.feature_dim
    return MLP(hidden=hidden, out=out or settings.dim, layers=settings.head_layers, norm=settings.head_norm or None)


class Headed(Built):
    """A method that trains an encoder and one head on it, and whatever else it adds."""

    @property
    def head(self) -> nn.Module:
        """The head that the settings describe."""
        return make_head(self.settings, self.encoder)

    @property
    def network(self) -> Embedder:
        """Encoder and head, of student and teachers alike."""
        return Embedder(self.encoder, self.head)

    def embed(self, params: Tree, model_state: Tree, clips: Array) -> Array:
        """The student's embedding (B, D), for evaluation; a predictor and what else stands behind the head is left out."""
        variables = {"params": params, **model_state}
        own = {k: {name: v[name] for name in ("encoder", "head") if name in v} for k, v in variables.items()}
        return Embedder(self.encoder, self.head).apply(own, clips, False)[0]


def with_predictor(settings: Any, network: Embedder) -> Embedder:
    """`network` with a predictor behind it: two layers, as wide as the head, BatchNorm if the head has it."""
    width, norm = settings.hidden or network.encoder.feature_dim, settings.head_norm or None
    return Embedder(network.encoder, network.head, MLP(hidden=width, out=settings.dim, layers=2, norm=norm))


def first_variables(
    network: nn.Module, rng: Array, clips: Array, pretrained: Mapping[str, Tree], *others: Array
) -> tuple[Tree, Tree]:
    """Fresh parameters and model state of a network, its encoder's replaced by the pretrained ones, if any."""
    variables = with_encoder(network.init(rng, clips[:1], *(x[:1] for x in others), False), pretrained.get("encoder"))
    return variables["params"], {name: part for name, part in variables.items() if name != "params"}


def look(network: nn.Module, variables: Tree, *clips: Array, after: Array | None = None) -> tuple[Any, Tree]:
    """A training-mode pass: outputs, and the new collections.

    Teachers too normalize by the batch they see, as MoCo's key encoder does. A pass that is not differentiated may be told
    to come after an array of another one (`wt_jax.ops.after`).
    """
    if after is not None:
        clips = tuple(ops.after(clip, after) for clip in clips)
    return network.apply(variables, *clips, True, mutable=["batch_stats"])


def look_at_all(network: nn.Module, variables: Tree, clips: Sequence[Array]) -> tuple[list[Any], Tree]:
    """One training-mode pass over several clips of each video: outputs per clip, and the new collections.

    A video's clips stand side by side in the pass, so that each stays on its device. A BatchNorm sees them all at once.
    """
    count = len(clips)
    flat = jnp.stack(clips, axis=1).reshape(-1, *clips[0].shape[1:])
    outputs, state = look(network, variables, flat)
    parts = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]), outputs)
    return [jax.tree.map(lambda x, i=i: x[:, i], parts) for i in range(count)], state


def make_teacher(params: Tree, model_state: Tree, without: Sequence[str] = ()) -> Tree:
    """A teacher equal to the student, but for the parts that only students have.

    A copy: student and teacher are donated to the step, and one buffer cannot be donated twice.
    """
    teacher = {"params": params, **model_state}
    return jax.tree.map(jnp.copy, {k: {n: p for n, p in v.items() if n not in without} for k, v in teacher.items()})


def move_teacher(method: Built, state: MethodState, step: ArrayLike) -> tuple[Tree, dict[str, Array]]:
    """The moving average of the student's parameters and of its BatchNorm statistics alike, where the teacher has them.

    `momentum` and `momentum_schedule` of the method's settings say how far it moves. The metric is how far it is from the
    student then, where that is written: measured before, it would have both kept from being overwritten where they lie.
    """
    momentum = method.settings.momentum
    if method.settings.momentum_schedule == "cosine":
        momentum = cosine_momentum(momentum, step, method.setup.num_steps)
    student = {"params": state.params, **state.model_state}
    student = {k: {n: student[k][n] for n in v} for k, v in state.teacher.items()}
    teacher = ema_update(state.teacher, student, momentum)
    when = {"step": step, "log_every": method.setup.log_every, "num_steps": method.setup.num_steps}
    return teacher, {"teacher_distance": if_logged(distance, teacher["params"], student["params"], **when)}


def queue_figures(memory: Queue, mask: Array, step: ArrayLike) -> dict[str, Array]:
    """How many negatives a clip has, and how old they are, in steps."""
    age, filled = jnp.asarray(step - memory["step"], jnp.float32), memory["step"] >= 0
    return {
        "negatives": jnp.mean(jnp.sum(mask, axis=-1, dtype=jnp.float32)),
        "queue_age": jnp.sum(jnp.where(filled, age, 0.0)) / jnp.maximum(jnp.sum(filled, dtype=jnp.float32), 1.0),
    }


def label_figures(labels: Array, mask: Array, queue_label: Array, label: Array) -> dict[str, Array]:
    """Entropy of the target; how much of its soft mass is on videos of the same class, and what chance gives (NaN: unknown)."""
    same = (queue_label[None, :] == label[:, None]) & (label[:, None] >= 0) & mask

    def share(weights: Array) -> Array:
        return jnp.sum(jnp.where(same, weights, 0.0)) / jnp.sum(jnp.where(label[:, None] >= 0, weights, 0.0))

    return {
        "label_entropy": jnp.mean(jnp.sum(jax.scipy.special.entr(labels), axis=-1)),
        "label_mass_same_class": share(labels[:, 1:]),
        "negatives_same_class": share(mask.astype(jnp.float32)),
    }


def accuracy(logits: Array) -> dict[str, Array]:
    """How often the positive in slot 0 is the nearest."""
    return {"instance_accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == 0, dtype=jnp.float32)}
