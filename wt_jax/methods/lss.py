"""LSS: self-distillation of a space-time CLIP in the space of concepts that text features name.

Ranasinghe & Ryoo 2023 (arXiv 2307.10922): concept distillation and concept alignment with category and description concepts. No
equation, temperature or weight could be read: the form is our inference, with SVT's views, temperatures and momentum. The
names of classes, of evaluation sets too, are in the tables: no label of a video is used, but names are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.typing import ArrayLike

from wt_jax.errors import ConfigError
from wt_jax.losses.self_distillation import concept_distillation, sharpened
from wt_jax.methods.base import Batch, MethodState, Metrics, Pretrained, Tree
from wt_jax.methods.self_distillation import GLOBALS, CropSettings, SelfDistillation, fold, unfold, watch
from wt_jax.methods.settings import TeacherSettings, check
from wt_jax.models.embedder import EncoderAlone, l2_normalize

TABLES = ("category", "description")


@dataclass(frozen=True)
class TableSettings:
    """Folders of text features (`wt_jax.weights.table`), equal in their names and order: of classes and of descriptions."""

    category: str = ""
    description: str = ""


@dataclass(frozen=True)
class LSSSettings:
    """Settings of LSS; all but the idea is our inference.

    Attributes:
      tables: the concepts.
      temperature, teacher_temperature: SVT's.
      alignment: weight of concept alignment.
      prior: weight of the divergence of the mean prediction of the batch from all concepts alike, in place of centers (whose
        `center_momentum` is then to be 1); 0 in the default.
      center_momentum: of the running mean of the teacher's logits.
      crops: the views.
      teacher: momentum, SVT's.
    """

    tables: TableSettings = TableSettings()
    temperature: float = 0.1
    teacher_temperature: float = 0.04
    alignment: float = 1.0
    prior: float = 0.0
    center_momentum: float = 0.9
    crops: CropSettings = CropSettings()
    teacher: TeacherSettings = TeacherSettings(0.996, "cosine")

    def __post_init__(self):
        check(self, fractions=("center_momentum",), least={"alignment": 0, "prior": 0})


@dataclass(frozen=True)
class LSS(SelfDistillation):
    """The method; see `wt_jax.methods.base.Method`."""

    def __post_init__(self):
        super().__post_init__()
        for name in TABLES:
            if not getattr(self.settings.tables, name):
                raise ConfigError(f"config.method.tables.{name} is empty; name a table (wt-jax concept_table)")

    @property
    def student(self) -> EncoderAlone:
        """The encoder, whose feature is projected into the concepts' space."""
        return EncoderAlone(self.encoder)

    @property
    def pretrained(self) -> Mapping[str, Pretrained]:
        """Both tables, and CLIP's image tower, which looks at each frame for itself."""
        model, tables = self.setup.model, self.settings.tables
        like = replace(model, vit=replace(model.vit, attention=model.vit.attention.removesuffix("_divided")))
        encoder = {"encoder": Pretrained(model.weights, "encoder", like)} if model.weights else {}
        return encoder | {name: Pretrained(getattr(tables, name), "table") for name in TABLES}

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Student and teacher are CLIP, for each frame; attention in time starts as nothing. Centers start at 0."""
        tables = {name: l2_normalize(jnp.asarray(pretrained[name]["features"])) for name in TABLES}
        dim = self.encoder.feature_dim
        if (shapes := {table.shape for table in tables.values()}) != {(len(tables["category"]), dim)}:
            raise ConfigError(f"config.method.tables are {shapes}; both must have the same rows, {dim} wide as the feature")
        given = {} if "encoder" not in pretrained else {"encoder": self._with_time(rng, batch, pretrained["encoder"])}
        centers = {f"center_{name}": jnp.zeros((len(table),), jnp.float32) for name, table in tables.items()}
        return super().init(rng, batch, given)._replace(buffers={**tables, **centers})

    def _with_time(self, rng: Array, batch: Batch, frames: Tree) -> Tree:
        """The variables of an encoder of frames, and fresh ones of what it lacks."""
        fresh = self.encoder.init(rng, self.inputs(batch)[0][:1], False)
        return unflatten_dict({**flatten_dict(fresh), **flatten_dict(jax.tree.map(jnp.asarray, dict(frames)))})

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Concept distillation and alignment over pairs of views."""
        settings, encoder = self.settings, self.transformer
        teacher, buffers = jax.lax.stop_gradient((state.teacher, state.buffers))
        concepts = {name: buffers[name] for name in TABLES}
        globals_, locals_, teachers = self.clips(batch)
        student = {"params": params["encoder"]}

        def features(clips: list[Array], first: int) -> Array:
            alive = self.alive(rng, batch["video"], first, len(clips))
            found: Any = encoder.apply(student, fold(clips), True, alive=alive, method="tokens")
            return unfold(l2_normalize(found[0]), len(clips))

        seen = [features(globals_, 0), *([features(locals_, GLOBALS)] if locals_ else [])]
        feature: Any = encoder.apply({"params": teacher["params"]["encoder"]}, fold(teachers), True)
        goal = unfold(l2_normalize(feature), GLOBALS)
        logits = {name: goal @ table.T for name, table in concepts.items()}
        targets = {
            name: sharpened(found, buffers[f"center_{name}"], settings.teacher_temperature) for name, found in logits.items()
        }
        views = jnp.concatenate(seen, axis=1)
        distilled, aligned = concept_distillation(views, targets, concepts, temperature=settings.temperature)
        metrics = {"loss_distillation": jnp.mean(distilled), "loss_alignment": jnp.mean(aligned), **watch(targets["category"])}
        loss = metrics["loss_distillation"] + settings.alignment * metrics["loss_alignment"]
        if settings.prior:
            chances = jnp.mean(jax.nn.softmax(views @ concepts["category"].T / settings.temperature, axis=-1), axis=(0, 1))
            metrics["prior"] = jnp.log(chances.size) - jnp.sum(jax.scipy.special.entr(chances))
            loss = loss + settings.prior * metrics["prior"]
        moved = self.moved(
            {f"center_{name}": buffers[f"center_{name}"] for name in TABLES}, {f"center_{k}": v for k, v in logits.items()}
        )
        return loss, (state._replace(buffers={**buffers, **moved}), {"loss": loss, **metrics})
