"""Supervised learning: an encoder with a linear classifier on top, trained by cross-entropy on labelled clips.

Trained whole it is the supervised baseline, or fine-tuning where the encoder starts from exported weights; with the encoder
frozen it is the linear probe on augmented clips. Label smoothing: Szegedy et al. 2016 (arXiv 1512.00567, section 7);
mixup: Zhang et al. 2018 (arXiv 1710.09412).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.errors import ConfigError
from wt_jax.losses import soft_cross_entropy
from wt_jax.methods.base import Batch, Built, MethodState, Metrics, Needs, Tree
from wt_jax.methods.forward import first_variables
from wt_jax.methods.settings import check
from wt_jax.models.classifier import HEAD_NORMS, Classifier, LinearHead
from wt_jax.specs import ClipView


@dataclass(frozen=True)
class SupervisedSettings:
    """Settings of supervised learning.

    Attributes:
      num_classes: width of the classifier; 0: as many as the training list has.
      dropout: fraction of the feature's numbers that are dropped before the classifier, drawn anew for each clip.
      label_smoothing: mass of the label that is spread evenly over all classes.
      mixup_alpha: of the Beta distribution from which the weight of a clip against its partner is drawn, once per step; 0: no
        mixup. Clips are mixed with the batch in reverse, which is in random order already (our choice).
      freeze: "" or "encoder": the encoder runs as in evaluation and stays bit for bit as it is.
      head_norm: what happens to the feature before the classifier: "" nothing, "batch" BatchNorm, "l2_batch" scaling to length
        1 and BatchNorm, which is the linear probe of CoCLR's public code (arXiv 2010.09709).
    """

    num_classes: int = 0
    dropout: float = 0.0
    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    freeze: str = ""
    head_norm: str = ""

    def __post_init__(self):
        check(self, least={"num_classes": 0, "mixup_alpha": 0}, freeze=("", "encoder"), head_norm=HEAD_NORMS)
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True)
class Supervised(Built):
    """The method; see `wt_jax.methods.base.Method`."""

    def __post_init__(self):
        wanted, found = self.settings.num_classes, self.setup.num_classes
        if 0 < wanted < found:
            raise ConfigError(
                f"config.method.num_classes is {wanted}, but the training videos have {found} classes; 0 takes theirs"
            )

    @property
    def num_classes(self) -> int:
        """Width of the classifier."""
        number = self.settings.num_classes or self.setup.num_classes
        if not number:
            raise ConfigError("config.method.num_classes is 0, and there are no labelled videos to count; give the number")
        return number

    @property
    def network(self) -> Classifier:
        """Encoder and classifier."""
        settings = self.settings
        head = LinearHead(self.num_classes, settings.head_norm)
        return Classifier(self.encoder, head, frozen=settings.freeze == "encoder")

    @property
    def views(self) -> dict[str, ClipView]:
        """One strong view."""
        return {"clip": self.setup.strong}

    @property
    def needs(self) -> Needs:
        """Labels."""
        return Needs(labels=True, frozen={self.settings.freeze: math.inf} if self.settings.freeze else {})

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Encoder and classifier."""
        return MethodState(*first_variables(self.network, rng, (batch["clip"],), pretrained), {}, {})

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean cross-entropy; the accuracies are those on the training clips, under mixup weighted as the labels are."""
        settings, num_classes = self.settings, self.num_classes
        clips, one_hot = batch["clip"], jax.nn.one_hot(batch["label"], num_classes, dtype=jnp.float32)
        mix_key, drop_key = jax.random.split(rng)
        if settings.mixup_alpha > 0:
            weight = jax.random.beta(mix_key, settings.mixup_alpha, settings.mixup_alpha, dtype=jnp.float32)
            clips, one_hot = (weight * x + (1.0 - weight) * x[::-1] for x in (clips, one_hot))
        keep = keep_factors(drop_key, batch["video"], self.encoder.feature_dim, settings.dropout)
        variables = {"params": params, **state.model_state}
        logits, model_state = self.network.apply(variables, clips, True, keep, mutable=["batch_stats"])
        labels = (1.0 - settings.label_smoothing) * one_hot + settings.label_smoothing / num_classes
        loss = jnp.mean(soft_cross_entropy(logits, labels))
        _, best = jax.lax.top_k(logits, min(5, num_classes))
        hits = jnp.take_along_axis(one_hot, best, axis=-1)
        metrics = {"loss": loss, "accuracy": jnp.mean(hits[:, 0]), "accuracy_top5": jnp.mean(jnp.sum(hits, axis=-1))}
        return loss, (state._replace(model_state=model_state), metrics)


def keep_factors(key: Array, video: Array, size: int, dropout: float) -> Array | None:
    """Dropout as factors (B, size) float32, 0 or 1 / (1 - dropout); None where nothing is dropped.

    A clip's draw depends on its video (B,) int32, not on its row, so that a batch may be cut into pieces.
    """
    if dropout == 0:
        return None
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, video)
    kept = jax.vmap(lambda k: jax.random.bernoulli(k, 1.0 - dropout, (size,)))(keys)
    return jnp.where(kept, 1.0 / (1.0 - dropout), 0.0).astype(jnp.float32)
