"""ReSSL: the relations that the teacher sees in a weak view, learnt in a strong view; no positive.

Zheng et al. 2021 (arXiv 2107.09282). The paper crops its views from one image; here they are crops of two windows of a video.
Its weak view is a random crop and a mirror image half of the time; flips of ours are as likely as those of the strong view.
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp

from wt_jax.methods import targets
from wt_jax.methods.queue_contrast import Contrast, QueueContrast, Seen
from wt_jax.methods.settings import HeadSettings, QueueSettings, TeacherSettings, check
from wt_jax.specs import ClipView


@dataclass(frozen=True)
class ReSSLSettings:
    """Settings of ReSSL. Defaults are the authors' for ImageNet.

    Attributes:
      temperature, weak_temperature: of student and teacher; the teacher's is the sharper one.
      head: 4096 to 512 over ResNet-50's 2,048 features, without norm as in the public code.
      queue: `drop_same_video` is our addition, off in the source.
      teacher: momentum 0.999.
    """

    temperature: float = 0.1
    weak_temperature: float = 0.04
    head: HeadSettings = HeadSettings(4096, dim=512)
    queue: QueueSettings = QueueSettings(131072)
    teacher: TeacherSettings = TeacherSettings()

    def __post_init__(self):
        check(self, least={"queue.size": 1})


@dataclass(frozen=True)
class ReSSL(QueueContrast):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def views(self) -> dict[str, ClipView]:
        """A strong view for the student, a weak one of another window, mirrored as often, for the teacher."""
        strong = replace(self.setup.strong, window="query")
        return {"query": strong, "key": replace(self.setup.weak, window="key", flip_probability=strong.flip_probability)}

    def contrast(self, seen: Seen) -> Contrast:
        """Cross-entropy of the two similarity distributions over the queue (eq. 5)."""
        t, t_w = self.settings.temperature, self.settings.weak_temperature
        loss, labels = targets.related(seen, "key", temperature=t, weak_temperature=t_w)
        similarity = jnp.sum(seen.queries["query"] * seen.keys["key"], axis=-1)
        return Contrast(loss, {"positive_similarity": jnp.mean(similarity)}, labels=labels)
