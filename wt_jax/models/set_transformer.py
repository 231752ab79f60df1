"""A transformer over the clips of a video, and the encoder of unit "video" that it makes of a frozen encoder of clips.

SCALE: Sameni, Jenni, Favaro 2023 (arXiv 2211.17042), with the sizes of its public training script: width 256, 2 blocks, heads
of 32, an MLP of twice the width, dropout 0.1. B: videos, W: clips of each, D: width of a clip's feature, H: `width`.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from wt_jax.models.embedder import l2_normalize
from wt_jax.ops.ranks import widened

_HEAD = 32
_dense = partial(nn.Dense, kernel_init=nn.initializers.truncated_normal(0.02))  # the deviation is ours
_norm = partial(nn.LayerNorm, epsilon=1e-5)  # PyTorch's


def relative_positions(geometry: Array) -> Array:
    """Geometry (..., W, 7) relative to what the clips of a video cover together, float32 in [0, 1].

    Rows run from the least top to the greatest bottom, columns and times likewise; the flip stays as it is.
    """
    low = jnp.min(geometry, axis=-2, keepdims=True)
    high = jnp.max(geometry, axis=-2, keepdims=True)
    # Of (flip, top, left, bottom, right, start, end): where the range of each begins and ends.
    start = jnp.concatenate([jnp.zeros_like(low[..., :1]), *[low[..., i : i + 1] for i in (1, 2, 1, 2, 5, 5)]], axis=-1)
    end = jnp.concatenate([jnp.ones_like(high[..., :1]), *[high[..., i : i + 1] for i in (3, 4, 3, 4, 6, 6)]], axis=-1)
    return (geometry - start) / jnp.maximum(end - start, 1e-6)


class SetBlock(nn.Module):
    """Attention of all clips to all and an MLP, each after a norm and with a shortcut."""

    dropout: float = 0.1

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """(..., N, H) -> the same shape; `train` needs an rng "dropout"."""
        width, drop = x.shape[-1], partial(nn.Dropout(self.dropout), deterministic=not train)
        attention = nn.MultiHeadDotProductAttention(
            width // _HEAD, dropout_rate=self.dropout, broadcast_dropout=False, name="attention"
        )
        x = x + drop(attention(_norm(name="norm1")(x), deterministic=not train))
        y = drop(nn.gelu(_dense(2 * width, name="dense1")(_norm(name="norm2")(x)), approximate=False))
        return x + drop(_dense(width, name="dense2")(y))


class SetTransformer(nn.Module):
    """Features of clips and their positions -> what they say together, and what is expected at each of them.

    Without positions the clips are a set: permuted, they give the same sum and permuted outputs.
    """

    width: int = 256
    layers: int = 2

    @nn.compact
    def __call__(self, features: Array, positions: Array, train: bool, hidden: Array | None = None) -> tuple[Array, Array]:
        """Aggregate.

        Args:
          features: (..., W, D) float32.
          positions: (..., W, 7) float32, see `relative_positions`.
          train: whether to drop units, which needs an rng "dropout".
          hidden: (..., W) bool, clips whose features are replaced by a learned token; None: none.

        Returns:
          The sum (..., H) and the outputs (..., W, H) of the clips, float32.
        """
        tokens = [self.param(name, nn.initializers.zeros, (self.width,), jnp.float32) for name in ("cls", "mask")]
        x = _dense(self.width, name="project")(features)
        cls, mask = (jnp.broadcast_to(widened(token, x), (*x.shape[:-2], 1, self.width)) for token in tokens)
        if hidden is not None:
            x = jnp.where(hidden[..., None], mask, x)
        place = _dense(self.width, name="place2")(nn.relu(_dense(2 * self.width, name="place1")(positions)))
        x = jnp.concatenate([cls, x + place], axis=-2)
        for index in range(self.layers):
            x = SetBlock(name=f"block{index + 1}")(x, train)
        x = _norm(name="norm")(x)
        return x[..., 0, :], x[..., 1:, :]


class SetEncoder(nn.Module):
    """An encoder of unit "video": a frozen encoder of clips, and a `SetTransformer` over their features.

    Its feature is the clips' mean feature and the sum of the set, side by side. The backbone's variables are kept in the
    collection "frozen": no optimizer and no gradient sees them, checkpoint and export hold them.
    """

    unit = "video"
    layers = ()
    backbone: nn.Module
    width: int = 256

    def setup(self) -> None:
        """The transformer, and the backbone's variables as a constant."""
        self.aggregator = SetTransformer(self.width)
        self.frozen = self.variable("frozen", "clip_encoder", self._first_backbone)

    def _first_backbone(self) -> Any:
        clips = jnp.zeros((1, 2, 16, 16, 3), jnp.float32)
        return self.backbone.clone(parent=None).init(self.make_rng("params"), clips, False)

    @property
    def feature_dim(self) -> int:
        """The backbone's, and the width of the set's."""
        return self.backbone.feature_dim + self.width

    def clip_features(self, clips: Array, train: bool) -> Array:
        """(B, T, S, S, 3) in [0, 1] -> the frozen backbone's features (B, D) float32, as in evaluation."""
        found: Any = self.backbone.clone(parent=None).apply(self.frozen.value, clips, False)
        return found

    def aggregate(self, features: Array, positions: Array, train: bool, hidden: Array | None = None) -> tuple[Array, Array]:
        """As `SetTransformer`."""
        return self.aggregator(features, positions, train, hidden)

    def __call__(self, features: Array, geometry: Array, train: bool) -> Array:
        """All clips of each video, (B, W, D) and (B, W, 7), see `wt_jax.specs.GEOMETRY` -> (B, `feature_dim`) float32."""
        together, _ = self.aggregator(features, relative_positions(geometry), train)
        return jnp.concatenate([jnp.mean(features, axis=-2), together], axis=-1)

    def of_clip(self, clips: Array, train: bool) -> Array:
        """(B, T, S, S, 3) in [0, 1] -> (B, `feature_dim`), of videos that are one clip each."""
        features = self.clip_features(clips, train)[:, None]
        return self(features, jnp.zeros((*features.shape[:2], 7), jnp.float32), train)


class SetHead(nn.Module):
    """`layers` linear maps without bias, GELU between, and the output on the sphere."""

    hidden: int
    out: int
    layers: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., D) -> (..., `out`) float32, L2-normalized."""
        for index in range(self.layers - 1):
            x = nn.gelu(_dense(self.hidden, use_bias=False, name=f"dense{index + 1}")(x), approximate=False)
        return l2_normalize(_dense(self.out, use_bias=False, name=f"dense{self.layers}")(x))


class SetPredictor(nn.Module):
    """What SCALE trains: the aggregator of an encoder, a head on sums, one on outputs, and one on the clips' own features."""

    encoder: nn.Module
    set_head: SetHead
    clip_head: SetHead
    target_head: SetHead

    def __call__(self, features: Array, positions: Array, train: bool, hidden: Array | None = None) -> tuple[Array, ...]:
        """(..., W, D), (..., W, 7), (..., W) -> the set's embedding, predictions and targets of its clips, on the sphere."""
        encoder: Any = self.encoder  # a `SetEncoder`
        together, outputs = encoder.aggregate(features, positions, train, hidden)
        return self.set_head(together), self.clip_head(outputs), self.target_head(features)
