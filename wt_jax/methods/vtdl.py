"""VTDL: another segment of the same video is a negative, so that what stays the same in a video cannot be the answer.

Wang et al. 2020 (arXiv 2008.02129) and its public code. Anchor and positive are the same segment under two augmentations; the
anchor is disturbed by Temporal Consistent Augmentation, which keeps its motion.
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp
from jax import Array

from wt_jax.augment import mix_frame
from wt_jax.losses import similarity_logits, vtdl_loss
from wt_jax.methods.base import Batch
from wt_jax.methods.queue_contrast import Contrast, QueueContrast, Seen
from wt_jax.methods.settings import HeadSettings, QueueSettings, TeacherSettings, check
from wt_jax.specs import ClipView


@dataclass(frozen=True)
class VTDLSettings:
    """Settings of VTDL. Defaults are the authors' for UCF101.

    Its basic augmentation also rotates by up to 10 degrees and never mirrors; here the views are those of the configuration.
    Its negative starts 2 frames or more away; here `config.clip.gap` does that.

    Attributes:
      mix: largest fraction of a frame that is mixed into the anchor; 0: no Temporal Consistent Augmentation.
      separate_passes: whether a BatchNorm normalizes each clip by itself, as in the source; otherwise all clips at once.
      temperature, teacher: 0.07 and momentum 0.999.
      head: one linear map to 128, so `hidden` has no effect.
      queue: 5,000 in the source; the next multiple of usual batches here. `drop_same_video` is our addition, off there.
    """

    mix: float = 0.1
    separate_passes: bool = True
    temperature: float = 0.07
    head: HeadSettings = HeadSettings(0, layers=1)
    queue: QueueSettings = QueueSettings(5120)
    teacher: TeacherSettings = TeacherSettings()

    def __post_init__(self):
        check(self, fractions=("mix",), least={"queue.size": 1})


@dataclass(frozen=True)
class VTDL(QueueContrast):
    """The method; see `wt_jax.methods.base.Method`."""

    student_views = ("anchor", "negative")
    teacher_views = (("positive",),)

    @property
    def views(self) -> dict[str, ClipView]:
        """Two strong views of one window, and one of another."""
        windows = {"anchor": "segment", "positive": "segment", "negative": "other"}
        return {name: replace(self.setup.strong, window=window) for name, window in windows.items()}

    @property
    def separate_passes(self) -> bool:
        """As the settings say."""
        return self.settings.separate_passes

    def prepare(self, batch: Batch, rng: Array) -> Batch:
        """Temporal Consistent Augmentation of the anchor."""
        return {**batch, "anchor": mix_frame(batch["anchor"], batch["video"], rng, self.settings.mix)}

    def contrast(self, seen: Seen) -> Contrast:
        """InfoNCE with the student's own view of another segment among the negatives."""
        query, negative, key = seen.queries["anchor"], seen.queries["negative"], seen.keys["positive"]
        queue, common = seen.queue["positive"], {"temperature": self.settings.temperature, "mask": seen.mask}
        loss = vtdl_loss(query, key, negative, queue, **common)
        nearer = jnp.sum(query * key, axis=-1) > jnp.sum(query * negative, axis=-1)
        metrics = {"segment_accuracy": jnp.mean(nearer, dtype=jnp.float32)}
        return Contrast(loss, metrics, similarity_logits(query, key, queue, **common))
