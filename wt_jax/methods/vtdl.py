"""VTDL: another segment of the same video is a negative, so that what stays the same in a video cannot be the answer.

Wang et al. 2020 (arXiv 2008.02129) and its public code. Anchor and positive are the same segment under two augmentations; the
anchor is disturbed by Temporal Consistent Augmentation, which keeps its motion.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.augment import mix_frame
from wt_jax.losses import similarity_logits, vtdl_loss
from wt_jax.methods import parts
from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Tree
from wt_jax.methods.settings import check
from wt_jax.queue import empty_queue, enqueue, negatives_mask
from wt_jax.specs import ClipView


@dataclass(frozen=True)
class VTDLSettings:
    """Settings of VTDL; names not listed are those of `wt_jax.methods.settings`. Defaults are the authors' for UCF101.

    Its basic augmentation also rotates by up to 10 degrees and never mirrors; here the views are those of the configuration.
    Its negative starts 2 frames or more away; here `config.clip.gap` says how far.

    Attributes:
      mix: largest share of the frame that is mixed into the anchor; 0: no Temporal Consistent Augmentation.
      queue_size: 5,000 in the source; the next multiple of usual batches here.
      hidden, dim, head_layers: one linear map to 128 in the source, so `hidden` has no say.
      drop_same_video: our addition, off in the source.
    """

    mix: float = 0.1
    temperature: float = 0.07
    momentum: float = 0.999
    momentum_schedule: str = "constant"
    queue_size: int = 5120
    drop_same_video: bool = True
    hidden: int = 0
    dim: int = 128
    head_layers: int = 1
    head_norm: str = ""

    def __post_init__(self):
        check(self, shares=("mix",), least={"queue_size": 1})


@dataclass(frozen=True)
class VTDL(parts.Headed):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def views(self) -> Mapping[str, ClipView]:
        """Two strong views of one window, and one of another."""
        windows = {"anchor": "segment", "positive": "segment", "negative": "other"}
        return {name: replace(self.setup.strong, window=window) for name, window in windows.items()}

    @property
    def needs(self) -> Needs:
        """What the run must have."""
        return Needs(batch_multiple=self.settings.queue_size, teacher_passes=1)

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Student and teacher start equal; the queue starts empty."""
        params, model_state = parts.first_variables(self.network, rng, batch["anchor"], pretrained)
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
        """Mean InfoNCE with the student's own view of another segment among the negatives."""
        _, model_state, teacher, memory = state
        settings = self.settings
        teacher, memory = jax.lax.stop_gradient((teacher, memory))
        anchor = mix_frame(batch["anchor"], batch["video"], rng, settings.mix)
        student = {"params": params, **model_state}
        looks, model_state = parts.look_at_all(self.network, student, [anchor, batch["negative"]])
        query, negative = (embedding for embedding, _ in looks)
        (key, _), _ = parts.look(self.network, teacher, batch["positive"])
        mask = negatives_mask(memory, batch["video"], drop_same_video=settings.drop_same_video)
        loss = vtdl_loss(query, key, negative, memory["key"], temperature=settings.temperature, mask=mask)
        logits = similarity_logits(query, key, memory["key"], temperature=settings.temperature, mask=mask)
        positive, other = jnp.sum(query * key, axis=-1), jnp.sum(query * negative, axis=-1)
        metrics = {
            "loss": jnp.mean(loss),
            "segment_accuracy": jnp.mean(positive > other, dtype=jnp.float32),
            **parts.accuracy(logits),
            **parts.queue_figures(memory, mask, step),
        }
        memory = enqueue(memory, {"key": key, "video": batch["video"], "label": batch["label"]}, step)
        return metrics["loss"], (state._replace(model_state=model_state, buffers=memory), metrics)

    def update_teacher(self, state: MethodState, step: ArrayLike) -> tuple[Tree, Metrics]:
        """The moving average of the student."""
        return parts.move_teacher(self, state, step)
