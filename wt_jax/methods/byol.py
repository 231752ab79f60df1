"""BYOL: predict the teacher's embedding of another clip; no negatives (rho-BYOL with more clips).

Grill et al. 2020 (arXiv 2006.07733), on videos: Feichtenhofer et al. 2021 (arXiv 2104.14558).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses import byol_loss
from wt_jax.methods.base import Batch, MethodState, Metrics, Tree
from wt_jax.methods.forward import Averaged, clip_views, student_then_teacher
from wt_jax.methods.settings import HeadSettings, TeacherSettings, check
from wt_jax.models.embedder import Embedder
from wt_jax.specs import ClipView


@dataclass(frozen=True)
class BYOLSettings:
    """Settings of BYOL.

    The rho study trains it with LARS. Its best results have `clips` 4; 2 costs what the other methods cost.

    Attributes:
      clips: of a video, each from a window of its own.
      separate_passes: whether a BatchNorm normalizes each clip by itself, as in the source; otherwise all clips at once.
      head: head and predictor of two linear maps, 4096 wide with BatchNorm, to 256 in the source.
      teacher: momentum from 0.996 by a cosine in the source.
    """

    clips: int = 2
    separate_passes: bool = True
    head: HeadSettings = HeadSettings(4096, norm="batch", dim=256)
    teacher: TeacherSettings = TeacherSettings(0.996, "cosine")

    def __post_init__(self):
        check(self, least={"clips": 2})


@dataclass(frozen=True)
class BYOL(Averaged):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def student(self) -> Embedder:
        """Encoder, head and predictor."""
        return self.predictor

    @property
    def views(self) -> dict[str, ClipView]:
        """Strong views of as many windows as there are clips."""
        return clip_views(self.setup.strong, self.settings.clips)

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean of |prediction - target|^2 (eq. 2) over all ordered pairs of clips (the symmetric loss of section 3.1).

        The source adds the two directions of two clips, which is twice this.
        """
        clips, teacher = [batch[name] for name in self.views], jax.lax.stop_gradient(state.teacher)
        student = {"params": params, **state.model_state}
        arguments = (self.student, student, clips, self.network, teacher, [clips])
        predictions, targets, model_state = student_then_teacher(*arguments, separate=self.settings.separate_passes)
        losses = [byol_loss(p, t) for i, p in enumerate(predictions) for j, t in enumerate(targets) if i != j]
        metrics = {
            "loss": jnp.mean(jnp.stack(losses)),
            # 0: all videos have one embedding, the collapse that a method without negatives may come to.
            "target_deviation": jnp.mean(jnp.std(targets[0], axis=0)) * self.settings.head.dim**0.5,
        }
        return metrics["loss"], (state._replace(model_state=model_state), metrics)
