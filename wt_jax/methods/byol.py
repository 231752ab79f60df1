"""BYOL: predict the teacher's embedding of another clip; no negatives (rho-BYOL with more clips).

Grill et al. 2020 (arXiv 2006.07733), on videos: Feichtenhofer et al. 2021 (arXiv 2104.14558).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses import byol_loss
from wt_jax.methods import parts
from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Tree
from wt_jax.methods.settings import check
from wt_jax.specs import ClipView


@dataclass(frozen=True)
class BYOLSettings:
    """Settings of BYOL; names are those of `wt_jax.methods.settings`.

    The source's: momentum from 0.996 by a cosine, head and predictor of two linear maps, 4096 wide with BatchNorm, to 256.
    The rho study trains it with LARS. Its best figures have `clips` 4; 2 costs what the other methods cost.
    """

    clips: int = 2
    momentum: float = 0.996
    momentum_schedule: str = "cosine"
    hidden: int = 4096
    dim: int = 256
    head_layers: int = 2
    head_norm: str = "batch"

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class BYOL(parts.Headed):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def views(self) -> Mapping[str, ClipView]:
        """Strong views of as many windows as there are clips."""
        return parts.clip_views(self.setup.strong, self.settings.clips)

    @property
    def needs(self) -> Needs:
        """What the run must have."""
        return Needs(teacher_passes=1)

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """The teacher starts as the student without its predictor."""
        student = parts.with_predictor(self.settings, self.network)
        params, model_state = parts.first_variables(student, rng, batch["clip1"], pretrained)
        return MethodState(params, model_state, parts.make_teacher(params, model_state, without=("predictor",)), {})

    def loss(
        self,
        params: Tree,
        state: MethodState,
        batch: Batch,
        rng: Array,
        step: ArrayLike,
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean of |prediction - target|^2 (eq. 2) over all ordered pairs of clips (the symmetric loss of section 3.1)."""
        _, model_state, teacher, memory = state
        teacher = jax.lax.stop_gradient(teacher)
        clips = [batch[name] for name in self.views]
        student = parts.with_predictor(self.settings, self.network)
        looks, model_state = parts.look_at_all(student, {"params": params, **model_state}, clips)
        predictions = [embedding for embedding, _ in looks]
        looks, _ = parts.look_at_all(self.network, teacher, clips)
        targets = [embedding for embedding, _ in looks]
        losses = [byol_loss(p, t) for i, p in enumerate(predictions) for j, t in enumerate(targets) if i != j]
        metrics = {
            "loss": jnp.mean(jnp.stack(losses)),
            # 0: all videos have one embedding, the collapse that a method without negatives may come to.
            "target_deviation": jnp.mean(jnp.std(targets[0], axis=0)) * self.settings.dim**0.5,
        }
        return metrics["loss"], (state._replace(model_state=model_state, buffers=memory), metrics)

    def update_teacher(self, state: MethodState, step: ArrayLike) -> tuple[Tree, Metrics]:
        """The moving average of the student."""
        return parts.move_teacher(self, state, step)
