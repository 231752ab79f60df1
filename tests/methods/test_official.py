"""Methods beside the modules that other projects publish, from the same random weights.

transformers is a package; other projects' code is not: clones are read from the folder that WT_JAX_OFFICIAL names (`wt-jax
bench-fidelity --help` lists them), and without it those tests are skipped.
"""

import math
import multiprocessing
import os
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from support import peers
from support.peers import torch
from support.training import MODELS  # noqa: F401  # adds "tiny_vit"

from wt_jax.augment import masks as our_masks
from wt_jax.augment.masks import Split, multi_block_masks
from wt_jax.bench.official import contrastive, networks, recipes_flags, recipes_yaml, views
from wt_jax.bench.official.checks import check_row
from wt_jax.bench.official.reasons import REASONS
from wt_jax.bench.official.recipes import recipe_row
from wt_jax.bench.official.sources import Sources, class_of
from wt_jax.bench.official.weights import block, renamed, state_of
from wt_jax.config import ModelConfig, ViTConfig
from wt_jax.losses.masked import hog_targets
from wt_jax.methods.base import MethodState, Setup
from wt_jax.methods.videomae import DecoderSettings, VideoMAE, VideoMAESettings
from wt_jax.methods.vjepa import KINDS as MASKS
from wt_jax.models.prototypes import PrototypeHead
from wt_jax.specs import ClipView
from wt_jax.weights.convert import KINDS, Kind, convert, videomae

# The last linear map of the peers starts small; gradients are compared relative to their largest entry.
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
B, FRAMES = 2, 4
CHECKS = [check for part in (contrastive, views, networks) for check in part.CHECKS]
RECIPES = [recipe for part in (recipes_yaml, recipes_flags) for recipe in part.RECIPES]


