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
from wt_jax.methods import parts
from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Tree
from wt_jax.methods.settings import check
from wt_jax.models.embedder import l2_normalize
from wt_jax.queue import Queue, empty_queue, enqueue
from wt_jax.specs import ClipView

_ASSIGNED = ("clip1", "clip2")  # clips that give codes; further ones only predict (section 3.2)


@dataclass(frozen=True)
class SwAVSettings:
    """Settings of SwAV; names not listed are those of `wt_jax.methods.settings`.

    Defaults are those of the public code for batches of 256, durations turned into shares of its 200 epochs.

    Attributes:
      clips: the first two give codes, all predict the codes of the others. Multi-crop's small views are left out: here all
        clips have one size.
      prototypes: at most as many as batch and queue together have clips, or they cannot be used equally.
      epsilon, iterations: of `wt_jax.losses.sinkhorn`.
      queue_start: share of the training from which the queue helps (15 of 200 epochs).
      freeze_prototypes: share of the training in which the prototypes stand still (5,005 steps, one epoch of 200).
    """

    clips: int = 2
    prototypes: int = 3000
    temperature: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    queue_size: int = 3840
    queue_start: float = 0.075
    freeze_prototypes: float = 0.005
    hidden: int = 2048
    dim: int = 128
    head_layers: int = 2
    head_norm: str = "batch"

    def __post_init__(self):
        check(self, shares=("queue_start", "freeze_prototypes"), least={"prototypes": 2, "iterations": 1})


@dataclass(frozen=True)
class SwAV(parts.Headed):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def views(self) -> Mapping[str, ClipView]:
        """Strong views of as many windows as there are clips."""
        return parts.clip_views(self.setup.strong, self.settings.clips)

    @property
    def needs(self) -> Needs:
        """What the run must have."""
        return Needs(
            batch_multiple=self.settings.queue_size,
            min_batch=self.settings.prototypes - self.settings.queue_size,
            reason=f"prototypes {self.settings.prototypes} cannot be used equally by a smaller batch and the queue",
        )

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Student, prototypes and, if asked for, an empty queue."""
        settings = self.settings
        params, model_state = parts.first_variables(self.network, rng, batch["clip1"], pretrained)
        prototypes = jax.random.normal(jax.random.fold_in(rng, 1), (settings.prototypes, settings.dim), jnp.float32)
        queue = empty_queue(settings.queue_size, dict.fromkeys(_ASSIGNED, settings.dim)) if settings.queue_size else {}
        return MethodState({**params, "prototypes": l2_normalize(prototypes)}, model_state, {}, queue)

    def loss(
        self,
        params: Tree,
        state: MethodState,
        batch: Batch,
        rng: Array,
        step: ArrayLike,
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean swapped prediction (eq. 2): each of two clips' codes by every other clip."""
        _, model_state, teacher, memory = state
        settings, num_steps = self.settings, self.setup.num_steps
        memory = jax.lax.stop_gradient(memory)
        looks, model_state = parts.look_at_all(
            self.network, {"params": params, **model_state}, [batch[name] for name in self.views]
        )
        embeddings = dict(zip(self.views, (embedding for embedding, _ in looks), strict=True))
        # The source normalizes the prototypes after each step; here, where they are used. Frozen ones get no gradient,
        # and a decay of their length changes nothing.
        prototypes = l2_normalize(params["prototypes"])
        frozen = step < round(settings.freeze_prototypes * num_steps)
        prototypes = jnp.where(frozen, jax.lax.stop_gradient(prototypes), prototypes)
        scores = {name: similarities(embedding, prototypes) for name, embedding in embeddings.items()}
        losses, codes = [], {}
        for name in _ASSIGNED:
            codes[name] = self._codes(scores[name], prototypes, memory, name, step)
            for other in self.views:
                if other != name:
                    losses.append(swapped_prediction(scores[other], codes[name], temperature=settings.temperature))
        if settings.queue_size:
            entries = {name: jax.lax.stop_gradient(embeddings[name]) for name in _ASSIGNED}
            memory = enqueue(memory, {**entries, "video": batch["video"], "label": batch["label"]}, step)
        usage = jnp.mean(codes["clip1"], axis=0)
        metrics = {
            "loss": jnp.mean(jnp.stack(losses)),
            "code_entropy": jnp.mean(jnp.sum(jax.scipy.special.entr(codes["clip1"]), axis=-1)),
            "prototypes_used": jnp.exp(jnp.sum(jax.scipy.special.entr(usage))),
        }
        return metrics["loss"], (state._replace(model_state=model_state, buffers=memory), metrics)

    def _codes(self, scores: Array, prototypes: Array, memory: Queue, name: str, step: ArrayLike) -> Array:
        """Codes of the batch's clips, spread together with those of the queue once it is on and has no empty slot."""
        settings = self.settings
        spread = {"epsilon": settings.epsilon, "iterations": settings.iterations}
        if not settings.queue_size:
            return sinkhorn(scores, **spread)
        count = scores.shape[0]
        on = (step >= round(settings.queue_start * self.setup.num_steps)) & jnp.all(memory["video"] >= 0)
        every = jnp.concatenate([scores, similarities(memory[name], prototypes)])
        valid = jnp.concatenate([jnp.ones((count,), bool), jnp.broadcast_to(on, memory["video"].shape)])
        return sinkhorn(every, valid=valid, **spread)[:count]
