"""The weak teacher, and its label controls as settings of the same method (MoCo with one key is one of them).

Source: US12210976B2, claim 1, and H. Liu, NTU master's thesis 2021 (abstract); the equations are in
`wt_jax.losses.weak_teacher`. A student sees a strong view; a first teacher sees another strong view of the same video; a
second, weak teacher sees a weak view of the first teacher's window. Both teachers are one pytree, the student's moving
average, applied twice.
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp
from jax import Array

from wt_jax.losses import artificial_labels, info_nce, similarity_logits, weak_teacher_loss
from wt_jax.methods import label_controls
from wt_jax.methods.base import Needs
from wt_jax.methods.queue_contrast import Contrast, Embeddings, QueueContrast, Seen
from wt_jax.methods.settings import HeadSettings, QueueSettings, TeacherSettings, check
from wt_jax.specs import ClipView


@dataclass(frozen=True)
class WeakTeacherSettings:
    """Settings of the weak teacher. No published value of any of them was found: each default is our inference.

    Attributes:
      label: what the student learns, one of `LABELS`. "weak_teacher": the artificial label. The
        controls: "one_hot" (exactly MoCo), "uniform" (plain label smoothing: does the teacher help, or the smoothing?),
        "strong_teacher" (the second teacher sees a strong view: does weakness help?), "relational" (no positive slot:
        ReSSL's form over our two queues), "oracle" (the mass is on the same class: an upper bound, which needs labels).
      label_weight: mass that leaves the positive. 0.2 keeps the one-hot part in charge.
      temperature: 0.07 as in MoCo and CoCLR.
      weak_temperature: of the label. ReSSL and SEED take a sharper teacher than student; the default is equal.
      head: norm "" as in MoCo and CoCLR. "batch" (SimCLR, MoCo v3) spreads the embeddings of a fresh network, which lets
        short trainings with GroupNorm leave the plateau at the start.
      include_positive: whether the second teacher compares the first one's key too, so that the soft mass is spread over all
        slots of the logits. The claim compares with negatives; the default is our reading of it.
      symmetric: whether both strong views pass through the student and the first teacher, each the other's target; the loss is
        the mean. The second teacher then sees a weak view of both windows.
      queue: both queues in one; 16,384 is CoCLR's for Kinetics-400. The claim takes its negatives "from the set", which may
        as well be the batch: `size` 0, or both: `in_batch`.
      teacher: momentum 0.999 as in MoCo.
    """

    label: str = "weak_teacher"
    label_weight: float = 0.2
    temperature: float = 0.07
    weak_temperature: float = 0.07
    include_positive: bool = False
    symmetric: bool = False
    head: HeadSettings = HeadSettings(hidden=0)
    queue: QueueSettings = QueueSettings(16384)
    teacher: TeacherSettings = TeacherSettings()

    def __post_init__(self):
        check(self, fractions=("label_weight",), label=tuple(LABELS))


def artificial(settings: WeakTeacherSettings, seen: Seen) -> tuple[Array, Array]:
    """One-hot labels smoothed by the second teacher's similarities: y = [1 - l, l s_1, ..., l s_K].

    With the positive included s is over [k, Q], y = [1 - l + l s_0, l s_1, ..., l s_K].
    """
    q, k, w = seen.queries["query"], seen.keys["key"], seen.keys["weak"]
    q_s, q_w, mask = seen.queue["key"], seen.queue["weak"], seen.mask
    t, t_w, weight = settings.temperature, settings.weak_temperature, settings.label_weight
    both = settings.include_positive
    loss = weak_teacher_loss(
        q, k, w, q_s, q_w, temperature=t, weak_temperature=t_w, label_weight=weight, mask=mask, include_positive=both
    )
    key = k if both else None
    return loss, artificial_labels(w, q_w, temperature=t_w, label_weight=weight, mask=mask, key=key)


LABELS = {
    "weak_teacher": artificial,
    "strong_teacher": artificial,
    "uniform": label_controls.uniform,
    "one_hot": label_controls.one_hot,
    "relational": label_controls.relational,
    "oracle": label_controls.oracle,
}


@dataclass(frozen=True)
class WeakTeacher(QueueContrast):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def views(self) -> dict[str, ClipView]:
        """Two strong views of two windows and, where a second teacher is applied, its view of the first teacher's windows."""
        strong, weak = self.setup.strong, self.setup.weak
        views = {"query": replace(strong, window="query"), "key": replace(strong, window="key")}
        seconds = {"weak_teacher": weak, "strong_teacher": strong, "relational": weak}
        if self.settings.label in seconds:
            views["weak"] = replace(seconds[self.settings.label], window="key")
            if self.settings.symmetric:
                views["weak_query"] = replace(views["weak"], window="query")
        return views

    @property
    def needs(self) -> Needs:
        """As of every method with a queue, and labels for the oracle."""
        return replace(super().needs, labels=self.settings.label == "oracle")

    @property
    def student_views(self) -> tuple[str, ...]:
        """The queries."""
        return ("query", "key") if self.settings.symmetric else ("query",)

    @property
    def teacher_views(self) -> tuple[tuple[str, ...], ...]:
        """One pass of each teacher; two where both windows are its."""
        return tuple((name,) for name in self.views if name != "query" or self.settings.symmetric)

    @property
    def columns(self) -> dict[str, int]:
        """A column for each teacher."""
        return {name: self.settings.head.dim for name in ("key", "weak") if name in self.views}

    def directions(self, queries: Embeddings, keys: Embeddings) -> list[tuple[Embeddings, Embeddings]]:
        """From one strong view to the other and, in the symmetric form, back."""
        there = {name: keys[name] for name in self.columns}
        if not self.settings.symmetric:
            return [(queries, there)]
        back = {name: keys[{"key": "query", "weak": "weak_query"}[name]] for name in self.columns}
        return [({"query": queries["query"]}, there), ({"query": queries["key"]}, back)]

    def contrast(self, seen: Seen) -> Contrast:
        """Cross-entropy of the student's similarities against the label, and its one-hot and soft parts."""
        loss, labels = LABELS[self.settings.label](self.settings, seen)
        arrays = (seen.queries["query"], seen.keys["key"], seen.queue["key"])
        logits = similarity_logits(*arrays, temperature=self.settings.temperature, mask=seen.mask)
        hard = info_nce(*arrays, temperature=self.settings.temperature, mask=seen.mask)
        metrics = {"loss_one_hot": jnp.mean(hard), "loss_soft": jnp.mean(loss - labels[:, 0] * hard)}
        return Contrast(loss, metrics, logits, labels)
