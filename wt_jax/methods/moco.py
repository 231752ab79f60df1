"""MoCo with any number of positives (rho-MoCo), in the style of version 2 or of version 3.

MoCo: He et al. 2020 (arXiv 1911.05722), v2: arXiv 2003.04297, v3: Chen et al. 2021 (arXiv 2104.02057); with more clips:
Feichtenhofer et al. 2021 (arXiv 2104.14558), whose public code is followed: the first clip is the query, the teacher's views
of all others are its keys, the loss is the mean over the keys, and all keys enter the queue.

With two clips this is the weak teacher with label weight 0; the configuration's `one_hot` is that control.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses import info_nce, similarity_logits
from wt_jax.methods import parts
from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Tree
from wt_jax.methods.settings import check
from wt_jax.models.embedder import Embedder
from wt_jax.queue import empty_queue, enqueue, negatives_mask
from wt_jax.specs import ClipView


@dataclass(frozen=True)
class MoCoSettings:
    """Settings of MoCo; names not listed are those of `wt_jax.methods.settings`.

    Defaults are the rho study's: temperature 0.1, momentum from 0.994 by a cosine, queue 65,536, three linear maps of 2048 to
    128 without norm. Its best figures have `clips` 4; 2 is the default because it costs what the other methods cost.

    Attributes:
      symmetric: every clip is the query once (v3); otherwise only the first.
      predictor: a predictor on the student (v3).
      queue_size: 0 takes the negatives from the batch's own keys (v3).
      drop_same_video: our addition, off in the source; it has no say where the queue is small against the data.
    """

    clips: int = 2
    symmetric: bool = False
    predictor: bool = False
    temperature: float = 0.1
    momentum: float = 0.994
    momentum_schedule: str = "cosine"
    queue_size: int = 65536
    drop_same_video: bool = True
    hidden: int = 2048
    dim: int = 128
    head_layers: int = 3
    head_norm: str = ""

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class MoCo(parts.Headed):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def student(self) -> Embedder:
        """Encoder and head; it may have a predictor, which the teacher has not."""
        return parts.with_predictor(self.settings, self.network) if self.settings.predictor else self.network

    @property
    def views(self) -> Mapping[str, ClipView]:
        """Strong views of as many windows as there are clips."""
        return parts.clip_views(self.setup.strong, self.settings.clips)

    @property
    def needs(self) -> Needs:
        """What the run must have."""
        return Needs(
            batch_multiple=self.settings.queue_size,
            min_batch=1 if self.settings.queue_size else 2,
            reason="negatives come from the batch",
            teacher_passes=1,
        )

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Student and teacher start equal; the queue, if there is one, starts empty."""
        params, model_state = parts.first_variables(self.student, rng, batch["clip1"], pretrained)
        queue = empty_queue(self.settings.queue_size, {"key": self.settings.dim}) if self.settings.queue_size else {}
        return MethodState(params, model_state, parts.make_teacher(params, model_state, without=("predictor",)), queue)

    def loss(
        self,
        params: Tree,
        state: MethodState,
        batch: Batch,
        rng: Array,
        step: ArrayLike,
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean InfoNCE (MoCo, eq. 1) over all pairs of a query clip and another clip's key."""
        _, model_state, teacher, memory = state
        settings = self.settings
        teacher, memory = jax.lax.stop_gradient((teacher, memory))
        clips = [batch[name] for name in self.views]
        # Clips that are queries, and clips that are keys.
        asked, asking = (clips, clips) if settings.symmetric else (clips[1:], clips[:1])
        student = {"params": params, **model_state}
        looks, model_state = parts.look_at_all(self.student, student, asking)
        queries = [embedding for embedding, _ in looks]
        looks, _ = parts.look_at_all(self.network, teacher, asked)
        keys = [jax.lax.stop_gradient(embedding) for embedding, _ in looks]
        if settings.queue_size:
            mask = negatives_mask(memory, batch["video"], drop_same_video=settings.drop_same_video)
            figures = parts.queue_figures(memory, mask, step)
        else:
            mask, figures = batch["video"][:, None] != batch["video"][None, :], {}
        pairs = [(i, j) for i in range(len(queries)) for j in range(len(keys)) if not settings.symmetric or i != j]
        losses = []
        for i, j in pairs:
            negatives = memory["key"] if settings.queue_size else keys[j]
            losses.append(info_nce(queries[i], keys[j], negatives, temperature=settings.temperature, mask=mask))
        first = pairs[0][1]
        negatives = memory["key"] if settings.queue_size else keys[first]
        logits = similarity_logits(queries[0], keys[first], negatives, temperature=settings.temperature, mask=mask)
        if settings.queue_size:
            for key in keys:
                memory = enqueue(memory, {"key": key, "video": batch["video"], "label": batch["label"]}, step)
        metrics = {
            "loss": jnp.mean(jnp.stack(losses)),
            **parts.accuracy(logits),
            **figures,
        }
        return metrics["loss"], (state._replace(model_state=model_state, buffers=memory), metrics)

    def update_teacher(self, state: MethodState, step: ArrayLike) -> tuple[Tree, Metrics]:
        """The moving average of the student."""
        return parts.move_teacher(self, state, step)
