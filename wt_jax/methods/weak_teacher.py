"""The weak teacher, and its label controls as settings of the same method (MoCo is one of them).

Source: US12210976B2, claim 1, and H. Liu, NTU master's thesis 2021 (abstract); the equations stand in
`wt_jax.losses.weak_teacher`. A student sees a strong view; a first teacher sees another strong view of the same video;
a second, weak teacher sees a weak view. Both teachers are one pytree, the student's moving average, applied twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.data.views import ViewSpec
from wt_jax.losses import (
    artificial_labels,
    info_nce,
    label_smoothing,
    relational_loss,
    similarity_logits,
    soft_cross_entropy,
)
from wt_jax.methods.base import Init, Tree, with_encoder
from wt_jax.models.embedder import l2_normalise
from wt_jax.queue import Queue, empty_queue, enqueue, negatives_mask
from wt_jax.teacher import cosine_momentum, distance, ema_update

LABELS = ("weak_teacher", "strong_teacher", "uniform", "one_hot", "relational")


@dataclass(frozen=True)
class WeakTeacherSettings:
    """Settings of the weak teacher. No published value of any of them was found: each default is our inference.

    Attributes:
      label: whose label the student learns. "weak_teacher": the artificial label. The controls: "one_hot" (exactly MoCo),
        "uniform" (plain label smoothing: does the teacher help, or the smoothing?), "strong_teacher" (the second teacher
        sees a strong view: does weakness help?), "relational" (no positive slot: ReSSL's form over our two queues).
      label_weight: mass that leaves the positive. 0.2 keeps the one-hot part in charge.
      label_ramp: share of the training over which that mass rises linearly from 0. An untrained teacher's similarities
        are noise; 0 switches the ramp off.
      temperature: of the logits; 0.07 as in MoCo and CoCLR.
      weak_temperature: of the label. ReSSL and SEED take a sharper teacher than student; the default is equal.
      momentum: of the teacher's average per step; 0.999 as in MoCo.
      momentum_schedule: "constant", or "cosine" (rises to 1 as in BYOL).
      queue_size: slots of both queues, a multiple of the batch; 16,384 is CoCLR's for Kinetics-400.
      weak_window: the stretch of video that the weak view sees: "key" (that of the first teacher, so that both queues
        hold the same frames in a slot; default), "query" (the student's) or "own".
      shared: "all": both teachers have the same encoder and head; "encoder": the weak teacher has no head and compares
        pooled features.
      drop_same_video: keep older clips of the same video from being negatives (CoCLR carries video names for this).
      hidden, dim: widths of the head, Linear-ReLU-Linear; hidden 0: as wide as the encoder's feature.
      head_norm: "" (MoCo, CoCLR) or "batch": BatchNorm before the ReLU (SimCLR, MoCo v3). It spreads the embeddings of a
        fresh network, which lets short trainings with GroupNorm leave the plateau at the start.
    """

    label: str = "weak_teacher"
    label_weight: float = 0.2
    label_ramp: float = 0.0
    temperature: float = 0.07
    weak_temperature: float = 0.07
    momentum: float = 0.999
    momentum_schedule: str = "constant"
    queue_size: int = 16384
    weak_window: str = "key"
    shared: str = "all"
    drop_same_video: bool = True
    hidden: int = 0
    dim: int = 128
    head_norm: str = ""

    def __post_init__(self):
        choices = {
            "label": LABELS,
            "momentum_schedule": ("constant", "cosine"),
            "weak_window": ("key", "query", "own"),
            "shared": ("all", "encoder"),
            "head_norm": ("", "batch"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("label_weight", "label_ramp", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("temperature", "weak_temperature", "queue_size", "dim"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    @property
    def needs_weak_view(self) -> bool:
        """Whether a second teacher looks at all."""
        return self.label in ("weak_teacher", "strong_teacher", "relational")


@dataclass(frozen=True)
class WeakTeacher:
    """The method; see `wt_jax.methods.base.Method`. `network` is an `Embedder`."""

    settings: WeakTeacherSettings
    network: nn.Module
    strong: ViewSpec
    weak: ViewSpec
    num_steps: int
    start: str = ""

    @property
    def views(self) -> Mapping[str, ViewSpec]:
        """Two strong views of two windows and, where a second teacher looks, its view."""
        views = {"query": replace(self.strong, window="query"), "key": replace(self.strong, window="key")}
        if self.settings.needs_weak_view:
            second = self.strong if self.settings.label == "strong_teacher" else self.weak
            views["weak"] = replace(second, window=self.settings.weak_window)
        return views

    @property
    def encoder(self) -> nn.Module:
        """The student's encoder."""
        return self.network.encoder

    @property
    def weights(self) -> Mapping[str, str]:
        """Where the encoder starts from, if it is named."""
        return {"encoder": self.start} if self.start else {}

    def init(self, rng: Array, batch: Mapping[str, Array], given: Mapping[str, Tree]) -> Init:
        """Student and teacher start equal; the queues start empty."""
        variables = with_encoder(self.network.init(rng, batch["query"][:1], False), given.get("encoder"))
        params, model_state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
        columns = {"strong": self.settings.dim}
        if self.settings.needs_weak_view:
            whole = self.settings.shared == "all"
            columns["weak"] = self.settings.dim if whole else self.network.encoder.feature_dim
        # A copy: student and teacher are donated to the step, and one buffer cannot be donated twice.
        teacher = jax.tree.map(jnp.copy, {"params": params, **model_state})
        return Init(params, model_state, teacher, empty_queue(self.settings.queue_size, columns))

    def loss(
        self,
        params: Tree,
        model_state: Tree,
        teacher: Tree,
        memory: Queue,
        batch: Mapping[str, Array],
        rng: Array,
        step: ArrayLike,
    ) -> tuple[Array, tuple[Tree, Queue, dict[str, Array]]]:
        """Mean loss of the batch against the queues as they stood before it; then the batch enters them."""
        settings = self.settings
        teacher, memory = jax.lax.stop_gradient((teacher, memory))
        (query, _), model_state = self._look({"params": params, **model_state}, batch["query"])
        (key, _), _ = self._look(teacher, batch["key"])
        mask = negatives_mask(memory, batch["video"], drop_same_video=settings.drop_same_video)
        entries = {"strong": key, "video": batch["video"], "label": batch["label"]}
        weight = self.label_weight(step)
        if settings.needs_weak_view:
            (weak, feature), _ = self._look(teacher, batch["weak"])
            entries["weak"] = weak = weak if settings.shared == "all" else l2_normalise(feature)
            weak_temperature = settings.weak_temperature
            labels = artificial_labels(weak, memory["weak"], temperature=weak_temperature, label_weight=weight, mask=mask)
        else:
            labels = label_smoothing(mask, label_weight=weight)
        logits = similarity_logits(query, key, memory["strong"], temperature=settings.temperature, mask=mask)
        if settings.label == "relational":
            loss = relational_loss(
                query,
                weak,
                memory["strong"],
                memory["weak"],
                temperature=settings.temperature,
                weak_temperature=weak_temperature,
                mask=mask,
            )
        else:
            loss = soft_cross_entropy(logits, labels)
        hard = info_nce(query, key, memory["strong"], temperature=settings.temperature, mask=mask)
        metrics = {
            "loss": jnp.mean(loss),
            "loss_one_hot": jnp.mean(hard),
            "loss_soft": jnp.mean(loss - labels[:, 0] * hard),
            "instance_accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == 0, dtype=jnp.float32),
            "label_entropy": jnp.mean(jnp.sum(jax.scipy.special.entr(labels), axis=-1)),
            "negatives": jnp.mean(jnp.sum(mask, axis=-1, dtype=jnp.float32)),
            "queue_age": _mean_where(jnp.asarray(step - memory["step"], jnp.float32), memory["step"] >= 0),
            "teacher_distance": distance(teacher["params"], params),
            **_same_class(labels, mask, memory["label"], batch["label"]),
        }
        return metrics["loss"], (model_state, enqueue(memory, entries, step), metrics)

    def label_weight(self, step: ArrayLike) -> Array:
        """The label's soft mass at a step, float32 scalar: 0 for one-hot labels, 1 for purely relational ones."""
        fixed = {"one_hot": 0.0, "relational": 1.0}.get(self.settings.label)
        if fixed is not None:
            return jnp.asarray(fixed, jnp.float32)
        ramp = self.settings.label_ramp * self.num_steps
        progress = jnp.minimum(jnp.asarray(step, jnp.float32) / ramp, 1.0) if ramp else jnp.ones((), jnp.float32)
        return self.settings.label_weight * progress

    def update_teacher(self, teacher: Tree, params: Tree, model_state: Tree, step: ArrayLike) -> Tree:
        """The moving average of the student's parameters and of its BatchNorm statistics alike."""
        momentum = self.settings.momentum
        if self.settings.momentum_schedule == "cosine":
            momentum = cosine_momentum(momentum, step, self.num_steps)
        return ema_update(teacher, {"params": params, **model_state}, momentum)

    def _look(self, variables: Tree, clips: Array) -> tuple[tuple[Array, Array], Tree]:
        """A training-mode pass. Teachers too normalise by the batch they see, as MoCo's key encoder does."""
        return self.network.apply(variables, clips, True, mutable=["batch_stats"])


def _mean_where(values: Array, where: Array) -> Array:
    return jnp.sum(jnp.where(where, values, 0.0)) / jnp.maximum(jnp.sum(where, dtype=jnp.float32), 1.0)


def _same_class(labels: Array, mask: Array, queue_label: Array, label: Array) -> dict[str, Array]:
    """How much of the label's soft mass falls on videos of the same class, and how much chance would give; NaN if unknown."""
    same = (queue_label[None, :] == label[:, None]) & (label[:, None] >= 0) & mask
    soft = labels[:, 1:]

    def share(weights: Array) -> Array:
        return jnp.sum(jnp.where(same, weights, 0.0)) / jnp.sum(jnp.where(label[:, None] >= 0, weights, 0.0))

    return {"label_mass_same_class": share(soft), "negatives_same_class": share(mask.astype(jnp.float32))}
