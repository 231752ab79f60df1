"""An encoder with a head on top: what every method trains."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


def l2_normalize(x: Array) -> Array:
    """Rows of (..., D) scaled to length 1, float32; a row shorter than 1e-6 becomes zeros and passes no gradient on.

    A row with a NaN becomes NaN: were it zeros, the loss of a network that has diverged would stay finite.
    """
    x = x.astype(jnp.float32)
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    short = squared <= 1e-12
    # The inner choice keeps the gradient of what is not chosen finite.
    return jnp.where(short, 0.0, x * jax.lax.rsqrt(jnp.where(short, 1.0, squared)))


class Embedder(nn.Module):
    """Clips (B, T, S, S, 3) -> embedding (B, D) and pooled feature (B, F), both float32, the embedding L2-normalized.

    With a `predictor` the embedding is its prediction (BYOL, MoCo v3); the teacher is then an embedder without one.
    """

    encoder: nn.Module
    head: nn.Module
    predictor: nn.Module | None = None

    def __call__(self, clips: Array, train: bool) -> tuple[Array, Array]:
        """Embedding and feature; `train` needs `mutable=["batch_stats"]`."""
        feature = self.encoder(clips, train)
        embedding = self.head(feature, train)
        if self.predictor is not None:
            embedding = self.predictor(embedding, train)
        return l2_normalize(embedding), feature


class EncoderAlone(nn.Module):
    """An encoder without a head, as a method's network."""

    encoder: nn.Module

    def __call__(self, clips: Array, train: bool) -> Array:
        """(B, T, S, S, 3) -> features (B, F) float32."""
        return self.encoder(clips, train)


class Pathways(nn.Module):
    """A visual embedder, and a second one for motion (MoDist): two clips of a video -> two embeddings (B, D) float32."""

    encoder: nn.Module
    head: nn.Module
    motion: Embedder

    def __call__(self, clips: Array, motion: Array, train: bool) -> tuple[Array, Array]:
        """Visual and motion embedding, L2-normalized; `train` needs `mutable=["batch_stats"]`."""
        return l2_normalize(self.head(self.encoder(clips, train), train)), self.motion(motion, train)[0]
