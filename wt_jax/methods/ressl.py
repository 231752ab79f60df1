"""ReSSL: the relations that the teacher sees in a weak view, learnt in a strong view; no positive.

Zheng et al. 2021 (arXiv 2107.09282). The paper cuts its views from one image; here they are cut from two windows of a video.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses import relational_loss, similarity_labels
from wt_jax.methods import parts
from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Tree
from wt_jax.methods.settings import check
from wt_jax.queue import empty_queue, enqueue, negatives_mask
from wt_jax.specs import ClipView


@dataclass(frozen=True)
class ReSSLSettings:
    """Settings of ReSSL; names not listed are those of `wt_jax.methods.settings`. Defaults are the authors' for ImageNet.

    Attributes:
      temperature, weak_temperature: of student and teacher; the teacher's is the sharper one.
      hidden, dim: 4096 and 512 over ResNet-50's 2,048 features.
      drop_same_video: our addition, off in the source.
      head_norm: our inference: not found in the source that could be read.
    """

    temperature: float = 0.1
    weak_temperature: float = 0.04
    momentum: float = 0.999
    momentum_schedule: str = "constant"
    queue_size: int = 131072
    drop_same_video: bool = True
    hidden: int = 4096
    dim: int = 512
    head_layers: int = 2
    head_norm: str = "batch"

    def __post_init__(self):
        check(self, least={"queue_size": 1})


@dataclass(frozen=True)
class ReSSL(parts.Headed):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def views(self) -> Mapping[str, ClipView]:
        """A strong view for the student, a weak one of another window for the teacher."""
        return {"query": replace(self.setup.strong, window="query"), "key": replace(self.setup.weak, window="key")}

    @property
    def needs(self) -> Needs:
        """What the run must have."""
        return Needs(batch_multiple=self.settings.queue_size, teacher_passes=1)

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Student and teacher start equal; the queue starts empty."""
        params, model_state = parts.first_variables(self.network, rng, batch["query"], pretrained)
        queue = empty_queue(self.settings.queue_size, {"key": self.settings.dim})
        return MethodState(params, model_state, parts.make_teacher(params, model_state), queue)

    def loss(
        self,
        params: Tree,
        state: MethodState,
        batch: Batch,
        rng: Array,
        step: ArrayLike,
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean cross-entropy of the two similarity distributions over the queue (eq. 5)."""
        _, model_state, teacher, memory = state
        settings = self.settings
        teacher, memory = jax.lax.stop_gradient((teacher, memory))
        (query, _), model_state = parts.look(self.network, {"params": params, **model_state}, batch["query"])
        (key, _), _ = parts.look(self.network, teacher, batch["key"], after=query)
        mask = negatives_mask(memory, batch["video"], drop_same_video=settings.drop_same_video)
        temperatures = {"temperature": settings.temperature, "weak_temperature": settings.weak_temperature}
        loss = relational_loss(query, key, memory["key"], memory["key"], **temperatures, mask=mask)
        labels = similarity_labels(key, None, memory["key"], temperature=settings.weak_temperature, mask=mask)
        metrics = {
            "loss": jnp.mean(loss),
            "positive_similarity": jnp.mean(jnp.sum(query * key, axis=-1)),
            **parts.queue_figures(memory, mask, step),
            **parts.label_figures(labels, mask, memory["label"], batch["label"]),
        }
        memory = enqueue(memory, {"key": key, "video": batch["video"], "label": batch["label"]}, step)
        return metrics["loss"], (state._replace(model_state=model_state, buffers=memory), metrics)

    def update_teacher(self, state: MethodState, step: ArrayLike) -> tuple[Tree, Metrics]:
        """The moving average of the student."""
        return parts.move_teacher(self, state, step)
