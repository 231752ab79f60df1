"""A linear classifier on top of an encoder: supervised training, fine-tuning and the linear probe on clips."""

import flax.linen as nn
import jax
from jax import Array

from wt_jax.models.embedder import l2_normalize
from wt_jax.models.norm import Norm

HEAD_NORMS = ("", "batch", "l2_batch")


class LinearHead(nn.Module):
    """One linear layer from small random weights (deviation 0.01, as in CoCLR's public code, arXiv 2010.09709).

    Before it the feature is left as it is (`norm` ""), normalized by BatchNorm ("batch"), or scaled to length 1 and then
    normalized by BatchNorm ("l2_batch").
    """

    classes: int
    norm: str = ""

    @nn.compact
    def __call__(self, feature: Array, train: bool, keep: Array | None = None) -> Array:
        """(B, F) float32 -> logits (B, `classes`) float32; `keep` (B, F) float32 are the factors of a dropout."""
        x = l2_normalize(feature) if self.norm == "l2_batch" else feature
        x = Norm("batch", name="norm")(x, train) if self.norm else x
        x = x if keep is None else x * keep
        return nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.01), name="dense")(x)


class Classifier(nn.Module):
    """Clips (B, T, S, S, 3) -> logits (B, C) float32; a `frozen` encoder runs as in evaluation and gets no gradient."""

    encoder: nn.Module
    head: nn.Module
    frozen: bool = False

    def __call__(self, clips: Array, train: bool, keep: Array | None = None) -> Array:
        """Logits; `train` needs `mutable=["batch_stats"]`, `keep` (B, F) are the factors of a dropout on the feature."""
        feature = self.encoder(clips, train and not self.frozen)
        return self.head(jax.lax.stop_gradient(feature) if self.frozen else feature, train, keep)
