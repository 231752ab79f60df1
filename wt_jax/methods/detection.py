"""Detection of actions: which classes each box of a key frame has, learned from labelled boxes; see `wt_jax.models.detector`.

As on AVA (https://arxiv.org/abs/1705.08421): the rows of the list are key frames (column "time"), the clip is centered on one,
and any number of classes is true of a box: binary cross-entropy over boxes and classes (PySlowFast, MODEL.LOSS_FUNC "bce").
Different here: RoIAlign has a fixed number of points; only annotated boxes are trained on, no detected ones; the last stage of
a residual network keeps its stride, where the source has dilation.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from wt_jax.errors import ConfigError
from wt_jax.methods.base import Batch, Built, MethodState, Metrics, Needs, Tree
from wt_jax.methods.forward import apply, first_variables
from wt_jax.methods.settings import check
from wt_jax.methods.supervised import keep_factors
from wt_jax.models.classifier import LinearHead
from wt_jax.models.detector import Detector
from wt_jax.specs import BoxView, View


@dataclass(frozen=True)
class DetectionSettings:
    """Settings of detection.

    Attributes:
      boxes: table of labelled boxes, see `wt_jax.data.boxes`.
      num_classes: width of the classifier; AVA has 80, of which 60 are evaluated.
      most: boxes of a key frame that are trained on.
      dropout: fraction of a box's feature that is dropped before the classifier.
      bins: rows and columns of RoIAlign.
      freeze: "" or "encoder": the encoder runs as in evaluation and stays bit for bit as it is.
    """

    boxes: str = ""
    num_classes: int = 80
    most: int = 10
    dropout: float = 0.5
    bins: int = 7
    freeze: str = ""

    def __post_init__(self):
        check(self, least={"num_classes": 1, "most": 1, "bins": 1}, freeze=("", "encoder"))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")


@dataclass(frozen=True)
class Detection(Built):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def network(self) -> Detector:
        """Encoder, RoIAlign and classifier."""
        settings = self.settings
        return Detector(self.encoder, LinearHead(settings.num_classes), settings.bins, settings.freeze == "encoder")

    @property
    def views(self) -> Mapping[str, View]:
        """One strong view, and the boxes in it."""
        settings, clip = self.settings, replace(self.setup.strong, record=True)
        if not settings.boxes:
            raise ConfigError("config.method.boxes is empty; name a table of labelled boxes, as `wt-jax make-lists ava` writes")
        return {"clip": clip, "boxes": BoxView(settings.boxes, settings.most, settings.num_classes, clip.window)}

    @property
    def needs(self) -> Needs:
        """A frozen encoder, if that is wanted; labels are the boxes'."""
        return Needs(frozen={self.settings.freeze: math.inf} if self.settings.freeze else {})

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Encoder and classifier."""
        return MethodState(*first_variables(self.network, rng, (batch["clip"], batch["boxes"]), pretrained), {}, {})

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean binary cross-entropy over the boxes of the batch and all classes; 0 where there is no box."""
        boxes, valid = batch["boxes"], batch["boxes.valid"].astype(jnp.float32)
        size = self.encoder.feature_dim
        keep = keep_factors(rng, batch["video"], valid.shape[1] * size, self.settings.dropout)
        keep = None if keep is None else keep.reshape(*valid.shape, size)
        variables = {"params": params, **state.model_state}
        logits, model_state = apply(self.network, variables, batch["clip"], boxes, keep=keep)
        losses = optax.sigmoid_binary_cross_entropy(logits, batch["boxes.labels"].astype(jnp.float32))
        loss = jnp.sum(jnp.mean(losses, axis=-1) * valid) / jnp.maximum(jnp.sum(valid), 1.0)
        metrics = {"loss": loss, "boxes_per_clip": jnp.mean(jnp.sum(valid, axis=1))}
        return loss, (state._replace(model_state=model_state), metrics)

    def predict(self, params: Tree, model_state: Tree, clips: Array, boxes: Array) -> Array:
        """Probabilities (B, M, C) float32 of each class of each box (B, M, 4), of clips (B, T, S, S, 3) in [0, 1]."""
        logits: Any = self.network.apply({"params": params, **model_state}, clips, boxes, False)
        return jax.nn.sigmoid(logits)
