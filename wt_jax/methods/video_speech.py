"""Video and speech: a clip and what is said in its window correspond, easy negatives first, hard pairs last.

After Jiao et al. 2020 (arXiv 2008.06607), made for ultrasound with the sonographer's narration; its abstract alone could be
read. Both encoders, margin, pacing, weights and centers are our inference. In ultrasound the words have less to do with the
picture than in natural videos, hence the pacing, and the gate: a window without voice teaches nothing. B: videos of the batch.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from wt_jax.augment.motion import order_classes, reorder_frames
from wt_jax.errors import ConfigError
from wt_jax.losses import video_speech_loss
from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Tree
from wt_jax.methods.forward import Headed, apply, make_head
from wt_jax.methods.settings import HeadSettings, check
from wt_jax.models.classifier import LinearHead
from wt_jax.models.heads import MLP
from wt_jax.models.sound import Correspondence, SoundEncoder
from wt_jax.specs import AudioView, View

_FRAMES = 4  # of a clip, whose order is a target


@dataclass(frozen=True)
class VideoSpeechSettings:
    """Settings of video-speech; all of them are our choice.

    Attributes:
      seconds: of sound, from the moment the clip begins.
      rate, bands: samples per second, and mel bands of the spectrogram.
      margin: of all pairs.
      pull: weight of the attraction of each pair, beside that of the margins; at 1, clips end in two or three heaps.
      pace: fraction of the training over which the affinity of admitted negatives rises from 0 to 1; 0: all from the start.
      hard: whether another clip of the same video is a "negative" of the speech, or a second "positive".
      hard_weight: of the hard pairs, once all negatives are admitted; 0 before.
      voiced: least fraction of a window's hundredths of a second with voice; a pair below it counts nothing.
      center: whether the mean of the batch is taken out of the embeddings before they are normalized. Without, all similarities
        rise together in the first steps, above the ceiling of the negatives, and nothing holds the embeddings apart.
      order_weight: of the cross-entropy of the order of four frames of the clip, as in `order_geometry`; 0: none is computed.
      sound_width: of the encoder of sound.
      head: of the clips, and in the same form of the sound.
    """

    seconds: float = 2.0
    rate: int = 16000
    bands: int = 64
    margin: float = 0.5
    pull: float = 0.1
    pace: float = 0.5
    hard: str = "negative"
    hard_weight: float = 1.0
    voiced: float = 0.3
    center: bool = True
    order_weight: float = 0.0
    sound_width: int = 32
    head: HeadSettings = HeadSettings()

    def __post_init__(self):
        fractions = ("pace", "voiced")
        least = {"margin": 0, "pull": 0, "hard_weight": 0, "order_weight": 0, "sound_width": 1}
        check(self, fractions=fractions, least=least, hard=("negative", "positive"))


@dataclass(frozen=True)
class VideoSpeech(Headed):
    """The method; see `wt_jax.methods.base.Method`. `embed` and `embed_sound` are in one space."""

    def __post_init__(self):
        if self.settings.order_weight and self.setup.strong.num_frames < _FRAMES:
            raise ConfigError(f"config.clip.num_frames must be {_FRAMES} or more where config.method.order_weight is not 0")

    @property
    def head(self) -> MLP:
        """The projection head of clips."""
        return make_head(self.settings.head, self.encoder, self.settings.head.dim, self.settings.center)

    @property
    def network(self) -> Correspondence:
        """Both encoders with their heads."""
        sound = SoundEncoder(self.settings.sound_width)
        sound_head = make_head(self.settings.head, sound, self.settings.head.dim, self.settings.center)
        order_head = LinearHead(order_classes(_FRAMES)) if self.settings.order_weight else None
        return Correspondence(self.encoder, self.head, sound, sound_head, order_head)

    @property
    def sound(self) -> AudioView:
        """The sound of a window."""
        return AudioView("clip", self.settings.seconds, self.settings.rate, self.settings.bands)

    @property
    def views(self) -> dict[str, View]:
        """A strong view, its sound, and a strong view of another window."""
        clips = {name: replace(self.setup.strong, window=name) for name in ("clip", "other")}
        return {**clips, "speech": self.sound}

    @property
    def needs(self) -> Needs:
        """Other videos in the batch."""
        return Needs(min_batch=2, reason="negatives come from the batch")

    def inputs(self, batch: Batch) -> tuple[Array, ...]:
        """A clip and its sound."""
        return batch["clip"], batch["speech"]

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean over the pairs with voice; pairs without are neither anchors nor negatives."""
        settings, video = self.settings, batch["video"]
        # The clips of a video are neighbors, so that each stays on its device.
        clips = jnp.stack([batch["clip"], batch["other"]], axis=1).reshape(-1, *batch["clip"].shape[1:])
        (seen, speech), model_state = apply(self.network, {"params": params, **state.model_state}, clips, batch["speech"])
        seen = seen.reshape(-1, 2, seen.shape[-1])
        voiced = batch["speech.voiced"] >= settings.voiced
        mask = (video[:, None] != video[None, :]) & voiced[:, None] & voiced[None, :]
        paced_steps = settings.pace * self.setup.num_steps
        ceiling = jnp.minimum(jnp.asarray(step, jnp.float32) / max(paced_steps, 1e-6), 1.0) if paced_steps else 1.0
        hard_weight = jnp.where(jnp.asarray(ceiling) >= 1, settings.hard_weight, 0.0)
        paced = {"mask": mask, "ceiling": ceiling, "margin": settings.margin}
        losses = video_speech_loss(
            seen[:, 0], speech, seen[:, 1], hard=settings.hard, hard_weight=hard_weight, pull=settings.pull, **paced
        )
        loss = jnp.sum(jnp.where(voiced, losses, 0.0)) / jnp.maximum(jnp.sum(voiced, dtype=jnp.float32), 1.0)
        metrics = {
            "loss": loss,
            "pair_similarity": jnp.mean(jnp.sum(seen[:, 0] * speech, axis=-1)),
            "gated": 1.0 - jnp.mean(voiced, dtype=jnp.float32),
            "affinity_ceiling": jnp.asarray(ceiling, jnp.float32),
        }
        if settings.order_weight:
            frames = np.arange(_FRAMES) * batch["clip"].shape[1] // _FRAMES
            shuffled, order = reorder_frames(batch["clip"][:, frames], video, rng)
            variables = {"params": params, **state.model_state, **model_state}
            logits, model_state = apply(self.network, variables, shuffled, method="of_order")
            metrics["loss_order"] = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, order))
            metrics["loss"] = loss = loss + settings.order_weight * metrics["loss_order"]
        return loss, (state._replace(model_state=model_state), metrics)

    def embed_sound(self, params: Tree, model_state: Tree, spectrograms: Array) -> Array:
        """Embeddings (B, D) of spectrograms (B, columns, bands), for evaluation."""
        found: Any = self.network.apply({"params": params, **model_state}, spectrograms, False, method="of_sound")
        return found
