"""SwAV: clips of one video predict one another's assignment to prototypes.

Caron et al. 2020 (arXiv 2006.09882) and its public code; on videos: Feichtenhofer et al. 2021 (arXiv 2104.14558). No teacher;
the queue holds embeddings of past clips that help to spread the codes, one column per clip that gives codes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses import similarities, sinkhorn, swapped_prediction
from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Tree
from wt_jax.methods.forward import Headed, apply_clips, clip_views
from wt_jax.methods.settings import HeadSettings, check
from wt_jax.models.embedder import l2_normalize
from wt_jax.queue import Queue, empty_queue, enqueue
from wt_jax.specs import ClipView

_ASSIGNED = ("clip1", "clip2")  # clips that give codes; further ones only predict (section 3.2)


@dataclass(frozen=True)
class SwAVQueue:
    """Past embeddings that help to spread the codes.

    Attributes:
      size: slots, a multiple of the batch; 0: none.
      start: fraction of the training from which it helps (15 of 200 epochs).
    """

    size: int = 3840
    start: float = 0.075

    def __post_init__(self):
        check(self, fractions=("start",), least={"size": 0})


@dataclass(frozen=True)
class SwAVSettings:
    """Settings of SwAV.

    Defaults are those of the public code for batches of 256, durations turned into fractions of its 200 epochs.

    Attributes:
      clips: the first two give codes, all predict the codes of the others. Multi-crop's small views are left out: here all
        clips have one size.
      separate_passes: whether a BatchNorm normalizes each clip by itself (the rho study) or all clips at once (the source).
      prototypes: at most as many as batch and queue together have clips, or they cannot be used equally.
      temperature: of the predictions.
      epsilon, iterations: of `wt_jax.losses.sinkhorn`.
      freeze_prototypes: fraction of the training in which the prototypes are constant (5,005 steps, one epoch of 200).
    """

    clips: int = 2
    separate_passes: bool = False
    prototypes: int = 3000
    temperature: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    freeze_prototypes: float = 0.005
    head: HeadSettings = HeadSettings(norm="batch")
    queue: SwAVQueue = SwAVQueue()

    def __post_init__(self):
        check(self, fractions=("freeze_prototypes",), least={"clips": 2, "prototypes": 2, "iterations": 1})


@dataclass(frozen=True)
class SwAV(Headed):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def views(self) -> dict[str, ClipView]:
        """Strong views of as many windows as there are clips."""
        return clip_views(self.setup.strong, self.settings.clips)

    @property
    def needs(self) -> Needs:
        """A batch that divides the queue, clips for all prototypes, and frozen ones."""
        prototypes, slots = self.settings.prototypes, self.settings.queue.size
        reason = f"prototypes {prototypes} cannot be used equally by a smaller batch and a queue of {slots}"
        frozen = {"prototypes": round(self.settings.freeze_prototypes * self.setup.num_steps)}
        return Needs(batch_multiple=slots, min_batch=prototypes - slots, reason=reason, frozen=frozen)

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Student, prototypes and, if there is one, an empty queue."""
        settings, dim = self.settings, self.settings.head.dim
        state = super().init(rng, batch, pretrained)
        prototypes = jax.random.normal(jax.random.fold_in(rng, 1), (settings.prototypes, dim), jnp.float32)
        queue = empty_queue(settings.queue.size, dict.fromkeys(_ASSIGNED, dim)) if settings.queue.size else {}
        return state._replace(params={**state.params, "prototypes": l2_normalize(prototypes)}, buffers=queue)

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean swapped prediction (eq. 2), as in the source's code: each of two clips' codes by every other clip."""
        settings, queue = self.settings, jax.lax.stop_gradient(state.buffers)
        clips = [batch[name] for name in self.views]
        variables = {"params": params, **state.model_state}
        found, model_state = apply_clips(self.network, variables, clips, settings.separate_passes)
        embeddings = dict(zip(self.views, found, strict=True))
        # The source normalizes the prototypes before each step; here, where they are used. The optimizer freezes them.
        prototypes = l2_normalize(params["prototypes"])
        scores = {name: similarities(embedding, prototypes) for name, embedding in embeddings.items()}
        losses, codes = [], {}
        for name in _ASSIGNED:
            codes[name] = self._codes(scores[name], prototypes, queue, name, step)
            for other in self.views:
                if other != name:
                    losses.append(swapped_prediction(scores[other], codes[name], temperature=settings.temperature))
        if queue:
            entries = {name: jax.lax.stop_gradient(embeddings[name]) for name in _ASSIGNED}
            queue = enqueue(queue, {**entries, "video": batch["video"], "label": batch["label"]}, step)
        usage = jnp.mean(codes["clip1"], axis=0)
        metrics = {
            "loss": jnp.mean(jnp.stack(losses)),
            "code_entropy": jnp.mean(jnp.sum(jax.scipy.special.entr(codes["clip1"]), axis=-1)),
            "prototypes_used": jnp.exp(jnp.sum(jax.scipy.special.entr(usage))),
        }
        return metrics["loss"], (state._replace(model_state=model_state, buffers=queue), metrics)

    def _codes(self, scores: Array, prototypes: Array, queue: Queue, name: str, step: ArrayLike) -> Array:
        """Codes of the batch's clips, spread together with those of the queue once it is on and has no empty slot."""
        settings = self.settings
        spread = {"epsilon": settings.epsilon, "iterations": settings.iterations}
        if not queue:
            return sinkhorn(scores, **spread)
        count = scores.shape[0]
        on = (step >= round(settings.queue.start * self.setup.num_steps)) & jnp.all(queue["video"] >= 0)
        every = jnp.concatenate([scores, similarities(queue[name], prototypes)])
        valid = jnp.concatenate([jnp.ones((count,), bool), jnp.broadcast_to(on, queue["video"].shape)])
        return sinkhorn(every, valid=valid, **spread)[:count]
