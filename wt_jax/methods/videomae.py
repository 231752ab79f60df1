"""Masked reconstruction: VideoMAE, and its relatives MAE-ST and MaskFeat as options.

VideoMAE: Tong et al. 2022 (arXiv 2203.12602) and its code, the default. MAE-ST (Feichtenhofer et al. 2022, arXiv 2205.09113):
`mask` "tokens", `normalize` "token", `first_frame`; its decoder has learned positions, ours sinusoids. MaskFeat (Wei et al.
2022, arXiv 2112.09133): `mask` "cubes", `target` "hog", `ratio` 0.4; there on MViT, here on a ViT. That as many tokens are
masked in every clip, also of cubes, is ours.
"""

from dataclasses import dataclass, replace
from math import prod

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.augment.masks import BlockSpec, Split, block_masks, token_masks, tube_masks
from wt_jax.errors import ConfigError
from wt_jax.losses.masked import hog_targets, pixel_targets, reconstruction_loss
from wt_jax.methods.base import Batch, MethodState, Metrics, Tree
from wt_jax.methods.forward import Tokens, apply
from wt_jax.methods.settings import check
from wt_jax.models.masked import HiddenTokens, MaskedAutoencoder, TokenPredictor, chosen
from wt_jax.specs import ClipView

# MaskFeat's cubes: a fifth to all of the frame.
CUBES = BlockSpec((0.2, 1.0), (0.3, 1 / 0.3))


@dataclass(frozen=True)
class DecoderSettings:
    """A small transformer over all tokens; widths and heads of the source: S 192/3, B 384/6, L 512/8, H 640/8."""

    width: int = 384
    heads: int = 6
    blocks: int = 4


@dataclass(frozen=True)
class VideoMAESettings:
    """Settings of VideoMAE.

    Attributes:
      mask: "tubes" (the same places in all frames), "tokens" (MAE-ST), or "cubes", which are replaced at the input instead of
        left out, without a decoder (MaskFeat).
      ratio: fraction of the tokens that is masked: 0.9 (0.75 on UCF101; MaskFeat 0.4).
      target: "pixels" or "hog".
      normalize: pixels by "color", by "token" (MAE-ST), or "" not at all.
      first_frame: predict only the first frame of each tubelet (MAE-ST).
      decoder: of visible and masked tokens.
    """

    mask: str = "tubes"
    ratio: float = 0.9
    target: str = "pixels"
    normalize: str = "color"
    first_frame: bool = False
    decoder: DecoderSettings = DecoderSettings()

    def __post_init__(self):
        choices = {"mask": ("tubes", "tokens", "cubes"), "target": ("pixels", "hog"), "normalize": ("color", "token", "")}
        check(
            self, fractions=("ratio",), least=dict.fromkeys(("decoder.width", "decoder.heads", "decoder.blocks"), 1), **choices
        )


@dataclass(frozen=True)
class VideoMAE(Tokens):
    """The method; see `wt_jax.methods.base.Method`."""

    def __post_init__(self):
        form, view = self.transformer.form, self.setup.weak
        sides = (view.num_frames, view.size, view.size)
        if any(size % step for size, step in zip(sides, form.tubelet, strict=True)):
            raise ConfigError(f"config.clip: {sides} frames, rows and columns are not whole tubelets of {form.tubelet}")
        if self.settings.target == "hog" and form.tubelet[1] % self.cell:
            raise ConfigError(f"config.method.target 'hog' needs tubelets of whole cells, got {form.tubelet}")
        if not 0 < self.masked < prod(self.grid):
            raise ConfigError(f"config.method.ratio {self.settings.ratio} masks {self.masked} of {prod(self.grid)} tokens")

    @property
    def views(self) -> dict[str, ClipView]:
        """One weak view: the source crops at several scales, and does nothing to the pixels."""
        return {"clip": self.setup.weak}

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens in time, height and width."""
        view = self.setup.weak
        return self.transformer.grid((view.num_frames, view.size, view.size, 3))

    @property
    def cell(self) -> int:
        """Side of a cell of gradients: half a tubelet, 8 pixels of 16."""
        return max(1, self.transformer.form.tubelet[1] // 2)

    @property
    def masked(self) -> int:
        """Masked tokens: whole tubes, where they are."""
        t, h, w = self.grid
        return t * int(self.settings.ratio * h * w) if self.settings.mask == "tubes" else int(self.settings.ratio * t * h * w)

    @property
    def student(self) -> nn.Module:
        """Encoder and decoder."""
        encoder, settings = self.transformer, self.settings
        frames, height, width = encoder.form.tubelet
        pixels = (1 if settings.first_frame else frames) * height * width * 3
        out = pixels if settings.target == "pixels" else (height // self.cell) * (width // self.cell) * 27
        if settings.mask == "cubes":
            return HiddenTokens(encoder, out)
        decoder, start = settings.decoder, nn.initializers.truncated_normal(0.02)
        sizes = (decoder.width, decoder.heads, decoder.blocks)
        return MaskedAutoencoder(encoder, TokenPredictor(out, encoder.norm, encoder.form, *sizes, bias=False, start=start))

    def inputs(self, batch: Batch) -> tuple[Array, ...]:
        """A clip and what is masked of it."""
        count, masked = len(batch["clip"]), self.masked
        if self.settings.mask == "cubes":
            return batch["clip"], jnp.zeros((count, prod(self.grid)), bool)
        places = jnp.broadcast_to(jnp.arange(prod(self.grid)), (count, prod(self.grid)))
        return batch["clip"], places[:, masked:], places[:, :masked]

    def draw(self, rng: Array, videos: Array) -> Split | Array:
        """What is visible and what is masked, or a mask, bool (B, N)."""
        if self.settings.mask == "cubes":
            return block_masks(rng, videos, self.grid, self.masked, replace(CUBES, duration=(1, self.grid[0])))
        if self.settings.mask == "tubes":
            return tube_masks(rng, videos, self.grid, self.masked // self.grid[0])
        return token_masks(rng, videos, prod(self.grid), self.masked)

    def targets(self, clips: Array) -> Array:
        """What is to be predicted of each token, (B, N, D) float32."""
        settings, tubelet = self.settings, self.transformer.form.tubelet
        if settings.target == "hog":
            return hog_targets(clips, tubelet, cell=self.cell)
        return pixel_targets(clips, tubelet, normalize=settings.normalize, first=settings.first_frame)

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean squared error of the masked tokens."""
        clips, drawn, targets = batch["clip"], self.draw(rng, batch["video"]), self.targets(batch["clip"])
        places = drawn.masked if isinstance(drawn, Split) else jnp.argsort(~drawn, axis=1, stable=True)[:, : self.masked]
        inputs = drawn if isinstance(drawn, Split) else (drawn,)
        predicted, model_state = apply(self.student, {"params": params, **state.model_state}, clips, *inputs)
        predicted = predicted if isinstance(drawn, Split) else chosen(predicted, places)
        loss = jnp.mean(reconstruction_loss(predicted, chosen(targets, places)))
        metrics = {"loss": loss, "predicted_deviation": jnp.mean(jnp.std(predicted, axis=0))}
        return loss, (state._replace(model_state=model_state), metrics)
