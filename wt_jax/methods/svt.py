"""SVT and DINO: a student's distributions over prototypes follow those of its moving average in other views of a video.

Ranasinghe et al. 2022 (arXiv 2112.01514) after Caron et al. 2021 (DINO, arXiv 2104.14294), and their code. `patches` adds
iBOT's term (Zhou et al. 2022, arXiv 2111.07832) with one head for clips and tokens, as its README's runs have it; that masks
of a clip are tubes is ours. `crops.teacher` "weak" is a variant of ours, with artificial labels from weak views.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.augment.masks import block_masks
from wt_jax.losses.self_distillation import patch_distillation, self_distillation, sharpened
from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Tree
from wt_jax.methods.self_distillation import GLOBALS, CropSettings, SelfDistillation, fold, unfold, watch
from wt_jax.methods.settings import TeacherSettings, check
from wt_jax.models.prototypes import Prototyped, PrototypeHead


@dataclass(frozen=True)
class PrototypeSettings:
    """DINO's head: `layers` linear maps `hidden` wide (0: as the feature) to `dim`, and the number of prototypes."""

    hidden: int = 2048
    dim: int = 256
    layers: int = 3
    prototypes: int = 65536

    def __post_init__(self):
        check(self, least={"hidden": 0, "dim": 1, "layers": 1, "prototypes": 1})


@dataclass(frozen=True)
class PatchSettings:
    """iBOT's term.

    Attributes:
      weight: 0 leaves it out, and the loss is DINO's bit for bit; 1 in the source.
      temperature: of the teacher's tokens; 0.04 rising to 0.07 in the source, constant here.
      chance: that a global clip is masked at all; else its term is 0.
      ratio: least and largest fraction of a masked clip's tokens.
    """

    weight: float = 0.0
    temperature: float = 0.04
    chance: float = 0.5
    ratio: tuple[float, float] = (0.1, 0.5)

    def __post_init__(self):
        check(self, fractions=("chance",), least={"weight": 0})


@dataclass(frozen=True)
class SVTSettings:
    """Settings of SVT.

    Attributes:
      temperature, teacher_temperature: 0.1 and 0.04.
      center_momentum: of the running mean of the teacher's logits, 0.9.
      freeze_last: fraction of the training in which the prototypes are constant (one epoch of 20).
      crops: the views.
      head: on the encoder.
      patches: iBOT's term.
      teacher: momentum from 0.996 by a cosine.
    """

    temperature: float = 0.1
    teacher_temperature: float = 0.04
    center_momentum: float = 0.9
    freeze_last: float = 0.05
    crops: CropSettings = CropSettings()
    head: PrototypeSettings = PrototypeSettings()
    patches: PatchSettings = PatchSettings()
    teacher: TeacherSettings = TeacherSettings(0.996, "cosine")

    def __post_init__(self):
        check(self, fractions=("center_momentum", "freeze_last"))


@dataclass(frozen=True)
class SVT(SelfDistillation):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def student(self) -> Prototyped:
        """Encoder and head."""
        head = self.settings.head
        made = PrototypeHead(head.hidden or self.encoder.feature_dim, head.dim, head.layers, head.prototypes)
        return Prototyped(self.encoder, made, hides=self.settings.patches.weight > 0)

    @property
    def needs(self) -> Needs:
        """A pass of the teacher, and prototypes that are frozen at first."""
        return replace(super().needs, frozen={"head.prototypes": round(self.settings.freeze_last * self.setup.num_steps)})

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Student and teacher start equal, centers at 0."""
        names = ("clip", *(("patch",) if self.settings.patches.weight else ()))
        zeros = {name: jnp.zeros((self.settings.head.prototypes,), jnp.float32) for name in names}
        return super().init(rng, batch, pretrained)._replace(buffers=zeros)

    def masks(self, rng: Array, videos: Array, grid: tuple[int, int, int]) -> Array:
        """The hidden tokens of each global view, (B * G, N) bool."""
        settings, rows = self.settings.patches, []
        low, high = settings.ratio
        for view in range(GLOBALS):
            key = jax.random.fold_in(rng, view)
            draws = jax.vmap(lambda v, key=key: jax.random.uniform(jax.random.fold_in(key, v), (2,), jnp.float32))(videos)
            ratio = jnp.where(draws[:, 0] < settings.chance, low + (high - low) * draws[:, 1], 0.0)
            count = grid[0] * jnp.round(ratio * (grid[1] * grid[2])).astype(jnp.int32)
            rows.append(block_masks(jax.random.fold_in(key, 1), videos, grid, count))
        return fold(rows)

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Cross-entropy over pairs of views, and over hidden tokens."""
        settings, network, weight = self.settings, self.student, self.settings.patches.weight
        globals_, locals_, teachers = self.clips(batch)
        teacher, centers = jax.lax.stop_gradient((state.teacher, state.buffers))
        keys, videos, student = jax.random.split(rng), batch["video"], {"params": params}
        mask = self.masks(keys[1], videos, self.transformer.grid(globals_[0].shape)) if weight else None

        def views(clips: list[Array], first: int, mask: Array | None = None) -> Any:
            alive = self.alive(keys[0], videos, first, len(clips))
            return network.apply(student, fold(clips), True, mask, alive, mask is not None)

        seen, patches = views(globals_, 0, mask)
        logits = [unfold(seen, GLOBALS)]
        if locals_:
            logits.append(unfold(views(locals_, GLOBALS)[0], len(locals_)))
        goal: Any = network.apply(teacher, fold(teachers), True, patches=mask is not None)
        found = unfold(goal[0], GLOBALS)
        target = sharpened(found, centers["clip"], settings.teacher_temperature)
        student_logits = jnp.concatenate(logits, axis=1)
        loss = jnp.mean(self_distillation(student_logits, target, temperature=settings.temperature))
        metrics, outputs = {"loss": loss, **watch(target)}, {"clip": found}
        if mask is not None:
            of_patches = sharpened(goal[1], centers["patch"], settings.patches.temperature)
            parts = [unfold(part, GLOBALS) for part in (patches, of_patches, mask)]
            metrics["loss_patches"] = jnp.mean(patch_distillation(*parts, temperature=settings.temperature))
            metrics["loss"] = loss + weight * metrics["loss_patches"]
            outputs["patch"] = goal[1]
        return metrics["loss"], (state._replace(buffers=self.moved(centers, outputs)), metrics)
