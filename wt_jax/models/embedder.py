"""An encoder with a head on top: what every method trains."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array


def l2_normalise(x: Array) -> Array:
    """Rows of (..., D) scaled to length 1, float32; a row of zeros stays zero."""
    x = x.astype(jnp.float32)
    return x * jnp.reciprocal(jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6))


class Embedder(nn.Module):
    """Clips (B, T, S, S, 3) -> embedding (B, D) and pooled feature (B, F), both float32, the embedding L2-normalised."""

    encoder: nn.Module
    head: nn.Module

    def __call__(self, clips: Array, train: bool) -> tuple[Array, Array]:
        """Embedding and feature; `train` needs `mutable=["batch_stats"]`."""
        feature = self.encoder(clips, train)
        return l2_normalise(self.head(feature, train)), feature
