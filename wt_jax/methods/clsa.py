"""CLSA: a stronger augmentation, whose similarities shall be those of the ordinary one.

Wang & Qi 2021 (arXiv 2104.07713). What the paper calls weak is MoCo v2's augmentation, here `config.views.strong`; its strong
view takes five random operations on top, several of which this project does not have. Ours is the same view with its
color jitter made certain and stronger: our inference.
"""

from dataclasses import dataclass, replace

from wt_jax.losses import clsa_loss, similarity_labels, similarity_logits
from wt_jax.methods.queue_contrast import Contrast, QueueContrast, Seen
from wt_jax.methods.settings import HeadSettings, QueueSettings, TeacherSettings, check
from wt_jax.specs import ClipView, PixelSpec


@dataclass(frozen=True)
class CLSASettings:
    """Settings of CLSA.

    Attributes:
      temperature, divergence_temperature, divergence_weight: the authors' 0.2, 0.2 and 1.
      separate_passes: whether a BatchNorm normalizes each clip by itself, as in the source; otherwise all clips at once.
      strength: factor on the jitter of the stronger view; ours.
      head: MoCo v2's, on which the authors build.
      queue, teacher: the authors' 65,536 and 0.999. As in their code the keys of the batch's other videos are negatives too,
        in both terms. `drop_same_video` is our addition, off in the source.
    """

    temperature: float = 0.2
    divergence_temperature: float = 0.2
    divergence_weight: float = 1.0
    separate_passes: bool = True
    strength: float = 2.0
    head: HeadSettings = HeadSettings()
    queue: QueueSettings = QueueSettings(in_batch=True)
    teacher: TeacherSettings = TeacherSettings()

    def __post_init__(self):
        check(self, least={"queue.size": 1, "divergence_weight": 0, "strength": 1})


@dataclass(frozen=True)
class CLSA(QueueContrast):
    """The method; see `wt_jax.methods.base.Method`."""

    student_views = ("weak", "strong")

    @property
    def views(self) -> dict[str, ClipView]:
        """The student's ordinary and stronger views of one window, the teacher's ordinary view of another."""
        query = replace(self.setup.strong, window="query")
        strong = replace(query, pixels=stronger(query.pixels, self.settings.strength))
        return {"weak": query, "strong": strong, "key": replace(query, window="key")}

    @property
    def separate_passes(self) -> bool:
        """As the settings say."""
        return self.settings.separate_passes

    def contrast(self, seen: Seen) -> Contrast:
        """InfoNCE plus the distributional divergence between weak and strong view."""
        settings, mask, queue = self.settings, seen.mask, seen.queue["key"]
        weak, strong, key = seen.queries["weak"], seen.queries["strong"], seen.keys["key"]
        loss = clsa_loss(
            strong,
            weak,
            key,
            queue,
            temperature=settings.temperature,
            divergence_temperature=settings.divergence_temperature,
            weight=settings.divergence_weight,
            mask=mask,
        )
        labels = similarity_labels(weak, key, queue, temperature=settings.divergence_temperature, mask=mask)
        logits = similarity_logits(weak, key, queue, temperature=settings.temperature, mask=mask)
        return Contrast(loss, {}, logits, labels)


def stronger(pixels: PixelSpec, strength: float) -> PixelSpec:
    """The same pixels with certain jitter of `strength` times the range, at most down to black, flat, gray or half a turn."""
    ranges = {name: min(1.0, strength * getattr(pixels, name)) for name in ("brightness", "contrast", "saturation")}
    return replace(pixels, jitter_probability=1.0, hue=min(0.5, strength * pixels.hue), **ranges)
