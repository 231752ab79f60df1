"""MoCo with any number of positives (rho-MoCo), in the form that the rho study released.

MoCo: He et al. 2020 (arXiv 1911.05722), v2: arXiv 2003.04297; with more clips: Feichtenhofer et al. 2021 (arXiv 2104.14558).
As in its released code each clip is the query once and the teacher's views of all others are its keys; the loss is the mean
over the keys of a query and the sum over the queries, and the keys of all clips enter the queue. Its code takes no step until
the queue is full; here an empty slot is no negative.

With two clips, one of them the query, this is the weak teacher with label weight 0: the control `one_hot`.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp

from wt_jax.losses import info_nce, similarity_logits
from wt_jax.methods.forward import clip_views
from wt_jax.methods.queue_contrast import Contrast, Embeddings, QueueContrast, Seen
from wt_jax.methods.settings import HeadSettings, QueueSettings, TeacherSettings, check
from wt_jax.specs import ClipView


@dataclass(frozen=True)
class MoCoSettings:
    """Settings of MoCo.

    Defaults are the rho study's: temperature 0.1, momentum from 0.994 by a cosine, queue 65,536, three linear maps of 2048 to
    128 without norm. Its best results have `clips` 4; 2 is the default because it costs what the other methods cost.

    Attributes:
      clips: of a video, each from a window of its own.
      symmetric: every clip is the query once and the losses are summed, so that the gradient of C clips is C times that of a
        mean; otherwise only the first clip is a query, and all others are keys (MoCo, MoCo v2).
      predictor: a predictor on the student, as MoCo v3 has one (arXiv 2104.02057). The rest of v3 is not here: a projector
        that ends with a norm, momentum 0.99, a loss times twice the temperature.
      separate_passes: whether a BatchNorm normalizes each clip by itself, as in the source; otherwise all clips at once.
      temperature: of the logits.
      queue: size 0 takes the negatives from the batch's own keys, for each pair those of one clip. `drop_same_video` is our
        addition, off in the source; it has no effect where the queue is small against the data.
    """

    clips: int = 2
    symmetric: bool = True
    predictor: bool = False
    separate_passes: bool = True
    temperature: float = 0.1
    head: HeadSettings = HeadSettings(layers=3)
    queue: QueueSettings = QueueSettings()
    teacher: TeacherSettings = TeacherSettings(0.994, "cosine")

    def __post_init__(self):
        check(self, least={"clips": 2})


@dataclass(frozen=True)
class MoCo(QueueContrast):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def student(self) -> nn.Module:
        """Encoder and head, and a predictor if there is one."""
        return self.predictor if self.settings.predictor else self.network

    @property
    def views(self) -> dict[str, ClipView]:
        """Strong views of as many windows as there are clips."""
        return clip_views(self.setup.strong, self.settings.clips)

    @property
    def student_views(self) -> tuple[str, ...]:
        """The queries."""
        return tuple(self.views) if self.settings.symmetric else ("clip1",)

    @property
    def teacher_views(self) -> tuple[tuple[str, ...], ...]:
        """The keys, in one pass."""
        return (tuple(self.views)[0 if self.settings.symmetric else 1 :],)

    @property
    def separate_passes(self) -> bool:
        """As the settings say."""
        return self.settings.separate_passes

    @property
    def columns(self) -> dict[str, int]:
        """All keys enter one column."""
        return {"key": self.settings.head.dim}

    def entries(self, keys: Embeddings) -> list[Embeddings]:
        """One key of each video after the other."""
        return [{"key": key} for key in keys.values()]

    def contrast(self, seen: Seen) -> Contrast:
        """InfoNCE (eq. 1): the mean over the keys of the other clips, summed over the queries."""
        common = {"temperature": self.settings.temperature, "mask": seen.mask}
        pairs = [
            (query, key, self.with_batch(key, seen.queue.get("key")))
            for query_name, query in seen.queries.items()
            for key_name, key in seen.keys.items()
            if query_name != key_name
        ]
        losses = [info_nce(*pair, **common) for pair in pairs]
        loss = len(seen.queries) * jnp.mean(jnp.stack(losses), axis=0)  # each query has as many keys
        return Contrast(loss, {}, similarity_logits(*pairs[0], **common))
