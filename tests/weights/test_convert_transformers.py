"""Transformers in and out: what is imported computes what the PyTorch module does, and goes back into it with `strict=True`.

The modules have two blocks of sixteen channels, random weights, and are built from their public packages.
"""

import re
from functools import cache, partial

import jax
import numpy as np
import pytest
from support import peers
from support.peers import torch
from support.training import MODELS  # noqa: F401  # adds "tiny_vit"

from wt_jax.config import CLIP_MEAN, CLIP_STD, ModelConfig, ViTConfig
from wt_jax.errors import WeightsError
from wt_jax.models import build_encoder
from wt_jax.weights.convert import KINDS, Kind, clip, convert, dino, timesformer, vjepa
from wt_jax.weights.convert.back import export_state

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
FRAME = {"cls": True, "attention": "frame", "patch_bias": True}
RAW = {"mean": (0.0,) * 3, "std": (1.0,) * 3}  # modules take what is normalized already


def _vjepa2():
    hf = peers.transformers()
    predictor = {"pred_hidden_size": 12, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, "pred_num_mask_tokens": 2}
    module = hf.VJEPA2Model(hf.VJEPA2Config(crop_size=32, frames_per_clip=4, **SIZES, **predictor))
    return module, lambda x: module(x, skip_predictor=True).last_hidden_state.mean(1)


def _timesformer():
    hf = peers.transformers()
    config = hf.TimesformerConfig(**SIZES, intermediate_size=64, image_size=32, num_frames=4, drop_path_rate=0)
    module = hf.TimesformerModel(config)
    return module, lambda x: module(x).last_hidden_state[:, 0]


def _per_frame(features):
    def run(x):
        return features(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)

    return run


def _dinov2():
    hf = peers.transformers()
    module = hf.Dinov2Model(hf.Dinov2Config(**SIZES, image_size=32, patch_size=16))
    return module, _per_frame(lambda x: module(x).last_hidden_state[:, 0])


def _dinov3():
    hf = peers.transformers()
    config = hf.DINOv3ViTConfig(**SIZES, intermediate_size=64, image_size=32, patch_size=16, num_register_tokens=4)
    module = hf.DINOv3ViTModel(config)
    return module, _per_frame(lambda x: module(x).last_hidden_state[:, 0])


def _clip():
    hf = peers.transformers()
    tower = {**SIZES, "intermediate_size": 64}
    text = {**tower, "vocab_size": 50, "max_position_embeddings": 12, "bos_token_id": 48, "eos_token_id": 49}
    config = hf.CLIPConfig(text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 16}, projection_dim=6)
    module = hf.CLIPModel(config)

    def features(x):
        return module.visual_projection(module.vision_model(pixel_values=x).pooler_output)

    return module, _per_frame(features)


def _open_clip():
    open_clip = pytest.importorskip("open_clip")
    vision = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32}
    text = {"context_length": 12, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2}
    module = open_clip.model.CLIP(6, vision, text, quick_gelu=True)
    return module, _per_frame(module.encode_image)


_GRID = {"learned_grid": (1, 2, 2), "positions": "learned"}
_CLIP = {"pre_norm": True, "project": 6, "epsilon": 1e-5, "activation": "quick_gelu"}
CASES = {
    "vjepa2": (_vjepa2, vjepa.SECOND, {"positions": "rotary_tiled", "key_bias": True}),
    "timesformer": (
        _timesformer,
        timesformer.SOURCES,
        {"tubelet": (1, 16, 16), "positions": "learned", "learned_grid": (4, 2, 2), "cls": True, "attention": "divided"},
    ),
    "dinov2": (_dinov2, dino.SECOND, {**FRAME, **_GRID, "tubelet": (1, 16, 16), "layer_scale": 1.0}),
    "dinov3": (
        _dinov3,
        dino.THIRD,
        {**FRAME, "tubelet": (1, 16, 16), "positions": "rotary_axial", "registers": 4, "layer_scale": 1.0, "epsilon": 1e-5},
    ),
    "clip": (_clip, clip.SOURCES, {**FRAME, **_GRID, **_CLIP, "tubelet": (1, 16, 16), "patch_bias": False}),
    "open_clip": (_open_clip, clip.SOURCES, {**FRAME, **_GRID, **_CLIP, "tubelet": (1, 16, 16), "patch_bias": False}),
}


@cache
def built(name):
    """The module with random weights, and how it makes features."""
    torch.manual_seed(1)
    module, run = CASES[name][0]()
    peers.randomize(module)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))
    return module.eval(), run


def state_of(module):
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


