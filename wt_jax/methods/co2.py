"""CO2: MoCo, and query and key shall be alike to the same negatives.

Wei et al. 2021 (arXiv 2010.02217). The key's similarities to the queue are a pseudo label for the query's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses import co2_loss, info_nce, similarity_logits
from wt_jax.methods import parts
from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Tree
from wt_jax.methods.settings import check
from wt_jax.queue import empty_queue, enqueue, negatives_mask
from wt_jax.specs import ClipView


@dataclass(frozen=True)
class CO2Settings:
    """Settings of CO2; names not listed are those of `wt_jax.methods.settings`.

    Attributes:
      consistency_temperature, consistency_weight: the authors' values could not be read; these are those of lightly's
        implementation.
      temperature, momentum, queue_size, hidden, dim, head_layers, head_norm: MoCo v2's, on which the authors build; which of
        them they changed could not be read: our inference.
      drop_same_video: our addition, off in the source.
    """

    temperature: float = 0.2
    consistency_temperature: float = 0.05
    consistency_weight: float = 1.0
    momentum: float = 0.999
    momentum_schedule: str = "constant"
    queue_size: int = 65536
    drop_same_video: bool = True
    hidden: int = 2048
    dim: int = 128
    head_layers: int = 2
    head_norm: str = ""

    def __post_init__(self):
        check(self, least={"queue_size": 1, "consistency_weight": 0})


@dataclass(frozen=True)
class CO2(parts.Headed):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def views(self) -> Mapping[str, ClipView]:
        """Two strong views of two windows."""
        return {name: replace(self.setup.strong, window=name) for name in ("query", "key")}

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
        """Mean of InfoNCE plus the consistency of query and key over the queue."""
        _, model_state, teacher, memory = state
        settings = self.settings
        teacher, memory = jax.lax.stop_gradient((teacher, memory))
        (query, _), model_state = parts.look(self.network, {"params": params, **model_state}, batch["query"])
        (key, _), _ = parts.look(self.network, teacher, batch["key"], after=query)
        mask = negatives_mask(memory, batch["video"], drop_same_video=settings.drop_same_video)
        loss = co2_loss(
            query,
            key,
            memory["key"],
            temperature=settings.temperature,
            consistency_temperature=settings.consistency_temperature,
            weight=settings.consistency_weight,
            mask=mask,
        )
        hard = info_nce(query, key, memory["key"], temperature=settings.temperature, mask=mask)
        logits = similarity_logits(query, key, memory["key"], temperature=settings.temperature, mask=mask)
        metrics = {
            "loss": jnp.mean(loss),
            "loss_one_hot": jnp.mean(hard),
            "loss_consistency": jnp.mean(loss - hard),
            **parts.accuracy(logits),
            **parts.queue_figures(memory, mask, step),
        }
        memory = enqueue(memory, {"key": key, "video": batch["video"], "label": batch["label"]}, step)
        return metrics["loss"], (state._replace(model_state=model_state, buffers=memory), metrics)

    def update_teacher(self, state: MethodState, step: ArrayLike) -> tuple[Tree, Metrics]:
        """The moving average of the student."""
        return parts.move_teacher(self, state, step)
