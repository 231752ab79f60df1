"""HDC-style: a spatial and a temporal contrast at several depths, weighted by how instance-invariant each depth is.

Plan after Zhang & Crandall 2022 (arXiv 2011.11261): two subtasks made by what each pair's augmentation destroys, several
depths, invariance as weights. No formula, setting or code of theirs could be read: everything below that is our inference.

    spatial pair    anchor and another window with its frames shuffled: only what is seen can match
    temporal pair   anchor and the same window under strong crop and color: how it moves must match
    negatives       the batch's other videos; for the temporal pair also the shuffled window of the same video
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.augment import shuffle_frames
from wt_jax.errors import ConfigError
from wt_jax.losses import in_batch_info_nce, invariance_weights
from wt_jax.methods.base import Batch, Built, MethodState, Metrics, Needs, Tree, encoder_variables
from wt_jax.methods.forward import apply
from wt_jax.methods.settings import HeadSettings, check
from wt_jax.models.embedder import l2_normalize
from wt_jax.models.feature_maps import layer_maps
from wt_jax.models.heads import LevelHeads
from wt_jax.models.layers import global_pool
from wt_jax.specs import ClipView

KINDS = ("spatial", "temporal")


@dataclass(frozen=True)
class HDCSettings:
    """Settings of the HDC-style method. All are our inference.

    Attributes:
      layers: names of the encoder's layers, from shallow to deep; none: where its first, second and last third end.
      weighting: "invariance": by the measured invariance of each depth; "equal": all alike (the control).
      invariance_momentum: of the running mean of each depth's invariance.
      temperature, head: as CVRL's, with two maps.
    """

    layers: tuple[str, ...] = ()
    weighting: str = "invariance"
    invariance_momentum: float = 0.99
    temperature: float = 0.1
    head: HeadSettings = HeadSettings(norm="batch")

    def __post_init__(self):
        check(self, fractions=("invariance_momentum",), weighting=("invariance", "equal"))


@dataclass(frozen=True)
class HDC(Built):
    """The method; see `wt_jax.methods.base.Method`."""

    def __post_init__(self):
        known = self.encoder.layers
        for name in self.settings.layers:
            if name not in known:
                raise ConfigError(f"config.method.layers: the encoder has no layer {name!r}; it has {', '.join(known)}")

    @property
    def heads(self) -> LevelHeads:
        """A spatial and a temporal head for each depth."""
        head = self.settings.head
        return LevelHeads(head.hidden or self.encoder.feature_dim, head.dim, head.layers, head.norm or None)

    @property
    def levels(self) -> tuple[str, ...]:
        """The encoder's layers that take part."""
        names = self.encoder.layers
        return self.settings.layers or tuple(names[-(-len(names) * third // 3) - 1] for third in (1, 2, 3))

    @property
    def views(self) -> dict[str, ClipView]:
        """The anchor, mild; the same window, strong; another window, mild."""
        return {
            "anchor": replace(self.setup.weak, window="anchor"),
            "temporal": replace(self.setup.strong, window="anchor"),
            "spatial": replace(self.setup.weak, window="other"),
        }

    @property
    def needs(self) -> Needs:
        """Other videos in the batch."""
        return Needs(min_batch=2, reason="negatives come from the batch")

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Encoder and heads; the buffers are the running invariance of each depth."""
        clips = batch["anchor"][:1]
        encoder = pretrained.get("encoder") or self.encoder.init(rng, clips, False)
        _, maps, _ = layer_maps(self.encoder, encoder, clips, self.levels)
        heads = self.heads.init(jax.random.fold_in(rng, 1), jax.tree.map(global_pool, maps), False)
        variables = _joined(encoder, heads)
        invariance = {kind: jnp.ones((len(self.levels),), jnp.float32) for kind in KINDS}
        return MethodState(variables.pop("params"), variables, {}, invariance)

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Sum over depths of a_l L_spatial + b_l L_temporal, mean over the batch."""
        settings, invariance = self.settings, jax.lax.stop_gradient(state.buffers)
        shuffled = shuffle_frames(batch["spatial"], batch["video"], rng)
        clips = jnp.stack([batch["anchor"], batch["temporal"], shuffled], axis=1)
        embeddings, model_state = self._embed(params, state.model_state, clips.reshape(-1, *clips.shape[2:]))
        options = {"temperature": settings.temperature, "video": batch["video"]}
        metrics, total, measured = {}, jnp.zeros((), jnp.float32), {}
        for kind in KINDS:
            losses, cosines = [], []
            for level in self.levels:
                anchor, moved, still = jnp.moveaxis(embeddings[kind][level].reshape(-1, 3, settings.head.dim), 1, 0)
                positive, negative = (still, None) if kind == "spatial" else (moved, still)
                losses.append(jnp.mean(in_batch_info_nce(anchor, positive, negative=negative, **options)))
                cosines.append(jnp.mean(jnp.sum(anchor * positive, axis=-1)))
            weights = invariance_weights(invariance[kind]) if settings.weighting == "invariance" else 1 / len(self.levels)
            total += jnp.sum(weights * jnp.stack(losses))
            keep = settings.invariance_momentum
            measured[kind] = keep * invariance[kind] + (1 - keep) * jax.lax.stop_gradient(jnp.stack(cosines))
            for index, level in enumerate(self.levels):
                metrics[f"loss_{kind}_{level}"] = losses[index]
                metrics[f"invariance_{kind}_{level}"] = measured[kind][index]
        metrics["loss"] = total
        return total, (state._replace(model_state=model_state, buffers=measured), metrics)

    def _embed(self, params: Tree, model_state: Tree, clips: Array) -> tuple[Tree, Tree]:
        """{"spatial" or "temporal": {level: (B, dim), L2-normalized}}, and the new model state."""
        variables = encoder_variables(params, model_state)
        _, maps, encoder_state = layer_maps(self.encoder, variables, clips, self.levels, train=True)
        heads = {"params": params["heads"], **{k: v["heads"] for k, v in model_state.items() if "heads" in v}}
        outputs, head_state = apply(self.heads, heads, jax.tree.map(global_pool, maps))
        return jax.tree.map(l2_normalize, outputs), _joined(encoder_state, head_state)


def _joined(encoder: Tree, heads: Tree) -> Tree:
    """Collections of encoder and heads as collections of both."""
    both = {"encoder": encoder, "heads": heads}
    return {name: {part: tree[name] for part, tree in both.items() if name in tree} for name in {**encoder, **heads}}
