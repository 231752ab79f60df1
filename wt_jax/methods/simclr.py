"""SimCLR on videos, which is CVRL: clips of one video attract, clips of the batch's other videos repel.

SimCLR: Chen et al. 2020 (arXiv 2002.05709); CVRL: Qian et al. 2021 (arXiv 2008.03800); with more clips: Feichtenhofer et al.
2021 (arXiv 2104.14558). No teacher, no queue. CVRL draws the gap of its two clips from a linearly decreasing distribution;
here `config.clip.gap` keeps them apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses import nt_xent
from wt_jax.methods import parts
from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Tree
from wt_jax.methods.settings import check
from wt_jax.specs import ClipView


@dataclass(frozen=True)
class SimCLRSettings:
    """Settings of SimCLR; names are those of `wt_jax.methods.settings`.

    CVRL's: two clips, temperature 0.1, three linear maps of 2048 to 128. A BatchNorm in the head is SimCLR's.
    """

    clips: int = 2
    temperature: float = 0.1
    hidden: int = 2048
    dim: int = 128
    head_layers: int = 3
    head_norm: str = "batch"

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class SimCLR(parts.Headed):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def views(self) -> Mapping[str, ClipView]:
        """Strong views of as many windows as there are clips."""
        return parts.clip_views(self.setup.strong, self.settings.clips)

    @property
    def needs(self) -> Needs:
        """What the run must have."""
        return Needs(min_batch=2, reason="negatives come from the batch")

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """A student and nothing else."""
        return MethodState(*parts.first_variables(self.network, rng, batch["clip1"], pretrained), {}, {})

    def loss(
        self,
        params: Tree,
        state: MethodState,
        batch: Batch,
        rng: Array,
        step: ArrayLike,
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean NT-Xent of the batch (SimCLR, eq. 1)."""
        _, model_state, teacher, memory = state
        clips = [batch[name] for name in self.views]
        looks, model_state = parts.look_at_all(self.network, {"params": params, **model_state}, clips)
        views = jnp.stack([embedding for embedding, _ in looks], axis=1)
        metrics = {
            "loss": jnp.mean(nt_xent(views, temperature=self.settings.temperature)),
            "positive_similarity": jnp.mean(jnp.sum(views[:, 0] * views[:, 1], axis=-1)),
        }
        return metrics["loss"], (state._replace(model_state=model_state, buffers=memory), metrics)
