"""SEED: a small student learns the relations that a frozen, trained and possibly larger teacher sees.

Fang et al. 2021 (arXiv 2101.04731) and its public code. The teacher is any exported encoder (`wt_jax.weights.folder`), of
videos or of images applied to clips. The paper's teacher ends in its own projection head; an exported encoder has none, so
here its pooled feature is the embedding and the student's head has its width: our inference.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.errors import ConfigError
from wt_jax.losses import seed_loss, similarity_labels, similarity_logits
from wt_jax.methods import parts
from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Pretrained, Tree
from wt_jax.methods.settings import check
from wt_jax.models import build_encoder
from wt_jax.models.embedder import l2_normalize
from wt_jax.queue import empty_queue, enqueue, negatives_mask
from wt_jax.specs import ClipView
from wt_jax.weights.folder import load_encoder


@dataclass(frozen=True)
class SEEDSettings:
    """Settings of SEED; names not listed are those of `wt_jax.methods.settings`.

    Attributes:
      teacher: folder of the teacher's exported weights.
      temperature, teacher_temperature: 0.2 and 1e-4, the code's defaults: the teacher's label is almost one-hot.
      queue_size: of teacher embeddings; 65,536 as in the source.
      hidden, head_layers, head_norm: Linear-ReLU-Linear in the source, to the teacher's width.
      drop_same_video: our addition, off in the source.
    """

    teacher: str = ""
    temperature: float = 0.2
    teacher_temperature: float = 1e-4
    queue_size: int = 65536
    drop_same_video: bool = True
    hidden: int = 0
    head_layers: int = 2
    head_norm: str = ""

    def __post_init__(self):
        check(self, least={"queue_size": 1})


@dataclass(frozen=True)
class SEED(parts.Headed):
    """The method; see `wt_jax.methods.base.Method`."""

    def __post_init__(self):
        if not self.settings.teacher:
            raise ConfigError("config.method.teacher is empty; name the folder of a trained encoder's exported weights")

    @cached_property
    def teacher(self) -> nn.Module:
        """The teacher's encoder, as its folder describes it."""
        return build_encoder(load_encoder(Path(self.settings.teacher))[0])

    @property
    def head(self) -> nn.Module:
        """As wide as the teacher's feature."""
        return parts.make_head(self.settings, self.encoder, self.teacher.feature_dim)

    @property
    def views(self) -> Mapping[str, ClipView]:
        """One strong view: student and teacher see the same."""
        return {"clip": replace(self.setup.strong, window="clip")}

    @property
    def pretrained(self) -> Mapping[str, Pretrained]:
        """The teacher's, and those that the student starts from, if they are named."""
        return {**super().pretrained, "teacher": Pretrained(self.settings.teacher)}

    @property
    def needs(self) -> Needs:
        """What the run must have."""
        return Needs(batch_multiple=self.settings.queue_size, teacher_passes=1)

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """A fresh student, the pretrained teacher, an empty queue of teacher embeddings."""
        params, model_state = parts.first_variables(self.network, rng, batch["clip"], pretrained)
        teacher = jax.tree.map(jnp.asarray, dict(pretrained["teacher"]))
        return MethodState(
            params, model_state, teacher, empty_queue(self.settings.queue_size, {"key": self.teacher.feature_dim})
        )

    def loss(
        self,
        params: Tree,
        state: MethodState,
        batch: Batch,
        rng: Array,
        step: ArrayLike,
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean cross-entropy of the student's similarities against the teacher's, both over the teacher's embeddings."""
        _, model_state, teacher, memory = state
        settings = self.settings
        teacher, memory = jax.lax.stop_gradient((teacher, memory))
        (student, _), model_state = parts.look(self.network, {"params": params, **model_state}, batch["clip"])
        key = l2_normalize(self.teacher.apply(teacher, batch["clip"], False))  # frozen: by its own statistics
        mask = negatives_mask(memory, batch["video"], drop_same_video=settings.drop_same_video)
        temperatures = {"temperature": settings.temperature, "teacher_temperature": settings.teacher_temperature}
        loss = seed_loss(student, key, memory["key"], **temperatures, mask=mask)
        labels = similarity_labels(key, key, memory["key"], temperature=settings.teacher_temperature, mask=mask)
        logits = similarity_logits(student, key, memory["key"], temperature=settings.temperature, mask=mask)
        metrics = {
            "loss": jnp.mean(loss),
            **parts.accuracy(logits),
            **parts.queue_figures(memory, mask, step),
            **parts.label_figures(labels, mask, memory["label"], batch["label"]),
        }
        memory = enqueue(memory, {"key": key, "video": batch["video"], "label": batch["label"]}, step)
        return metrics["loss"], (state._replace(model_state=model_state, buffers=memory), metrics)
