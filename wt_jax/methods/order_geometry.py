"""Order and geometry: which order the frames of a clip are in, and how all of them were warped.

After Jiao et al. 2020 (arXiv 2003.00105), made for fetal ultrasound: 4 frames, 12 classes of orders (an order and its reverse
are one), an affine transformation that is the same for all frames, its parameters predicted. Ranges, loss and weight are our
inference, as the full text could not be read.

The view is 1.8 times as large as the input, so that no warp shows what is outside of it: a black border would tell the angle.
B: videos of the batch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from wt_jax.augment.motion import order_classes, reorder_frames
from wt_jax.augment.warp import AFFINE, AffineRange, affine_matrices, draw_affine, warp
from wt_jax.methods.base import Batch, Built, MethodState, Metrics, Tree
from wt_jax.methods.forward import apply, first_variables
from wt_jax.methods.settings import check
from wt_jax.models.classifier import Classifier, LinearHead
from wt_jax.specs import ClipView

_RANGE = AffineRange()


@dataclass(frozen=True)
class OrderGeometrySettings:
    """Settings of order and geometry; the weight is our choice.

    Attributes:
      frames: of a clip, evenly spread over the span of `config.clip`; n frames have n! / 2 classes of orders.
      geometry_weight: of the error of the warp's parameters against the cross-entropy of the order.
      separate: each target on a copy of its own, one in order and warped, one in disorder and as it is (the source's two
        networks with shared weights); otherwise both on one clip.
    """

    frames: int = 4
    geometry_weight: float = 1.0
    separate: bool = False

    def __post_init__(self):
        check(self, least={"frames": 2, "geometry_weight": 0})
        if self.frames > 5:
            raise ValueError(f"frames must be 5 or fewer, got {self.frames}: {order_classes(self.frames):,} classes")


@dataclass(frozen=True)
class OrderGeometry(Built):
    """The method; see `wt_jax.methods.base.Method`."""

    @property
    def classes(self) -> int:
        """Of orders."""
        return order_classes(self.settings.frames)

    @property
    def network(self) -> Classifier:
        """Encoder and one linear layer for both targets."""
        return Classifier(self.encoder, LinearHead(self.classes + len(AFFINE)))

    @property
    def views(self) -> dict[str, ClipView]:
        """A strong view of few frames with room around."""
        strong, frames = self.setup.strong, self.settings.frames
        size = math.ceil(1.8 * strong.size)
        _RANGE.check(strong.size, size)
        stride = strong.stride * (1 if strong.unit == "video" else strong.num_frames / frames)
        return {"clip": replace(strong, num_frames=frames, stride=stride, size=size)}

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Encoder and head."""
        return MethodState(*first_variables(self.network, rng, (self._cut(batch["clip"]),), pretrained), {}, {})

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Cross-entropy of the order's class, and the smooth L1 error of the parameters relative to their ranges."""
        clips, variables = batch["clip"], {"params": params, **state.model_state}
        order_key, warp_key = jax.random.split(rng)
        draws = draw_affine(warp_key, batch["video"], _RANGE)
        warped = self._cut(clips, draws)
        if self.settings.separate:
            shuffled, label = reorder_frames(self._cut(clips), batch["video"], order_key)
            outputs, model_state = apply(self.network, variables, jnp.concatenate([shuffled, warped]))
            orders, geometry = jnp.split(outputs, 2)
        else:
            shuffled, label = reorder_frames(warped, batch["video"], order_key)
            outputs, model_state = apply(self.network, variables, shuffled)
            orders = geometry = outputs
        logits, found = orders[:, : self.classes], geometry[:, self.classes :]
        order_loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, label))
        geometry_loss = jnp.mean(optax.huber_loss(found, draws))
        loss = order_loss + self.settings.geometry_weight * geometry_loss
        metrics = {
            "loss": loss,
            "loss_geometry": geometry_loss,
            "accuracy_order": jnp.mean(jnp.argmax(logits, axis=-1) == label, dtype=jnp.float32),
            "geometry_explained": 1.0 - jnp.mean(jnp.square(found - draws)) / jnp.mean(jnp.square(draws)),
        }
        return loss, (state._replace(model_state=model_state), metrics)

    def _cut(self, clips: Array, draws: Array | None = None) -> Array:
        """The middle of clips, warped by draws (B, 5) in [-1, 1]; None: as it is."""
        size = self.setup.strong.size
        draws = jnp.zeros((len(clips), len(AFFINE)), jnp.float32) if draws is None else draws
        return warp(clips, affine_matrices(draws, _RANGE, size), size)