@pytest.fixture
def kind(request, monkeypatch):
    """A kind of two blocks, of the sources of its family."""
    sources, form = CASES[request.param][1:]
    monkeypatch.setitem(KINDS, request.param, Kind((ModelConfig("tiny_vit", 8, vit=ViTConfig(**form), **RAW),), sources, ""))
    return request.param


def clips_of(frames=4):
    return np.random.default_rng(0).normal(size=(2, frames, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", CASES, indirect=True)
def test_in_and_out(kind, record_property):
    module, run = built(kind)
    made = convert(kind, state_of(module), "the module")
    clips = clips_of()
    with torch.no_grad():
        expected = run(torch.from_numpy(clips.transpose(0, 1, 4, 2, 3).copy())).numpy()
    found = jax.jit(partial(build_encoder(made.config).apply, train=False))(made.variables, clips)
    record_property("largest difference", float(np.abs(found - expected).max()))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # Out: into the state dict of another module of the same architecture.
    torch.manual_seed(2)
    other, run_other = CASES[kind][0]()
    other.eval()
    exported = export_state(kind, made.variables, state_of(other))
    other.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in exported.items()}, strict=True)
    with torch.no_grad():
        again = run_other(torch.from_numpy(clips.transpose(0, 1, 4, 2, 3).copy())).numpy()
    np.testing.assert_allclose(again, expected, atol=1e-4)
    back = convert(kind, exported, "the export")
    jax.tree.map(np.testing.assert_array_equal, back.variables, made.variables)


RENAMED = {
    "vjepa2": [
        (r"encoder\.embeddings\.patch_embeddings\.proj", "patch_embed.proj"),
        (r"encoder\.layer\.", "blocks."),
        (r"encoder\.layernorm", "norm"),
        (r"attention\.proj", "attn.proj"),
    ],
    "timesformer": [
        (r"embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"embeddings\.cls_token", "cls_token"),
        (r"embeddings\.position_embeddings", "pos_embed"),
        (r"embeddings\.time_embeddings", "time_embed"),
        (r"encoder\.layer\.", "blocks."),
        (r"temporal_attention\.attention\.qkv", "temporal_attn.qkv"),
        (r"temporal_attention\.output\.dense", "temporal_attn.proj"),
        (r"temporal_dense", "temporal_fc"),
        (r"temporal_layernorm", "temporal_norm1"),
        (r"attention\.attention\.qkv", "attn.qkv"),
        (r"attention\.output\.dense", "attn.proj"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"output\.dense", "mlp.fc2"),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"^layernorm", "norm"),
    ],
    "dinov2": [
        (r"attention\.q_proj", "attention.attention.query"),
        (r"attention\.k_proj", "attention.attention.key"),
        (r"attention\.v_proj", "attention.attention.value"),
        (r"attention\.o_proj", "attention.output.dense"),
    ],
    "dinov3": [(r"^model\.layer", "layer")],
}


@pytest.mark.parametrize("kind", RENAMED, indirect=True)
def test_other_names_of_the_same(kind):
    state = {k: v for k, v in state_of(built(kind)[0]).items() if not k.startswith("predictor")}
    expected = convert(kind, state, "the module").variables
    if kind == "vjepa2":  # The authors keep query, key and value in one matrix.
        for part in ("weight", "bias"):
            for i in range(2):
                thirds = [state.pop(f"encoder.layer.{i}.attention.{name}.{part}") for name in ("query", "key", "value")]
                state[f"encoder.layer.{i}.attn.qkv.{part}"] = np.concatenate(thirds)
    renamed = {}
    for name, value in state.items():
        for pattern, other in RENAMED[kind]:
            name = re.sub(pattern, other, name)
        renamed[f"module.backbone.{name}" if kind == "vjepa2" else name] = value
    made = convert(kind, renamed, "a file")
    jax.tree.map(np.testing.assert_array_equal, made.variables, expected)


@pytest.mark.parametrize("kind", ["dinov2"], indirect=True)
def test_what_does_not_fit_is_named(kind):
    state = state_of(built(kind)[0])
    made = convert(kind, state, "the module")
    with pytest.raises(WeightsError, match="none of --kind dinov2"):
        export_state(kind, made.variables, {"weight": np.zeros(2)})
    del state["layernorm.weight"]
    with pytest.raises(WeightsError, match=r"layernorm\.weight is missing"):
        export_state(kind, made.variables, state)
    with pytest.raises(WeightsError, match=r"layernorm\.weight is missing"):
        convert(kind, state, "the module")


def test_the_statistics_of_clip_are_openais():
    assert (KINDS["clip_b16"].models[0].mean, KINDS["clip_b16"].models[0].std) == (CLIP_MEAN, CLIP_STD)
