"""An encoder of sound: a small residual network over the columns and bands of a log-mel spectrogram. Its form is our choice."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from wt_jax.models.embedder import l2_normalize


class SoundEncoder(nn.Module):
    """Four stages, each half as long and as wide in bands as the one before, GroupNorm throughout: no statistics of a batch."""

    width: int = 32

    @property
    def feature_dim(self) -> int:
        """Number of channels of the features."""
        return 4 * self.width

    @nn.compact
    def __call__(self, spectrograms: Array) -> Array:
        """(B, columns, bands) float32 -> features (B, `feature_dim`) float32, averaged over time and bands."""

        def convolve(x: Array, channels: int, stride: int, kernel: int = 3) -> Array:
            x = nn.Conv(channels, (kernel, kernel), (stride, stride), use_bias=False)(x)
            return nn.GroupNorm(num_groups=min(8, channels))(x)

        x = nn.relu(convolve(spectrograms[..., None], self.width, 2))
        for channels in (self.width, 2 * self.width, 4 * self.width):
            y = convolve(nn.relu(convolve(x, channels, 2)), channels, 1)
            x = nn.relu(y + convolve(x, channels, 2, kernel=1))
        return jnp.mean(x, axis=(1, 2))


class Correspondence(nn.Module):
    """Clips and sound in one space, each by an encoder and a head of its own.

    `order_head` is on the features of clips too, and names the order of their frames; None: there is none.
    """

    encoder: nn.Module
    head: nn.Module
    sound: SoundEncoder
    sound_head: nn.Module
    order_head: nn.Module | None = None

    def __call__(self, clips: Array, spectrograms: Array, train: bool) -> tuple[Array, Array]:
        """(B, T, S, S, 3) and (N, columns, bands) -> (B, D) and (N, D) float32, L2-normalized."""
        if self.is_initializing() and self.order_head is not None:
            self.of_order(clips, train)
        return l2_normalize(self.head(self.encoder(clips, train), train)), self.of_sound(spectrograms, train)

    def of_order(self, clips: Array, train: bool) -> Array:
        """(B, T, S, S, 3), frames in some order -> logits (B, classes) float32."""
        assert self.order_head is not None
        return self.order_head(self.encoder(clips, train), train)

    def of_sound(self, spectrograms: Array, train: bool) -> Array:
        """(N, columns, bands) -> (N, D) float32, L2-normalized."""
        return l2_normalize(self.sound_head(self.sound(spectrograms), train))
