"""The weak teacher, and its label controls as settings of the same method (MoCo with one key is one of them).

Source: US12210976B2, claim 1, and H. Liu, NTU master's thesis 2021 (abstract); the equations stand in
`wt_jax.losses.weak_teacher`. A student sees a strong view; a first teacher sees another strong view of the same video;
a second, weak teacher sees a weak view. Both teachers are one pytree, the student's moving average, applied twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses import artificial_labels, info_nce, label_smoothing, relational_loss, similarity_logits, soft_cross_entropy
from wt_jax.methods import parts
from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Tree
from wt_jax.methods.settings import check
from wt_jax.models.embedder import l2_normalize
from wt_jax.queue import empty_queue, enqueue, negatives_mask
from wt_jax.specs import ClipView

LABELS = ("weak_teacher", "strong_teacher", "uniform", "one_hot", "relational")


@dataclass(frozen=True)
class WeakTeacherSettings:
    """Settings of the weak teacher. No published value of any of them was found: each default is our inference.

    Names not listed are those of `wt_jax.methods.settings`.

    Attributes:
      label: whose label the student learns. "weak_teacher": the artificial label. The controls: "one_hot" (exactly MoCo),
        "uniform" (plain label smoothing: does the teacher help, or the smoothing?), "strong_teacher" (the second teacher
        sees a strong view: does weakness help?), "relational" (no positive slot: ReSSL's form over our two queues).
      label_weight: mass that leaves the positive. 0.2 keeps the one-hot part in charge.
      label_ramp: share of the training over which that mass rises linearly from 0. An untrained teacher's similarities
        are noise; 0 switches the ramp off.
      temperature: 0.07 as in MoCo and CoCLR.
      weak_temperature: of the label. ReSSL and SEED take a sharper teacher than student; the default is equal.
      momentum: 0.999 as in MoCo.
      queue_size: of both queues; 16,384 is CoCLR's for Kinetics-400.
      weak_window: the stretch of video that the weak view sees: "key" (that of the first teacher, so that both queues
        hold the same frames in a slot; default), "query" (the student's) or "own".
      shared: "all": both teachers have the same encoder and head; "encoder": the weak teacher has no head and compares
        pooled features.
      head_norm: "" as in MoCo and CoCLR. "batch" (SimCLR, MoCo v3) spreads the embeddings of a fresh network, which lets
        short trainings with GroupNorm leave the plateau at the start.
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
    head_layers: int = 2
    head_norm: str = ""

    def __post_init__(self):
        choices = {"label": LABELS, "weak_window": ("key", "query", "own"), "shared": ("all", "encoder")}
        check(self, shares=("label_weight", "label_ramp"), least={"queue_size": 1}, **choices)

    @property
    def needs_weak_view(self) -> bool:
        """Whether a second teacher looks at all."""
        return self.label in ("weak_teacher", "strong_teacher", "relational")


@dataclass(frozen=True)
class WeakTeacher(parts.Headed):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def views(self) -> Mapping[str, ClipView]:
        """Two strong views of two windows and, where a second teacher looks, its view."""
        strong = self.setup.strong
        views = {"query": replace(strong, window="query"), "key": replace(strong, window="key")}
        if self.settings.needs_weak_view:
            second = strong if self.settings.label == "strong_teacher" else self.setup.weak
            views["weak"] = replace(second, window=self.settings.weak_window)
        return views

    @property
    def needs(self) -> Needs:
        """What the run must have."""
        return Needs(batch_multiple=self.settings.queue_size, teacher_passes=1 + self.settings.needs_weak_view)

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Student and teacher start equal; the queues start empty."""
        params, model_state = parts.first_variables(self.network, rng, batch["query"], pretrained)
        columns = {"strong": self.settings.dim}
        if self.settings.needs_weak_view:
            columns["weak"] = self.settings.dim if self.settings.shared == "all" else self.encoder.feature_dim
        return MethodState(
            params, model_state, parts.make_teacher(params, model_state), empty_queue(self.settings.queue_size, columns)
        )

    def loss(
        self,
        params: Tree,
        state: MethodState,
        batch: Batch,
        rng: Array,
        step: ArrayLike,
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean loss of the batch against the queues as they stood before it; then the batch enters them."""
        _, model_state, teacher, memory = state
        settings = self.settings
        teacher, memory = jax.lax.stop_gradient((teacher, memory))
        (query, _), model_state = parts.look(self.network, {"params": params, **model_state}, batch["query"])
        (key, _), _ = parts.look(self.network, teacher, batch["key"], after=query)
        mask = negatives_mask(memory, batch["video"], drop_same_video=settings.drop_same_video)
        entries = {"strong": key, "video": batch["video"], "label": batch["label"]}
        weight = self.label_weight(step)
        if settings.needs_weak_view:
            (weak, feature), _ = parts.look(self.network, teacher, batch["weak"], after=key)
            entries["weak"] = weak = weak if settings.shared == "all" else l2_normalize(feature)
            weak_temperature = settings.weak_temperature
            labels = artificial_labels(weak, memory["weak"], temperature=weak_temperature, label_weight=weight, mask=mask)
        else:
            labels = label_smoothing(mask, label_weight=weight)
        logits = similarity_logits(query, key, memory["strong"], temperature=settings.temperature, mask=mask)
        if settings.label == "relational":
            queues = (memory["strong"], memory["weak"])
            temperatures = {"temperature": settings.temperature, "weak_temperature": weak_temperature}
            loss = relational_loss(query, weak, *queues, **temperatures, mask=mask)
        else:
            loss = soft_cross_entropy(logits, labels)
        hard = info_nce(query, key, memory["strong"], temperature=settings.temperature, mask=mask)
        metrics = {
            "loss": jnp.mean(loss),
            "loss_one_hot": jnp.mean(hard),
            "loss_soft": jnp.mean(loss - labels[:, 0] * hard),
            **parts.accuracy(logits),
            **parts.queue_figures(memory, mask, step),
            **parts.label_figures(labels, mask, memory["label"], batch["label"]),
        }
        return metrics["loss"], (state._replace(model_state=model_state, buffers=enqueue(memory, entries, step)), metrics)

    def label_weight(self, step: ArrayLike) -> Array:
        """The label's soft mass at a step, float32 scalar: 0 for one-hot labels, 1 for purely relational ones."""
        fixed = {"one_hot": 0.0, "relational": 1.0}.get(self.settings.label)
        if fixed is not None:
            return jnp.asarray(fixed, jnp.float32)
        ramp = self.settings.label_ramp * self.setup.num_steps
        progress = jnp.minimum(jnp.asarray(step, jnp.float32) / ramp, 1.0) if ramp else jnp.ones((), jnp.float32)
        return self.settings.label_weight * progress

    def update_teacher(self, state: MethodState, step: ArrayLike) -> tuple[Tree, Metrics]:
        """The moving average of the student."""
        return parts.move_teacher(self, state, step)
