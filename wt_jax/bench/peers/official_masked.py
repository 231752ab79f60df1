"""VideoMAE and V-JEPA as their authors' clones have them: loss and gradient on noise, for `wt_jax.bench.masked`."""

import importlib
import os
import sys
import types
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # of an extra

from wt_jax.config import ModelConfig
from wt_jax.errors import BenchError
from wt_jax.methods.vjepa import KINDS
from wt_jax.models import build_encoder
from wt_jax.specs import ClipView

TUBELET, PATCH, RATIO = 2, 16, 0.9
DECODER = {"decoder_embed_dim": 384, "decoder_num_heads": 6, "decoder_depth": 4}


def version() -> str:
    """That of PyTorch."""
    return f"torch {torch.__version__}"


def theirs(
    folder: Path, model: str, view: ClipView, batch: int, rows: Mapping[str, str], all_tokens: str
) -> dict[str, Callable[[], Any]]:
    """What is measured of the authors' modules, by row; `rows` are the names of "videomae" and "vjepa".

    Raises:
      BenchError: a clone is missing, or cannot do this.
    """
    if view.num_frames != 16:
        raise BenchError(f"VideoMAE's pre-training code reads 16 frames, --frames={view.num_frames}")
    for clone in ("VideoMAE", "jepa"):
        if not (folder / clone).is_dir():
            raise BenchError(f"--official={folder} has no clone of {clone}")
        sys.path.insert(0, str(folder / clone))
    _stand_in_for_timm()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    encoder: Any = build_encoder(ModelConfig(model))
    sizes = {"depth": encoder.depth, "num_heads": encoder.heads, "embed_dim": encoder.channels}
    clips = torch.from_numpy(np.random.default_rng(0).random((batch, 3, view.num_frames, view.size, view.size), np.float32))
    return {
        all_tokens: _all_tokens(sizes, clips),
        rows["videomae"]: _videomae(sizes, clips),
        rows["vjepa"]: _vjepa(sizes, clips),
    }


def _stand_in_for_timm() -> None:
    """What VideoMAE's modules import of timm, which itself needs a torchvision that fits; nothing is dropped here."""
    functions = {
        "drop_path": lambda x, *_: x,
        "to_2tuple": lambda x: (x, x),
        "trunc_normal_": torch.nn.init.trunc_normal_,
        "register_model": lambda function: function,
    }
    for name in ("timm", "timm.models", "timm.models.layers", "timm.models.registry"):
        module: Any = types.ModuleType(name)
        vars(module).update(functions)
        sys.modules[name] = module


def _norm() -> Callable[..., Any]:
    return partial(torch.nn.LayerNorm, eps=1e-6)


def _step(modules: list[Any], loss: Callable[[], Any]) -> Callable[[], Any]:
    def take() -> None:
        for module in modules:
            module.zero_grad(set_to_none=True)
        loss().backward()

    return take


def _all_tokens(sizes: dict[str, int], clips: Any) -> Callable[[], Any]:
    modeling_finetune = importlib.import_module("modeling_finetune")  # of the clone

    module = modeling_finetune.VisionTransformer(
        img_size=clips.shape[-1],
        patch_size=PATCH,
        num_classes=1,  # its head, which is not used here, must have weights
        qkv_bias=True,
        norm_layer=_norm(),
        all_frames=clips.shape[2],
        tubelet_size=TUBELET,
        **sizes,
    )
    return _step([module], lambda: module.forward_features(clips).mean())


def _videomae(sizes: dict[str, int], clips: Any) -> Callable[[], Any]:
    modeling_pretrain = importlib.import_module("modeling_pretrain")  # of the clone

    width = 3 * TUBELET * PATCH**2
    module = modeling_pretrain.PretrainVisionTransformer(
        img_size=clips.shape[-1],
        patch_size=PATCH,
        encoder_num_classes=0,
        decoder_num_classes=width,
        qkv_bias=True,
        norm_layer=_norm(),
        tubelet_size=TUBELET,
        **{f"encoder_{name}": value for name, value in sizes.items()},
        **DECODER,
    )
    places, times = (clips.shape[-1] // PATCH) ** 2, clips.shape[2] // TUBELET
    hidden = torch.zeros(len(clips), places, dtype=torch.bool)
    for row in hidden:
        row[torch.randperm(places)[: int(RATIO * places)]] = True
    mask = hidden.repeat(1, times)

    def loss() -> Any:
        with torch.no_grad():  # the target block of engine_for_pretraining.py, in its shapes
            x = clips.unflatten(4, (-1, PATCH)).unflatten(3, (-1, PATCH)).unflatten(2, (-1, TUBELET))
            x = x.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4, 6).flatten(1, 3)
            x = (x - x.mean(dim=-2, keepdim=True)) / (x.var(dim=-2, unbiased=True, keepdim=True).sqrt() + 1e-6)
            target = x.flatten(2)[mask].reshape(len(clips), -1, width)
        return torch.nn.functional.mse_loss(module(clips, mask), target)

    return _step([module], loss)


def _vjepa(sizes: dict[str, int], clips: Any) -> Callable[[], Any]:
    names = ("src.masks.utils", "src.models.predictor", "src.models.vision_transformer")  # of the clone
    masks, predictor, vision_transformer = map(importlib.import_module, names)

    common = {"img_size": clips.shape[-1], "patch_size": PATCH, "num_frames": clips.shape[2], "tubelet_size": TUBELET}
    common |= {"uniform_power": True, "qkv_bias": True, "norm_layer": _norm()}
    encoder, teacher = (vision_transformer.VisionTransformer(**sizes, **common) for _ in range(2))
    of_predictor = {**sizes, "depth": 12, "predictor_embed_dim": 384, "use_mask_tokens": True, "num_mask_tokens": len(KINDS)}
    predict = predictor.VisionTransformerPredictor(**of_predictor, **common)
    tokens = (clips.shape[-1] // PATCH) ** 2 * (clips.shape[2] // TUBELET)
    orders = [torch.stack([torch.randperm(tokens) for _ in clips]) for _ in KINDS]
    cuts = [(int(kind["context"] * tokens), int((kind["context"] + kind["targets"]) * tokens)) for kind in KINDS]
    drawn = [(order[:, :seen].clone(), order[:, seen:end].clone()) for order, (seen, end) in zip(orders, cuts, strict=True)]

    def loss() -> Any:
        with torch.no_grad():
            goal = teacher(clips)
            goal = torch.nn.functional.layer_norm(goal, (goal.shape[-1],))
        losses = [
            torch.mean(torch.abs(predict(encoder(clips, [c]), None, [c], [t], mask_index=k) - masks.apply_masks(goal, [t])))
            for k, (c, t) in enumerate(drawn)
        ]
        return torch.stack(losses).mean()

    return _step([encoder, predict], loss)
