"""SimCLR on videos, which is CVRL: clips of one video attract, clips of the batch's other videos repel.

SimCLR: Chen et al. 2020 (arXiv 2002.05709); CVRL: Qian et al. 2021 (arXiv 2008.03800); with more clips: Feichtenhofer et al.
2021 (arXiv 2104.14558). No teacher, no queue. CVRL draws the gap of its two clips from a linearly decreasing distribution;
here `config.clip.gap` keeps them apart.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses import nt_xent
from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Tree
from wt_jax.methods.forward import Headed, apply_clips, clip_views
from wt_jax.methods.settings import HeadSettings, check
from wt_jax.specs import ClipView


@dataclass(frozen=True)
class SimCLRSettings:
    """Settings of SimCLR. CVRL's: two clips, temperature 0.1, four linear maps of 2048 to 128 with BatchNorm.


    Attributes:
      clips: of a video, each from a window of its own.
      separate_passes: whether a BatchNorm normalizes each clip by itself (the rho study) or all clips at once (the source).
      temperature: of the logits.
      head: SimCLR's has two or three maps with BatchNorm, the rho study's three without norm.
    """

    clips: int = 2
    separate_passes: bool = False
    temperature: float = 0.1
    head: HeadSettings = HeadSettings(layers=4, norm="batch")

    def __post_init__(self):
        check(self, least={"clips": 2})


@dataclass(frozen=True)
class SimCLR(Headed):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def views(self) -> dict[str, ClipView]:
        """Strong views of as many windows as there are clips."""
        return clip_views(self.setup.strong, self.settings.clips)

    @property
    def needs(self) -> Needs:
        """Other videos in the batch."""
        return Needs(min_batch=2, reason="negatives come from the batch")

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean NT-Xent over the batch and over pairs of clips (SimCLR, eq. 1, also a mean)."""
        clips = [batch[name] for name in self.views]
        variables, separate = {"params": params, **state.model_state}, self.settings.separate_passes
        embeddings, model_state = apply_clips(self.network, variables, clips, separate)
        views = jnp.stack(embeddings, axis=1)
        metrics = {
            "loss": jnp.mean(nt_xent(views, temperature=self.settings.temperature)),
            "positive_similarity": jnp.mean(jnp.sum(views[:, 0] * views[:, 1], axis=-1)),
        }
        return metrics["loss"], (state._replace(model_state=model_state), metrics)
