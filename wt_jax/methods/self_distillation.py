"""What SVT and LSS share: views, passes of student and teacher, centers of the teacher's logits.

The teacher sees two clips of (almost) the whole video, the student those and short, small ones of its parts (SVT: Ranasinghe et
al. 2022, arXiv 2112.01514, and its code). B: videos, V: views.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from wt_jax.errors import ConfigError
from wt_jax.losses.self_distillation import move_center
from wt_jax.methods.base import Batch, Metrics
from wt_jax.methods.forward import Taught
from wt_jax.methods.settings import check
from wt_jax.models.vit import ViT
from wt_jax.specs import ClipView

GLOBALS = 2


@dataclass(frozen=True)
class CropSettings:
    """The views of a video. The global ones have the frames, size and colors of the strong view.

    Attributes:
      global_span, local_span: of the video that a clip covers. In the source the globals leave out 5 frames, at the end or at
        the start: a fraction in its place is ours.
      local_clips: how many local ones; 0: globals only.
      local_frames, local_size: of a local clip; 0: as the globals.
      global_area, local_area: of the frame that a crop covers.
      teacher: what the teacher sees of the globals' windows: "strong", the student's very clips, or "weak", crops without a
        change of color or a mirror image. "weak" is ours: the weak teacher's idea outside contrast.
    """

    global_span: float = 0.98
    local_span: float = 0.125
    local_clips: int = 8
    local_frames: int = 0
    local_size: int = 96
    global_area: tuple[float, float] = (0.4, 1.0)
    local_area: tuple[float, float] = (0.05, 0.4)
    teacher: str = "strong"

    def __post_init__(self):
        check(
            self, fractions=("global_span", "local_span"), teacher=("strong", "weak"), least={"local_clips": 0, "local_size": 0}
        )


@dataclass(frozen=True)
class SelfDistillation(Taught):
    """The parts; a method adds its networks and its loss."""

    def __post_init__(self):
        if not isinstance(self.encoder, ViT):
            raise ConfigError("config.model must be a vision transformer")

    @property
    def transformer(self) -> Any:
        """The encoder."""
        return self.encoder

    @property
    def evaluated(self) -> Literal["student", "teacher"]:
        """The moving average, as in the source."""
        return "teacher"

    @property
    def views(self) -> dict[str, ClipView]:
        """Global views, local views, and where the teacher's are others, those."""
        crops, strong = self.settings.crops, self.setup.strong

        def whole(view: ClipView) -> ClipView:
            return replace(view, unit="video", gap=0, stride=_fraction(crops.global_span), area=crops.global_area)

        size = {"num_frames": crops.local_frames or strong.num_frames, "size": crops.local_size or strong.size}
        part = replace(strong, unit="video", gap=0, stride=_fraction(crops.local_span), area=crops.local_area, **size)
        views = {f"global{i}": replace(whole(strong), window=f"global{i}") for i in range(1, GLOBALS + 1)}
        views |= {f"local{i}": replace(part, window=f"local{i}") for i in range(1, crops.local_clips + 1)}
        if crops.teacher == "weak":
            weak = whole(self.setup.weak)
            views |= {f"weak{i}": replace(weak, window=f"global{i}") for i in range(1, GLOBALS + 1)}
        return views

    def clips(self, batch: Batch) -> tuple[list[Array], list[Array], list[Array]]:
        """The student's global and local clips, and the teacher's."""
        kind = "weak" if self.settings.crops.teacher == "weak" else "global"
        locals_ = [batch[name] for name in self.views if name.startswith("local")]
        views = [[batch[f"{name}{i}"] for i in range(1, GLOBALS + 1)] for name in ("global", kind)]
        return views[0], locals_, views[1]

    def alive(self, rng: Array, videos: Array, first: int, count: int) -> Array | None:
        """Factors of the residual branches of `count` views of each video, folded like the clips."""
        rows = [self.transformer.draw_alive(jax.random.fold_in(rng, first + i), videos) for i in range(count)]
        return None if rows[0] is None else fold(rows)

    def moved(self, centers: Mapping[str, Array], logits: Mapping[str, Array]) -> dict[str, Array]:
        """The centers after a step; where a batch is cut in pieces, they all together move once."""
        momentum = self.settings.center_momentum ** (1 / self.setup.pieces)
        return {name: move_center(centers[name], logits[name], momentum=momentum) for name in centers}


def _fraction(value: float) -> Fraction:
    return Fraction(str(value))


def fold(clips: list[Array]) -> Array:
    """V arrays (B, ...) as one, (B * V, ...); those of a video are neighbors, so that each stays on its device."""
    return jnp.stack(clips, axis=1).reshape(-1, *clips[0].shape[1:])


def unfold(rows: Array, views: int) -> Array:
    """(B * V, ...) -> (B, V, ...)."""
    return rows.reshape(-1, views, *rows.shape[1:])


def watch(teacher: Array) -> Metrics:
    """Of the teacher's distributions (B, G, K): near 0 of the mean all videos have one class; near log K no video has one."""
    entropies = jnp.sum(jax.scipy.special.entr(teacher), axis=-1)
    mean = jnp.mean(teacher, axis=(0, 1))
    return {"teacher_entropy": jnp.mean(entropies), "mean_teacher_entropy": jnp.sum(jax.scipy.special.entr(mean))}
