"""MoDist: a visual and a motion pathway that contrast clips within and across the two.

Xiao, Tighe & Modolo 2021 (arXiv 2106.09703; as MaCLR at ECCV 2022); the terms stand in `wt_jax.losses.modist`. The authors'
training code is not public: defaults are those of their released configuration, which is evidence and no proof.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.augment import frame_difference
from wt_jax.errors import ConfigError
from wt_jax.losses import modist_loss, modist_terms, similarity_logits
from wt_jax.methods import parts
from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Tree
from wt_jax.methods.settings import check
from wt_jax.models import build_encoder
from wt_jax.models.embedder import Embedder, Pathways
from wt_jax.queue import empty_queue, enqueue, negatives_mask
from wt_jax.specs import ClipView, PixelSpec


@dataclass(frozen=True)
class MoDistSettings:
    """Settings of MoDist; names not listed are those of `wt_jax.methods.settings`.

    Attributes:
      motion: what the motion pathway sees: "difference" of neighboring frames (computed on the device), optical "flow", or
        "flow_edges" (both computed by the data workers: `wt_jax.data.optical_flow`).
        Which one the authors took could not be read.
      motion_rate: frames of the motion clip for each frame of the RGB clip, over the same time: 16 x 4 beside 8 x 8.
      narrowing: width of the visual encoder over that of the motion encoder, 8. The authors' motion encoder has no kernels in
        time; ours is the visual one, made narrow: our inference.
      motion_weight: of the motion-motion term; its flag is off in the release.
      cross_weight: of both cross-modal terms; 1 in the release.
      temperature, momentum, queue_size: 0.1, 0.999, 65,536 for each modality.
      hidden, dim, head_layers, head_norm: two maps of 2,048 to 128 without norm, for each pathway.
      drop_same_video: our addition, off in the source.
    """

    motion: str = "difference"
    motion_rate: int = 2
    narrowing: int = 8
    motion_weight: float = 0.0
    cross_weight: float = 1.0
    temperature: float = 0.1
    momentum: float = 0.999
    momentum_schedule: str = "constant"
    queue_size: int = 65536
    drop_same_video: bool = True
    hidden: int = 2048
    dim: int = 128
    head_layers: int = 2
    head_norm: str = ""

    def __post_init__(self):
        least = {"queue_size": 1, "motion_rate": 1, "narrowing": 1, "motion_weight": 0, "cross_weight": 0}
        check(self, least=least, motion=("difference", "flow", "flow_edges"))


@dataclass(frozen=True)
class MoDist(parts.Headed):
    """The method; see `wt_jax.methods.base.Method`."""

    def __post_init__(self):
        rate, view = self.settings.motion_rate, self.setup.strong
        if view.unit == "frames" and view.stride < rate:
            raise ConfigError(
                f"config.method.motion_rate {rate} asks for motion between frames at config.clip.stride {view.stride}; "
                "take motion_rate 1 or a larger stride"
            )

    @property
    def network(self) -> Pathways:
        """Encoder and head of the visual pathway, and those of the motion pathway."""
        model = self.setup.model
        # Motion stands around 0.5 (none); this brings it to [-1, 1].
        still = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "weights": ""}
        motion = build_encoder(replace(model, width=max(1, model.width // self.settings.narrowing), **still))
        return Pathways(
            self.encoder,
            self.head,
            Embedder(motion, parts.make_head(self.settings, motion)),
        )

    @property
    def views(self) -> Mapping[str, ClipView]:
        """An RGB and a motion clip of each of two windows; the motion clips have crops of their own and no color change."""
        settings, rgb = self.settings, self.setup.strong
        stride = Fraction(str(rgb.stride)) / settings.motion_rate
        content = "rgb" if settings.motion == "difference" else settings.motion
        frames = rgb.num_frames * settings.motion_rate
        motion = replace(rgb, num_frames=frames, stride=stride, content=content, pixels=PixelSpec())
        return {
            "query": replace(rgb, window="query"),
            "key": replace(rgb, window="key"),
            "query_motion": replace(motion, window="query"),
            "key_motion": replace(motion, window="key"),
        }

    @property
    def needs(self) -> Needs:
        """What the run must have."""
        return Needs(batch_multiple=self.settings.queue_size, teacher_passes=1)

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Student and teacher start equal, both pathways; the queues start empty."""
        params, model_state = parts.first_variables(self.network, rng, batch["query"], pretrained, batch["query_motion"])
        queue = empty_queue(self.settings.queue_size, {"visual": self.settings.dim, "motion": self.settings.dim})
        return MethodState(params, model_state, parts.make_teacher(params, model_state), queue)

    def loss(
        self,
        params: Tree,
        state: MethodState,
        batch: Batch,
        rng: Array,
        step: ArrayLike,
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean of the visual, the motion and the cross-modal terms."""
        _, model_state, teacher, memory = state
        settings = self.settings
        teacher, memory = jax.lax.stop_gradient((teacher, memory))
        motion = {name: batch[f"{name}_motion"] for name in ("query", "key")}
        if settings.motion == "difference":
            motion = {name: frame_difference(clips) for name, clips in motion.items()}
        student = {"params": params, **model_state}
        (visual_query, motion_query), model_state = parts.look(self.network, student, batch["query"], motion["query"])
        (visual_key, motion_key), _ = parts.look(self.network, teacher, batch["key"], motion["key"])
        queries = {"visual": visual_query, "motion": motion_query}
        keys = {"visual": visual_key, "motion": motion_key}
        mask = negatives_mask(memory, batch["video"], drop_same_video=settings.drop_same_video)
        terms = modist_terms(queries, keys, memory, temperature=settings.temperature, mask=mask)
        loss = modist_loss(terms, motion_weight=settings.motion_weight, cross_weight=settings.cross_weight)
        logits = similarity_logits(visual_query, visual_key, memory["visual"], temperature=settings.temperature, mask=mask)
        metrics = {
            "loss": jnp.mean(loss),
            **{f"loss_{name}": jnp.mean(term) for name, term in terms.items()},
            **parts.accuracy(logits),
            **parts.queue_figures(memory, mask, step),
        }
        memory = enqueue(memory, {**keys, "video": batch["video"], "label": batch["label"]}, step)
        return metrics["loss"], (state._replace(model_state=model_state, buffers=memory), metrics)

    def update_teacher(self, state: MethodState, step: ArrayLike) -> tuple[Tree, Metrics]:
        """The moving average of the student."""
        return parts.move_teacher(self, state, step)
