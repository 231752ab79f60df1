"""CLSA: a stronger augmentation, whose similarities shall be those of the ordinary one.

Wang & Qi 2021 (arXiv 2104.07713). What the paper calls weak is MoCo v2's augmentation, here `config.views.strong`; its strong
view takes five random operations on top, several of which this project does not have. Ours is the same view with its
color jitter made certain and stronger: our inference.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses import clsa_loss, similarity_labels, similarity_logits
from wt_jax.methods import parts
from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Tree
from wt_jax.methods.settings import check
from wt_jax.queue import empty_queue, enqueue, negatives_mask
from wt_jax.specs import ClipView, PixelSpec


@dataclass(frozen=True)
class CLSASettings:
    """Settings of CLSA; names not listed are those of `wt_jax.methods.settings`.

    Attributes:
      temperature, divergence_temperature, divergence_weight: the authors' 0.2, 0.2 and 1.
      strength: factor on the jitter of the stronger view; ours.
      queue_size, momentum: the authors' 65,536 and 0.999.
      drop_same_video: our addition, off in the source.
      hidden, dim, head_layers, head_norm: MoCo v2's head, on which the authors build.
    """

    temperature: float = 0.2
    divergence_temperature: float = 0.2
    divergence_weight: float = 1.0
    strength: float = 2.0
    momentum: float = 0.999
    momentum_schedule: str = "constant"
    queue_size: int = 65536
    drop_same_video: bool = True
    hidden: int = 2048
    dim: int = 128
    head_layers: int = 2
    head_norm: str = ""

    def __post_init__(self):
        check(self, least={"queue_size": 1, "divergence_weight": 0, "strength": 1})


@dataclass(frozen=True)
class CLSA(parts.Headed):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def views(self) -> Mapping[str, ClipView]:
        """The student's ordinary and stronger views of one window, the teacher's ordinary view of another."""
        query = replace(self.setup.strong, window="query")
        return {
            "weak": query,
            "strong": replace(query, pixels=stronger(query.pixels, self.settings.strength)),
            "key": replace(self.setup.strong, window="key"),
        }

    @property
    def needs(self) -> Needs:
        """What the run must have."""
        return Needs(batch_multiple=self.settings.queue_size, teacher_passes=1)

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Student and teacher start equal; the queue starts empty."""
        params, model_state = parts.first_variables(self.network, rng, batch["weak"], pretrained)
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
        """Mean of InfoNCE plus the distributional divergence between weak and strong view."""
        _, model_state, teacher, memory = state
        settings = self.settings
        teacher, memory = jax.lax.stop_gradient((teacher, memory))
        student = {"params": params, **model_state}
        looks, model_state = parts.look_at_all(self.network, student, [batch["weak"], batch["strong"]])
        weak, strong = (embedding for embedding, _ in looks)
        (key, _), _ = parts.look(self.network, teacher, batch["key"], after=strong)
        mask = negatives_mask(memory, batch["video"], drop_same_video=settings.drop_same_video)
        loss = clsa_loss(
            strong,
            weak,
            key,
            memory["key"],
            temperature=settings.temperature,
            divergence_temperature=settings.divergence_temperature,
            weight=settings.divergence_weight,
            mask=mask,
        )
        labels = similarity_labels(weak, key, memory["key"], temperature=settings.divergence_temperature, mask=mask)
        logits = similarity_logits(weak, key, memory["key"], temperature=settings.temperature, mask=mask)
        metrics = {
            "loss": jnp.mean(loss),
            **parts.accuracy(logits),
            **parts.queue_figures(memory, mask, step),
            **parts.label_figures(labels, mask, memory["label"], batch["label"]),
        }
        memory = enqueue(memory, {"key": key, "video": batch["video"], "label": batch["label"]}, step)
        return metrics["loss"], (state._replace(model_state=model_state, buffers=memory), metrics)

    def update_teacher(self, state: MethodState, step: ArrayLike) -> tuple[Tree, Metrics]:
        """The moving average of the student."""
        return parts.move_teacher(self, state, step)


def stronger(pixels: PixelSpec, strength: float) -> PixelSpec:
    """The same pixels with certain jitter of `strength` times the range, at most down to black, flat, gray or half a turn."""
    ranges = {name: min(1.0, strength * getattr(pixels, name)) for name in ("brightness", "contrast", "saturation")}
    return replace(pixels, jitter_probability=1.0, hue=min(0.5, strength * pixels.hue), **ranges)
