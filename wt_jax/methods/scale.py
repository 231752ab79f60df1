"""SCALE: two sets of clips of a video are alike, and a hidden clip is told from all others, on stored features of clips.

Sameni, Jenni, Favaro 2023 (arXiv 2211.17042), whose public code is followed. The encoder of clips is trained already and stays
frozen; what is trained is a small transformer over the clips of a video. No video is opened: `wt_jax.tools.store_clips` writes
the features, with the encoder that made them.

Different here: the stored clips are evenly spread and drawn from, where the authors store as many random ones as they train on;
positions are relative to the clips that were drawn. B: videos of the batch, W: clips of a set.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jax.typing import ArrayLike

from wt_jax.config import ModelConfig
from wt_jax.data.feature_store import CLIPS
from wt_jax.errors import ConfigError
from wt_jax.losses import masked_clip_loss, set_contrast
from wt_jax.methods.base import Batch, Built, MethodState, Metrics, Needs, Pretrained, Tree
from wt_jax.methods.forward import first_variables
from wt_jax.methods.settings import check
from wt_jax.models import build_encoder
from wt_jax.models.set_transformer import SetHead, SetPredictor, relative_positions
from wt_jax.specs import FeatureView
from wt_jax.weights.folder import read_model


@dataclass(frozen=True)
class ScaleSettings:
    """Settings of SCALE; the defaults are those of its training script.

    Attributes:
      store: folder that `wt-jax store-clips` wrote: features of clips and the encoder that made them.
      clips: clips in each of the two sets of a video.
      mask: chance of each clip to be hidden.
      temperature: of both losses.
      set_weight, clip_weight: of the two losses; their weighted mean is the loss.
      dim: of all embeddings.
      hidden, target_hidden: width of the heads on the transformer, and of the one on the clips' own features.
    """

    store: str = ""
    clips: int = 8
    mask: float = 0.25
    temperature: float = 0.2
    set_weight: float = 1.0
    clip_weight: float = 1.0
    dim: int = 128
    hidden: int = 4096
    target_hidden: int = 2048

    def __post_init__(self):
        least = {"clips": 1, "dim": 1, "hidden": 1, "target_hidden": 1, "set_weight": 0, "clip_weight": 0}
        check(self, fractions=("mask",), least=least)
        if not self.set_weight + self.clip_weight:
            raise ValueError("set_weight and clip_weight are both 0, which leaves no loss")


@dataclass(frozen=True)
class Scale(Built):
    """The method; see `wt_jax.methods.base.Method`."""

    def __post_init__(self):
        if not self.settings.store:
            raise ConfigError("config.method.store is empty; name a folder that `wt-jax store-clips` wrote")

    @property
    def model(self) -> ModelConfig:
        """The stored encoder with the transformer on top; `config.model` is not read."""
        return replace(read_model(Path(self.settings.store)), aggregator="set_transformer")

    @property
    def network(self) -> SetPredictor:
        """The transformer and its heads."""
        settings = self.settings
        heads = (settings.hidden, 2), (settings.hidden, 2), (settings.target_hidden, 3)
        return SetPredictor(self.encoder, *(SetHead(hidden, settings.dim, layers) for hidden, layers in heads))

    @property
    def views(self) -> dict[str, FeatureView]:
        """Two sets of stored clips, in random order."""
        store, dim = str(Path(self.settings.store) / CLIPS), build_encoder(replace(self.model, aggregator="")).feature_dim
        return {"clips": FeatureView(store, 2 * self.settings.clips, dim)}

    @property
    def pretrained(self) -> Mapping[str, Pretrained]:
        """The frozen encoder of clips."""
        return {"clip_encoder": Pretrained(self.settings.store)}

    @property
    def needs(self) -> Needs:
        """Other videos in the batch."""
        return Needs(min_batch=2, reason="negatives come from the batch")

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """A fresh transformer; the frozen encoder is a constant of the model state."""
        clip_encoder = jax.tree.map(jnp.asarray, dict(pretrained["clip_encoder"]))
        inputs = (batch["clips"], relative_positions(batch["clips.geometry"]))
        encoder = {"encoder": {"frozen": {"clip_encoder": clip_encoder}}}
        return MethodState(*first_variables(self.network, rng, inputs, encoder), {}, {})

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Weighted mean of the contrast of sets and the loss of hidden clips."""
        settings, variables = self.settings, {"params": params, **state.model_state}

        def of_set(features: Array, positions: Array, key: Array) -> tuple[Array, ...]:
            mask_key, drop_key = jax.random.split(key)
            hidden = jax.random.bernoulli(mask_key, settings.mask, features.shape[:1])
            outputs: Any = self.network.apply(variables, features, positions, True, hidden, rngs={"dropout": drop_key})
            return (*outputs, hidden)

        features, positions = (
            rearrange(x, "b (s w) d -> b s w d", s=2) for x in (batch["clips"], relative_positions(batch["clips.geometry"]))
        )
        # Each set draws from a key of its video, not of its row, so that a batch may be cut into pieces.
        keys = jax.vmap(lambda video: jax.random.split(jax.random.fold_in(rng, video)))(batch["video"])
        sets, predicted, targets, hidden = jax.vmap(jax.vmap(of_set))(features, positions, keys)
        predicted, targets = (rearrange(x, "b s w d -> (b s w) d") for x in (predicted, targets))
        sets_loss = jnp.mean(set_contrast(sets[:, 0], sets[:, 1], temperature=settings.temperature))
        clip_losses = masked_clip_loss(predicted, targets, hidden.reshape(-1), temperature=settings.temperature)
        clip_loss = jnp.sum(clip_losses) / jnp.maximum(jnp.sum(hidden, dtype=jnp.float32), 1.0)
        weights = settings.set_weight, settings.clip_weight
        loss = (weights[0] * sets_loss + weights[1] * clip_loss) / sum(weights)
        return loss, (state, {"loss": loss, "loss_set": sets_loss, "loss_clips": clip_loss})