def close(found, expected, most=1e-5):
    """Whether the difference is as long as `most` of what is expected."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= most * np.linalg.norm(expected)


def all_close(found, expected):
    """Two gradients of a network: together to 1e-5, and each tensor to 1e-4, as some are as small as rounding."""
    found, expected = flatten_dict(found, sep="/"), flatten_dict(expected, sep="/")
    assert set(found) == set(expected)
    close(*(np.concatenate([np.ravel(tree[name]) for name in expected]) for tree in (found, expected)))
    for name, array in found.items():
        close(array, expected[name], 1e-4)


def test_videomae_against_transformers(monkeypatch):
    hf = peers.transformers()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    decoder = {
        "decoder_hidden_size": 12,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 48,
    }
    config = hf.VideoMAEConfig(
        image_size=32, num_frames=FRAMES, layer_norm_eps=1e-6, norm_pix_loss=True, use_mean_pooling=False, **sizes, **decoder
    )
    module = hf.VideoMAEForPreTraining(config).train()
    module.decoder.norm.eps = 1e-6  # the authors'; transformers leaves PyTorch's 1e-5
    peers.randomize(module)
    clips = np.random.default_rng(0).uniform(size=(B, FRAMES, 32, 32, 3)).astype(np.float32)
    places = np.stack([np.random.default_rng(i).permutation(4) for i in range(B)])
    tubes = np.concatenate([places, places + 4], axis=1).reshape(B, 2, 4)
    masked = np.sort(tubes[:, :, :3].reshape(B, -1), axis=1).astype(np.int32)
    visible = np.sort(tubes[:, :, 3:].reshape(B, -1), axis=1).astype(np.int32)
    mask = np.zeros((B, 8), bool)
    np.put_along_axis(mask, masked, True, axis=1)
    x = torch.from_numpy(((clips - MEAN) / STD).transpose(0, 1, 4, 2, 3).copy())
    loss = module(x, bool_masked_pos=torch.from_numpy(mask)).loss
    loss.backward()

    model = ModelConfig("tiny_vit", 8, vit=ViTConfig(init="xavier"))
    monkeypatch.setitem(KINDS, "tiny", Kind((model,), videomae.SOURCES, ""))
    view = ClipView(num_frames=FRAMES, size=32)
    method = VideoMAE(VideoMAESettings(ratio=0.75, decoder=DecoderSettings(12, 2, 1)), Setup(model, view, view, 10))
    monkeypatch.setattr(VideoMAE, "draw", lambda self, rng, videos: Split(jnp.asarray(visible), jnp.asarray(masked)))
    names = {"encoder_to_decoder": "embed", "decoder.norm": "norm", "decoder.head": "head"}
    inner = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))
    attention, norms = (*inner, "attention.output.dense"), ("layernorm_before", "layernorm_after")
    names |= block("decoder.decoder_layers.0", "block1", attention, norms, ("intermediate.dense", "output.dense"))

    def ours(tensors):
        encoder = convert("tiny", tensors, "the module").variables["params"]
        return {
            "encoder": encoder,
            "predictor": renamed(tensors, names) | {"mask_tokens": tensors["mask_token"].reshape(1, -1)},
        }

    batch = {"clip": jnp.asarray(clips), "video": jnp.arange(B)}

    @jax.jit
    def value(params):
        return jax.value_and_grad(lambda p: method.loss(p, MethodState(p, {}, {}, {}), batch, jax.random.key(0), 0)[0])(params)

    found, gradient = value(ours(state_of(module)))
    assert float(found) == pytest.approx(float(loss.detach()), rel=1e-5)
    expected = ours({name: each.grad.numpy() for name, each in module.named_parameters()})
    all_close(gradient, expected)


@pytest.fixture
def sources():
    """The clones."""
    folder = os.environ.get("WT_JAX_OFFICIAL", "")
    if not folder:
        pytest.skip("WT_JAX_OFFICIAL names no folder of clones")
    return Sources(Path(folder))


def skip_without(sources, clone):
    if not (sources.folder / clone).is_dir():
        pytest.skip(f"{sources.folder} has no clone {clone}")


@pytest.mark.parametrize("check", [check for check in CHECKS if check.run], ids=lambda check: f"{check.method}-{check.clone}")
def test_a_method_is_its_source(sources, check):
    skip_without(sources, check.clone)
    _, faults = check_row(check, sources)
    assert not faults


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_is_its_source_or_says_why_not(sources, recipe):
    skip_without(sources, recipe.clone)
    _, faults = recipe_row(recipe, sources, REASONS.get(recipe.name, {}))
    assert not faults


def test_reasons_are_of_recipes():
    assert set(REASONS) <= {recipe.name for recipe in RECIPES}


EXTRAS = {"nn": torch.nn, "F": torch.nn.functional, "torch": torch, "np": np}


def script(clone, name):
    path = Path(os.environ.get("WT_JAX_OFFICIAL", "")) / clone / name
    if not os.environ.get("WT_JAX_OFFICIAL") or not path.is_file():
        pytest.skip(f"WT_JAX_OFFICIAL names no folder with a clone of {clone}")
    return path


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_dino_head_is_the_official_one():
    fill = {"trunc_normal_": torch.nn.init.trunc_normal_}
    module = class_of(script("dino", "vision_transformer.py"), "DINOHead", EXTRAS | fill)(
        12, 9, hidden_dim=20, bottleneck_dim=8
    )
    peers.randomize(module)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.mul_(3.0)  # so that GELU is not nearly linear
    rng = np.random.default_rng(0)
    features, weight = (rng.normal(size=(5, width)).astype(np.float32) for width in (12, 9))
    x = torch.tensor(features, requires_grad=True)
    expected = module(x)
    (expected * torch.tensor(weight)).sum().backward()
    names = {f"mlp.{place}": f"dense{number}" for number, place in enumerate((0, 2, 4), 1)}

    def ours(tensors):
        (prototypes,) = (array for name, array in tensors.items() if re.fullmatch(r"last_layer\..*(weight_v|original1)", name))
        return renamed(tensors, names) | {"prototypes": prototypes}

    params = ours(state_of(module))
    head = PrototypeHead(20, 8, 3, 9)
    found, back = jax.vjp(lambda params, x: head.apply({"params": params}, x), params, jnp.asarray(features))
    close(found, expected.detach().numpy())
    of_params, of_features = back(jnp.asarray(weight))
    close(of_features, x.grad.numpy())
    gradients = {name: each.grad.numpy() for name, each in module.named_parameters() if each.grad is not None}
    all_close(of_params, ours(gradients))


def test_hog_targets_are_the_official_ones():
    """In another order: there color, bin, row and column of the cell, here row, column, color, bin."""
    folder = "slowfast/models"
    layer = class_of(script("SlowFast", f"{folder}/operators.py"), "HOGLayerC", EXTRAS | {"math": math})
    kind = class_of(script("SlowFast", f"{folder}/masked.py"), "MaskMViT", EXTRAS | {"MViT": object, "math": math})
    clips = np.random.default_rng(0).random((2, 4, 32, 48, 3)).astype(np.float32)
    clips = clips[:, :, :, :32]  # the source knows squares alone
    stub = SimpleNamespace(
        cfg=SimpleNamespace(MVIT=SimpleNamespace(PATCH_STRIDE=(2, 16, 16))),
        pretrain_depth=[0],
        feat_size=[(2, 2, 2)],
        hogs=[layer(nbins=9, pool=8)],
        pred_hog_wt=1.0,
        hog_loss="mse",
    )
    x = torch.tensor(clips.transpose(0, 4, 1, 2, 3).copy())
    ((expected, _, _),) = kind._get_hog_label_3d(stub, x, [torch.ones(2, 8, dtype=torch.bool)])
    expected = expected.numpy().reshape(2, 8, 3, 9, 2, 2).transpose(0, 1, 4, 5, 2, 3)
    close(hog_targets(jnp.asarray(clips), (2, 16, 16)), expected.reshape(2, 8, -1))


class Drawn:
    """In the place of torch, for the mask generator of V-JEPA: what it draws is given, (ratio, top, left, top, left, ...)."""

    ones, argwhere, nonzero, int32 = torch.ones, torch.argwhere, torch.nonzero, torch.int32
    Generator, utils = torch.Generator, torch.utils

    def __init__(self, draws):
        self.first, self.draws, self.places = [1.0, 1.0], iter(draws), 0  # first the scales in time and space, which are fixed

    def rand(self, *_, generator):
        return torch.tensor(self.first.pop() if self.first else next(self.draws))

    def randint(self, low, high, shape):
        # Top, left and start of a block, which lasts throughout: of the start there is one choice, and no draw of ours.
        self.places += 1
        draw = np.float32(next(self.draws) if self.places % 3 else 0.0)
        return torch.tensor([int(np.floor(np.float32(high) * draw))])


@pytest.mark.parametrize("kind", MASKS)
def test_vjepa_masks_are_the_official_ones_from_the_same_draws(kind, monkeypatch):
    """The union of the blocks and the rest; how many tokens of them are kept, and which, is ours."""
    source, rng, tokens = script("jepa", "src/masks/multiblock3d.py"), np.random.default_rng(0), 2 * 14 * 14
    sizes = {"crop_size": 224, "num_frames": 4, "spatial_patch_size": 16, "npred": kind["blocks"]}
    compared = 0
    while compared < 6:
        draws = rng.random(tokens + 1 + 2 * kind["blocks"]).astype(np.float32)
        extras = {"torch": Drawn(draws[tokens:].tolist()), "math": math, "Value": multiprocessing.Value}
        generator = class_of(source, "_MaskGenerator", extras)
        generator = generator(spatial_pred_mask_scale=(kind["area"],) * 2, aspect_ratio=(0.75, 1.5), **sizes)
        try:
            context, targets = (np.asarray(each[0]) for each in generator(1))
        except StopIteration:  # nothing was left of the context, and it draws anew
            continue
        compared += 1
        monkeypatch.setattr(our_masks, "_uniform", lambda *_, draws=draws: jnp.asarray(draws)[None])
        shares = {"context": (len(context) + 0.1) / tokens, "targets": (len(targets) + 0.1) / tokens}
        shape = {"grid": (2, 14, 14), "blocks": kind["blocks"], "area": kind["area"], "tries": 1}
        found = multi_block_masks(jax.random.key(0), jnp.zeros(1, jnp.int32), **shape, **shares)
        np.testing.assert_array_equal(found.context[0], context)
        np.testing.assert_array_equal(found.targets[0], targets)
        assert np.all(found.weights == 1)
