"""CO2: MoCo, and query and key shall be alike to the same negatives.

Wei et al. 2021 (arXiv 2010.02217). The key's similarities to the queue are a pseudo label for the query's.
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp

from wt_jax.losses import co2_loss, info_nce, similarity_logits
from wt_jax.methods.queue_contrast import Contrast, QueueContrast, Seen
from wt_jax.methods.settings import HeadSettings, QueueSettings, TeacherSettings, check
from wt_jax.specs import ClipView


@dataclass(frozen=True)
class CO2Settings:
    """Settings of CO2.

    Attributes:
      consistency_temperature, consistency_weight: the authors' values could not be read; these are those of lightly's
        implementation.
      temperature, head, queue, teacher: MoCo v2's, on which the authors build; which of them they changed could not be
        read: our inference. `drop_same_video` is our addition, off in the source.
    """

    temperature: float = 0.2
    consistency_temperature: float = 0.05
    consistency_weight: float = 1.0
    head: HeadSettings = HeadSettings()
    queue: QueueSettings = QueueSettings()
    teacher: TeacherSettings = TeacherSettings()

    def __post_init__(self):
        check(self, least={"queue.size": 1, "consistency_weight": 0})


@dataclass(frozen=True)
class CO2(QueueContrast):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def views(self) -> dict[str, ClipView]:
        """Two strong views of two windows."""
        return {name: replace(self.setup.strong, window=name) for name in ("query", "key")}

    def contrast(self, seen: Seen) -> Contrast:
        """InfoNCE plus the consistency of query and key over the queue."""
        settings = self.settings
        arrays = (seen.queries["query"], seen.keys["key"], seen.queue["key"])
        common = {"temperature": settings.temperature, "mask": seen.mask}
        loss = co2_loss(
            *arrays,
            consistency_temperature=settings.consistency_temperature,
            weight=settings.consistency_weight,
            **common,
        )
        hard = info_nce(*arrays, **common)
        metrics = {"loss_one_hot": jnp.mean(hard), "loss_consistency": jnp.mean(loss - hard)}
        return Contrast(loss, metrics, similarity_logits(*arrays, **common))
