"""SEED: a small student learns the relations that a frozen, trained and possibly larger teacher sees.

Fang et al. 2021 (arXiv 2101.04731) and its public code. The teacher is any exported encoder (`wt_jax.weights.folder`), of
videos or of images applied to clips. The paper's teacher ends in its own projection head; an exported encoder has none, so
here its pooled feature is the embedding and the student's head has its width: our inference.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.errors import ConfigError
from wt_jax.losses import seed_loss, similarity_labels, similarity_logits
from wt_jax.methods.base import Batch, MethodState, Metrics, Pretrained, Tree
from wt_jax.methods.forward import apply_clips, make_head
from wt_jax.methods.queue_contrast import Contrast, Embeddings, QueueContrast, Seen
from wt_jax.methods.settings import MLPSettings, QueueSettings, check
from wt_jax.models import build_encoder
from wt_jax.models.embedder import l2_normalize
from wt_jax.models.heads import MLP
from wt_jax.specs import ClipView
from wt_jax.weights.folder import load_encoder


@dataclass(frozen=True)
class SEEDSettings:
    """Settings of SEED.

    Attributes:
      teacher_weights: folder of the teacher's exported weights.
      temperature, teacher_temperature: 0.2 and 1e-4, the code's defaults: the teacher's label is almost one-hot.
      head: Linear-ReLU-Linear in the source, to the teacher's width.
      queue: of teacher embeddings; 65,536 as in the source. `drop_same_video` is our addition, off in the source.
    """

    teacher_weights: str = ""
    temperature: float = 0.2
    teacher_temperature: float = 1e-4
    head: MLPSettings = MLPSettings()
    queue: QueueSettings = QueueSettings()

    def __post_init__(self):
        check(self, least={"queue.size": 1})


@dataclass(frozen=True)
class SEED(QueueContrast):
    """The method; see `wt_jax.methods.base.Method`."""

    teacher_views = (("clip",),)

    def __post_init__(self):
        if not self.settings.teacher_weights:
            raise ConfigError("config.method.teacher_weights is empty; name the folder of a trained encoder's exported weights")

    @cached_property
    def teacher(self) -> nn.Module:
        """The teacher's encoder, as its folder describes it."""
        return build_encoder(load_encoder(self.settings.teacher_weights)[0])

    @property
    def head(self) -> MLP:
        """As wide as the teacher's feature."""
        return make_head(self.settings.head, self.encoder, self.teacher.feature_dim)

    @property
    def columns(self) -> dict[str, int]:
        """The teacher's features."""
        return {"clip": self.teacher.feature_dim}

    @property
    def views(self) -> dict[str, ClipView]:
        """One strong view: student and teacher see the same."""
        return {"clip": replace(self.setup.strong, window="clip")}

    @property
    def pretrained(self) -> Mapping[str, Pretrained]:
        """The teacher, and what the student starts from, if that is named."""
        return {**super().pretrained, "teacher": Pretrained(self.settings.teacher_weights)}

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """A fresh student, the pretrained teacher, an empty queue."""
        state = super().init(rng, batch, pretrained)
        return state._replace(teacher=jax.tree.map(jnp.asarray, dict(pretrained["teacher"])))

    def embed_views(self, params: Tree, state: MethodState, batch: Batch) -> tuple[Embeddings, Embeddings, Tree]:
        """The student's embedding and the frozen teacher's, which normalizes by its own statistics."""
        (student,), model_state = apply_clips(self.network, {"params": params, **state.model_state}, [batch["clip"]])
        feature: Any = self.teacher.apply(state.teacher, batch["clip"], False)
        return {"clip": student}, {"clip": l2_normalize(feature)}, model_state

    def contrast(self, seen: Seen) -> Contrast:
        """Cross-entropy of the student's similarities against the teacher's, both over the teacher's embeddings."""
        student, key, queue = seen.queries["clip"], seen.keys["clip"], seen.queue["clip"]
        t, t_teacher, mask = self.settings.temperature, self.settings.teacher_temperature, seen.mask
        loss = seed_loss(student, key, queue, temperature=t, teacher_temperature=t_teacher, mask=mask)
        labels = similarity_labels(key, key, queue, temperature=t_teacher, mask=mask)
        return Contrast(loss, {}, similarity_logits(student, key, queue, temperature=t, mask=mask), labels)

    def update_teacher(self, state: MethodState, step: ArrayLike) -> tuple[Tree, Metrics]:
        """The teacher is frozen."""
        return state.teacher, {}
