"""V3S-style: how a video was sampled along width, height and time is told from the clip.

After Video 3D Sampling (Li, Luo, Fang 2021, arXiv 2107.03578), whose abstract alone could be read: scale and projection, each
in space and in time, are the targets. Classes, ranges and equal weights are our inference; the playback rates are PRP's (Yao et
al. 2020, arXiv 2006.11476).

Shortcuts: all variants are drawn of videos that are long enough for the fastest one, no perspective shows a border, and the
base scale varies by 17 % either way. What is left: half of a side has half the pixels, so that where videos are hardly larger
than clips, blur tells the scale; the strong view's own blur works against that. B: videos of the batch.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from wt_jax.augment.warp import PERSPECTIVES, draw_perspective, perspective_matrices, warp
from wt_jax.errors import ConfigError
from wt_jax.methods.base import Batch, Built, MethodState, Metrics, Tree
from wt_jax.methods.forward import apply, first_variables
from wt_jax.methods.settings import check
from wt_jax.models.classifier import Classifier, LinearHead
from wt_jax.specs import Choice

SIDES = ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.5, 0.5))  # width and height of a crop, relative to the base scale


@dataclass(frozen=True)
class V3SSettings:
    """Settings of V3S; all but the rates are our choice.

    Attributes:
      rates: temporal scales, times `config.clip.stride`.
      ramps: temporal projections: last step / first step of a clip of the same span.
      area: of the base scale, relative to the frame. To 0.5 all crops fit in frames up to twice as long as they are short.
      shrink: spatial projection: the far side of the frame, relative to the near one.
      rate_weight, ramp_weight, sides_weight, perspective_weight: of the four cross-entropies.
    """

    rates: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    ramps: tuple[float, ...] = (1.0, 0.5, 2.0)
    area: tuple[float, float] = (0.25, 0.5)
    shrink: float = 0.6
    rate_weight: float = 1.0
    ramp_weight: float = 1.0
    sides_weight: float = 1.0
    perspective_weight: float = 1.0

    def __post_init__(self):
        check(self, least={f"{name}_weight": 0 for name in ("rate", "ramp", "sides", "perspective")})
        for name in ("rates", "ramps"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise ValueError(f"{name} must be some numbers above 0, got {getattr(self, name)}")
        if not 0 < self.area[0] <= self.area[1] <= 0.5:
            raise ValueError(f"area must be (low, high) with 0 < low <= high <= 0.5, got {self.area}")
        if not 0 < self.shrink <= 1:
            raise ValueError(f"shrink must lie in (0, 1], got {self.shrink}")


@dataclass(frozen=True)
class V3S(Built):
    """The method; see `wt_jax.methods.base.Method`."""

    def __post_init__(self):
        if self.setup.strong.unit == "video":
            raise ConfigError("config.clip.unit 'video' leaves no rates to tell apart; choose 'frames' or 'seconds'")

    @property
    def classes(self) -> dict[str, int]:
        """Number of classes of each target."""
        settings = self.settings
        return {"rate": len(settings.rates), "ramp": len(settings.ramps), "sides": len(SIDES), "perspective": len(PERSPECTIVES)}

    @property
    def network(self) -> Classifier:
        """Encoder and one linear layer for all targets."""
        return Classifier(self.encoder, LinearHead(sum(self.classes.values())))

    @property
    def views(self) -> dict[str, Choice]:
        """One strong view, in as many variants as there are rates, ramps and crops."""
        strong, settings = self.setup.strong, self.settings
        variants = [
            replace(
                strong,
                stride=strong.stride * rate,
                ramp=ramp,
                area=(settings.area[0] * width * height, settings.area[1] * width * height),
                aspect=(width / height, width / height),
                crop="random",
                loop=False,
            )
            for rate, ramp, (width, height) in itertools.product(settings.rates, settings.ramps, SIDES)
        ]
        return {"clip": Choice(tuple(variants))}

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Encoder and classifiers."""
        return MethodState(*first_variables(self.network, rng, (batch["clip"],), pretrained), {}, {})

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Weighted sum of the cross-entropies of the four targets."""
        clips, classes = batch["clip"], self.classes
        perspective = draw_perspective(rng, batch["video"])
        size = clips.shape[2]
        clips = warp(clips, perspective_matrices(perspective, size, size, self.settings.shrink), size)
        logits, model_state = apply(self.network, {"params": params, **state.model_state}, clips)
        drawn = jnp.unravel_index(batch["clip.choice"], tuple(classes.values())[:3])
        metrics: Metrics = {"loss": jnp.zeros((), jnp.float32)}
        parts = jnp.split(logits, np.cumsum(tuple(classes.values()))[:-1].tolist(), axis=-1)
        for name, part, label in zip(classes, parts, (*drawn, perspective), strict=True):
            loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(part, label))
            metrics["loss"] += getattr(self.settings, f"{name}_weight") * loss
            metrics[f"accuracy_{name}"] = jnp.mean(jnp.argmax(part, axis=-1) == label, dtype=jnp.float32)
        return metrics["loss"], (state._replace(model_state=model_state), metrics)
