"""MoDist: a visual and a motion pathway that contrast clips within and across the two.

Xiao, Tighe & Modolo 2021 (arXiv 2106.09703; as MaCLR at ECCV 2022); the terms are in `wt_jax.losses.modist`. The authors'
training code is not public: defaults are those of their released configuration, which is evidence and no proof.
"""

from dataclasses import dataclass, replace
from fractions import Fraction

import jax.numpy as jnp
from jax import Array

from wt_jax.augment import frame_difference
from wt_jax.errors import ConfigError
from wt_jax.losses import modist_loss, modist_terms, similarity_logits
from wt_jax.methods.base import Batch, MethodState, Tree
from wt_jax.methods.forward import apply, make_head, shuffle
from wt_jax.methods.queue_contrast import Contrast, Embeddings, QueueContrast, Seen
from wt_jax.methods.settings import HeadSettings, QueueSettings, TeacherSettings, check
from wt_jax.models import build_encoder
from wt_jax.models.embedder import Embedder, Pathways
from wt_jax.specs import ClipView, PixelSpec


@dataclass(frozen=True)
class MoDistSettings:
    """Settings of MoDist.

    Attributes:
      motion: input of the motion pathway: "difference" of neighboring frames (computed on the device), optical "flow", or
        "flow_edges" (both computed by the data workers: `wt_jax.data.optical_flow`). Which one the authors took could not be
        read.
      motion_rate: frames of the motion clip for each frame of the RGB clip, over the same time: 16 x 4 beside 8 x 8.
      narrowing: width of the visual encoder over that of the motion encoder, 8. The authors' motion encoder has no kernels in
        time; ours is the visual one, made narrow: our inference.
      motion_weight: of the motion-motion term; its flag is off in the release.
      cross_weight: of both cross-modal terms; 1 in the release.
      temperature, teacher: 0.1, momentum 0.999.
      head: two maps of 2,048 to 128 without norm, for each pathway.
      queue: 65,536 for each modality; `drop_same_video` is our addition, off in the source.

    The release keeps the two windows 0.5 to 10 s apart: `config.clip.unit` "seconds", `.gap` 0.5, `.most_gap` 10.
    """

    motion: str = "difference"
    motion_rate: int = 2
    narrowing: int = 8
    motion_weight: float = 0.0
    cross_weight: float = 1.0
    temperature: float = 0.1
    head: HeadSettings = HeadSettings()
    queue: QueueSettings = QueueSettings()
    teacher: TeacherSettings = TeacherSettings()

    def __post_init__(self):
        least = {"queue.size": 1, "motion_rate": 1, "narrowing": 1, "motion_weight": 0, "cross_weight": 0}
        check(self, least=least, motion=("difference", "flow", "flow_edges"))


@dataclass(frozen=True)
class MoDist(QueueContrast):
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
        model, head = self.setup.model, self.settings.head
        # Motion lies around 0.5 (none); this brings it to [-1, 1].
        still = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "weights": ""}
        motion = build_encoder(replace(model, width=max(1, model.width // self.settings.narrowing), **still))
        return Pathways(self.encoder, self.head, Embedder(motion, make_head(head, motion, head.dim)))

    @property
    def columns(self) -> dict[str, int]:
        """One for each pathway."""
        return dict.fromkeys(("visual", "motion"), self.settings.head.dim)

    @property
    def views(self) -> dict[str, ClipView]:
        """An RGB and a motion clip of each of two windows; the motion clips have crops of their own and no color change."""
        settings, rgb = self.settings, self.setup.strong
        stride = Fraction(str(rgb.stride)) / settings.motion_rate
        content = "rgb" if settings.motion == "difference" else settings.motion
        frames = rgb.num_frames * settings.motion_rate
        motion = replace(rgb, num_frames=frames, stride=stride, content=content, pixels=PixelSpec())
        views = {"query": rgb, "key": rgb, "query_motion": motion, "key_motion": motion}
        return {name: replace(view, window=name.removesuffix("_motion")) for name, view in views.items()}

    def inputs(self, batch: Batch) -> tuple[Array, ...]:
        """A clip for each pathway."""
        return batch["query"], batch["query_motion"]

    def prepare(self, batch: Batch, rng: Array) -> Batch:
        """Frame differences, unless the workers computed the motion."""
        motion = ("query_motion", "key_motion") if self.settings.motion == "difference" else ()
        return {**batch, **{name: frame_difference(batch[name]) for name in motion}}

    def embed_views(self, params: Tree, state: MethodState, batch: Batch) -> tuple[Embeddings, Embeddings, Tree]:
        """Both pathways of student and teacher."""
        student = {"params": params, **state.model_state}
        queries, model_state = apply(self.network, student, batch["query"], batch["query_motion"])
        shuffled = [shuffle(batch[name], self.parts) for name in ("key", "key_motion")]
        keys, _ = apply(self.network, state.teacher, *shuffled)
        keys = [shuffle(key, len(key) // self.parts) for key in keys]
        return dict(zip(self.columns, queries, strict=True)), dict(zip(self.columns, keys, strict=True)), model_state

    def contrast(self, seen: Seen) -> Contrast:
        """The visual, the motion and the cross-modal terms."""
        settings, queries, keys = self.settings, seen.queries, seen.keys
        common = {"temperature": settings.temperature, "mask": seen.mask}
        terms = modist_terms(queries, keys, seen.queue, **common)
        loss = modist_loss(terms, motion_weight=settings.motion_weight, cross_weight=settings.cross_weight)
        logits = similarity_logits(queries["visual"], keys["visual"], seen.queue["visual"], **common)
        return Contrast(loss, {f"loss_{name}": jnp.mean(term) for name, term in terms.items()}, logits)
