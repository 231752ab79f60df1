"""V-JEPA and V-JEPA 2: predict the teacher's tokens of masked blocks from the tokens around them.

Bardes et al. 2024 (arXiv 2404.08471), Assran et al. 2025 (arXiv 2506.09985), and their public code. Both share the loss; they
differ in positions (`config.model.vit.positions` "grid", or "rotary_tiled" with `key_bias`), heads of the predictor, first
values and schedules. That block sizes are drawn per clip and counts of tokens are fixed is ours: there, sizes are drawn per
batch, and counts are cut to the shortest of the batch.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.augment.masks import Blocks, multi_block_masks
from wt_jax.errors import ConfigError
from wt_jax.losses.masked import latent_loss, normalize_tokens
from wt_jax.methods.base import Batch, MethodState, Metrics, Tree
from wt_jax.methods.forward import Taught, Tokens, apply
from wt_jax.methods.settings import TeacherSettings, check
from wt_jax.models.masked import MaskedAutoencoder, TokenPredictor, chosen, flat
from wt_jax.specs import ClipView

# Many small blocks, and few large ones; the fractions of all tokens that are kept of context and targets.
KINDS = (
    {"blocks": 8, "area": 0.15, "context": 0.24, "targets": 0.50},
    {"blocks": 2, "area": 0.70, "context": 0.10, "targets": 0.63},
)


@dataclass(frozen=True)
class PredictorSettings:
    """The predictor's transformer.

    Attributes:
      width, blocks: 384 and 12 in both sources.
      heads: 0: as the encoder (V-JEPA); 12 in V-JEPA 2.
      mask_tokens: learned tokens in the places that are predicted: one for each kind of masks (V-JEPA), or one for all: the
        code of V-JEPA 2 counts them by lengths of clips.
    """

    width: int = 384
    heads: int = 0
    blocks: int = 12
    mask_tokens: int = len(KINDS)

    def __post_init__(self):
        check(self, least={"width": 1, "heads": 0, "blocks": 1, "mask_tokens": 1})


@dataclass(frozen=True)
class VJEPASettings:
    """Settings of V-JEPA.

    Attributes:
      predictor: of the masked tokens.
      teacher: momentum from 0.998 to 1, evenly over 1.25 times the training (V-JEPA); constant 0.99925 (V-JEPA 2).
    """

    predictor: PredictorSettings = PredictorSettings()
    teacher: TeacherSettings = TeacherSettings(0.998, "linear", 1.25)


@dataclass(frozen=True)
class VJEPA(Taught, Tokens):
    """The method; see `wt_jax.methods.base.Method`."""

    def __post_init__(self):
        view = self.setup.weak
        if min(self.transformer.grid((view.num_frames, view.size, view.size, 3))[1:]) < 7:
            raise ConfigError("config.clip.size must give 7 x 7 tokens or more: blocks leave no context in smaller grids")

    @property
    def evaluated(self) -> Literal["student", "teacher"]:
        """The moving average, as in the source."""
        return "teacher"

    @property
    def views(self) -> dict[str, ClipView]:
        """One weak view."""
        return {"clip": self.setup.weak}

    @property
    def student(self) -> MaskedAutoencoder:
        """Encoder and predictor."""
        encoder, settings = self.transformer, self.settings.predictor
        heads = settings.heads or encoder.heads
        sizes = {"width": settings.width, "heads": heads, "depth": settings.blocks, "kinds": settings.mask_tokens}
        return MaskedAutoencoder(encoder, TokenPredictor(encoder.channels, encoder.norm, encoder.form, **sizes))

    def inputs(self, batch: Batch) -> tuple[Array, ...]:
        """A clip and two of its tokens."""
        places = jnp.zeros((len(batch["clip"]), 1), jnp.int32)
        return batch["clip"], places, places + 1

    def draw(self, rng: Array, batch: Batch) -> list[Blocks]:
        """Context and targets of each kind."""
        grid = self.transformer.grid(batch["clip"].shape)
        return [multi_block_masks(jax.random.fold_in(rng, i), batch["video"], grid, **kind) for i, kind in enumerate(KINDS)]

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean over the kinds of masks of the absolute error of the targets."""
        clips, encoder = batch["clip"], self.transformer
        teacher = {name: part["encoder"] for name, part in jax.lax.stop_gradient(state.teacher).items() if "encoder" in part}
        seen: Any = encoder.apply(teacher, clips, True, method="tokens")
        latents, losses, deviations = normalize_tokens(flat(seen[1])), [], []
        for kind, blocks in enumerate(self.draw(rng, batch)):
            variables = {"params": params, **state.model_state}
            token = kind % self.settings.predictor.mask_tokens
            predicted, model_state = apply(self.student, variables, clips, blocks.context, blocks.targets, kind=token)
            state = state._replace(model_state=model_state)
            losses.append(latent_loss(predicted, chosen(latents, blocks.targets), blocks.weights))
            deviations.append(jnp.sqrt(jnp.var(predicted, axis=1) + 1e-4))
        loss = jnp.mean(jnp.stack(losses))
        metrics = {
            "loss": loss,
            # Near 0 the predictions of a clip's tokens are one: the collapse to watch for.
            "predicted_deviation": jnp.mean(jnp.stack(deviations)),
            "target_deviation": jnp.mean(jnp.std(latents, axis=(0, 1))),
        }
        return loss, (state, metrics)
