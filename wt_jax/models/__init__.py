"""Video encoders and heads in flax linen.

`build_encoder(ModelConfig(name="r3d_18"))` returns a module with one interface whatever its name:
`encoder.apply(variables, clips (B, T, H, W, 3) in [0, 1], train) -> features (B, encoder.feature_dim)` in float32, averaged
over time and space; `pool=False` returns the last feature map (B, t, h, w, C). `encoder.layers` names its
parts from input to output; `wt_jax.models.feature_maps.layer_maps` returns their outputs. `encoder.unit` is "clip": a
feature is that of one clip, and a video's is the mean over its clips. `train=True` needs
`mutable=["batch_stats"]` unless the norm is "group". An encoder of unit "video" reads all clips of a video at once, see
`wt_jax.eval.features.extract.make_extractor`.
"""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wt_jax.config import ModelConfig, ViTConfig
from wt_jax.models.flops import forward_flops
from wt_jax.models.heads import MLP
from wt_jax.models.norm import KINDS, Norm
from wt_jax.models.resnet import mc3_18, r2plus1d_10, r2plus1d_18, r3d_18, r3d_34, r3d_50, slow_r50
from wt_jax.models.s3d import s3d, s3d_coclr, s3dg
from wt_jax.models.set_transformer import SetEncoder
from wt_jax.models.small import SmallR2Plus1D
from wt_jax.models.vit import ViT, small_vit, vit_base, vit_giant, vit_huge, vit_large, vit_small
from wt_jax.ops.conv3d import conv3d

__all__ = ["AGGREGATORS", "MLP", "MODELS", "Norm", "build_encoder", "conv3d", "first_encoder_variables", "forward_flops"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "s3d": s3d,
    "s3dg": s3dg,
    "s3d_coclr": s3d_coclr,
    "r3d_18": r3d_18,
    "r3d_34": r3d_34,
    "r3d_50": r3d_50,
    "mc3_18": mc3_18,
    "r2plus1d_10": r2plus1d_10,
    "r2plus1d_18": r2plus1d_18,
    "slow_r50": slow_r50,
    "small_r2plus1d": SmallR2Plus1D,
    "small_vit": small_vit,
    "vit_small": vit_small,
    "vit_base": vit_base,
    "vit_large": vit_large,
    "vit_huge": vit_huge,
    "vit_giant": vit_giant,
    "vit_small_fc_norm": partial(vit_small, fc_norm=True),
    "vit_base_fc_norm": partial(vit_base, fc_norm=True),
    "vit_large_fc_norm": partial(vit_large, fc_norm=True),
}

# What makes an encoder of whole videos of an encoder of clips, which stays frozen.
AGGREGATORS: dict[str, Callable[[nn.Module], nn.Module]] = {"set_transformer": SetEncoder}

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_encoder(config: ModelConfig) -> nn.Module:
    """Return the encoder that `config` names; ValueError, with the closest valid name, for what does not exist."""
    constructor = _choose("model", config.name, MODELS)
    kind = _choose("norm", config.norm, {name: name for name in KINDS})
    dtype = _choose("dtype", config.dtype, DTYPES)
    if config.width < 1:
        raise ValueError(f"width={config.width} must be at least 1")
    if config.sub_batches < 1 or (config.sub_batches > 1 and kind != "sub_batch"):
        raise ValueError(f"sub_batches={config.sub_batches} is not possible with norm={kind!r}")
    norm = partial(Norm, kind=kind, sub_batches=config.sub_batches, dtype=dtype)
    encoder = constructor(width=config.width, norm=norm, remat=config.remat, mean=config.mean, std=config.std)
    if config.vit != ViTConfig():
        if not isinstance(encoder, ViT):
            raise ValueError(f"vit is set, and {config.name} is no vision transformer; leave it, or take a vit")
        encoder = encoder.clone(form=config.vit)
    return _choose("aggregator", config.aggregator, AGGREGATORS)(encoder) if config.aggregator else encoder


def first_encoder_variables(encoder: nn.Module, key: jax.Array, clips: jax.Array) -> Any:
    """Fresh variables of an encoder of either unit, for clips like these (B, T, H, W, 3)."""
    return encoder.init(key, clips, False, method="of_clip" if encoder.unit == "video" else None)


def _choose(what: str, name: str, choices: dict):
    if name in choices:
        return choices[name]
    closest = difflib.get_close_matches(name, choices, n=1, cutoff=0)[0]
    raise ValueError(f"unknown {what} {name!r}; did you mean {closest!r}? Known: {', '.join(choices)}")
