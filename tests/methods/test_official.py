"""Losses and gradients beside the modules that other projects publish, from the same random weights.

transformers is a package; the code of DINO, iBOT, V-JEPA and MaskFeat is not: clones of facebookresearch/dino, bytedance/ibot,
facebookresearch/jepa and facebookresearch/SlowFast are read from the folder that WT_JAX_OFFICIAL names, and without it these
tests are skipped.
"""

import math
import multiprocessing
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from support import peers
from support.peers import torch
from support.training import MODELS  # noqa: F401  # adds "tiny_vit"

from wt_jax.augment import masks as our_masks
from wt_jax.augment.masks import Blocks, Split, multi_block_masks
from wt_jax.config import ModelConfig, ViTConfig
from wt_jax.losses.masked import hog_targets
from wt_jax.losses.self_distillation import move_center, patch_distillation, self_distillation, sharpened
from wt_jax.methods.base import MethodState, Setup
from wt_jax.methods.settings import TeacherSettings
from wt_jax.methods.videomae import DecoderSettings, VideoMAE, VideoMAESettings
from wt_jax.methods.vjepa import KINDS as MASKS
from wt_jax.methods.vjepa import VJEPA, PredictorSettings, VJEPASettings
from wt_jax.models.prototypes import PrototypeHead
from wt_jax.specs import ClipView
from wt_jax.weights.convert import KINDS, Kind, convert, videomae, vjepa

# The last linear map of the peers starts small; gradients are compared relative to their largest entry.
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
B, FRAMES = 2, 4


def state_of(module):
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


def renamed(tensors, rules):
    """A peer's tensors as ours: {name of ours: array}, by rules (pattern, name, layout)."""
    made = {}
    for name, value in tensors.items():
        for pattern, ours, layout in rules:
            if match := re.fullmatch(pattern, name):
                made[match.expand(ours)] = np.asarray(layout(value))
    return made


def transposed(array):
    return array.T


def same(array):
    return array


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


def _block(theirs, ours, query, key, value, out, norms, mlp):
    rules = []
    for name, peer in {"query": query, "key": key, "value": value, "out": out}.items():
        rules.append((rf"{theirs}\.{peer}\.weight", f"{ours}/attention/{name}/kernel", transposed))
        rules.append((rf"{theirs}\.{peer}\.bias", f"{ours}/attention/{name}/bias", same))
    for name, peer in zip(("dense1", "dense2"), mlp, strict=True):
        rules += [(rf"{theirs}\.{peer}\.weight", f"{ours}/{name}/kernel", transposed)]
        rules += [(rf"{theirs}\.{peer}\.bias", f"{ours}/{name}/bias", same)]
    for name, peer in zip(("norm1", "norm2"), norms, strict=True):
        rules += [(rf"{theirs}\.{peer}\.weight", f"{ours}/{name}/scale", same)]
        rules += [(rf"{theirs}\.{peer}\.bias", f"{ours}/{name}/bias", same)]
    return rules


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
    peer = r"decoder\.decoder_layers\.0"
    attention = "attention.attention"
    rules = [
        (r"encoder_to_decoder\.weight", "embed/kernel", transposed),
        (r"mask_token", "mask_tokens", lambda w: w.reshape(1, -1)),
        *_block(
            peer,
            "block1",
            *(f"{attention}.{name}" for name in ("query", "key", "value")),
            "attention.output.dense",
            ("layernorm_before", "layernorm_after"),
            ("intermediate.dense", "output.dense"),
        ),
        (r"decoder\.norm\.weight", "norm/scale", same),
        (r"decoder\.norm\.bias", "norm/bias", same),
        (r"decoder\.head\.weight", "head/kernel", transposed),
        (r"decoder\.head\.bias", "head/bias", same),
    ]

    def ours(tensors):
        encoder = convert("tiny", tensors, "the module").variables["params"]
        return {"encoder": encoder, "predictor": unflatten_dict(renamed(tensors, rules), sep="/")}

    batch = {"clip": jnp.asarray(clips), "video": jnp.arange(B)}

    @jax.jit
    def value(params):
        return jax.value_and_grad(lambda p: method.loss(p, MethodState(p, {}, {}, {}), batch, jax.random.key(0), 0)[0])(params)

    found, gradient = value(ours(state_of(module)))
    assert float(found) == pytest.approx(float(loss.detach()), rel=1e-5)
    expected = ours({name: each.grad.numpy() for name, each in module.named_parameters()})
    all_close(gradient, expected)


@pytest.fixture
def official(monkeypatch):
    """Imports a module of a clone."""
    folder = os.environ.get("WT_JAX_OFFICIAL", "")

    def load(clone, name):
        path = Path(folder) / clone
        if not folder or not path.is_dir():
            pytest.skip(f"WT_JAX_OFFICIAL names no folder with a clone of {clone}")
        monkeypatch.syspath_prepend(str(path))
        for known in [known for known in sys.modules if known.split(".")[0] == "src"]:
            monkeypatch.delitem(sys.modules, known)
        return __import__(name, fromlist=["_"])

    return load


def class_of(source, name, extras):
    """One class of a script, without what the script imports."""
    text = Path(source).read_text()
    start = text.index(f"class {name}(")
    rest = re.search(r"\n(?=class |def )", text[start + 1 :])
    space = dict(extras)
    exec(text[start : start + 1 + rest.start() if rest else None], space)
    return space[name]


class OneProcess:
    """In the place of torch.distributed."""

    @staticmethod
    def all_reduce(tensor):
        return tensor

    @staticmethod
    def get_world_size():
        return 1


def script(clone, name):
    folder = os.environ.get("WT_JAX_OFFICIAL", "")
    path = Path(folder) / clone / name
    if not folder or not path.is_file():
        pytest.skip(f"WT_JAX_OFFICIAL names no folder with a clone of {clone}")
    return path


def _extras():
    return {"nn": torch.nn, "F": torch.nn.functional, "torch": torch, "np": np, "dist": OneProcess}


def test_dino_loss_is_the_official_one():
    kind = class_of(script("dino", "main_dino.py"), "DINOLoss", _extras())
    rng = np.random.default_rng(0)
    views, globals_, width = 5, 2, 11
    student, teacher = (rng.normal(size=(n, 3, width)).astype(np.float32) for n in (views, globals_))
    module, center = kind(width, views, 0.04, 0.04, 0, 2), np.zeros(width, np.float32)
    for _ in range(2):  # the second time the center has moved
        x = torch.tensor(student.reshape(-1, width), requires_grad=True)
        expected = module(x, torch.tensor(teacher.reshape(-1, width)), 0)
        expected.backward()

        def loss(s, center=center):
            return jnp.mean(self_distillation(s, sharpened(jnp.swapaxes(jnp.asarray(teacher), 0, 1), center, 0.04)))

        found, gradient = jax.value_and_grad(loss)(jnp.asarray(student.swapaxes(0, 1)))
        assert float(found) == pytest.approx(float(expected.detach()), rel=1e-5)
        close(gradient.swapaxes(0, 1).reshape(-1, width), x.grad.numpy())
        center = np.asarray(move_center(center, teacher))
        close(center, module.center[0].numpy())


def test_ibot_loss_is_the_official_one():
    kind = class_of(script("ibot", "main_ibot.py"), "iBOTLoss", _extras())
    rng = np.random.default_rng(1)
    width, tokens, count = 7, 4, 3
    seen, goal = (rng.normal(size=(2, count, tokens, width)).astype(np.float32) for _ in range(2))
    clip, clip_goal = (rng.normal(size=(2, count, width)).astype(np.float32) for _ in range(2))
    mask = rng.uniform(size=(2, count, 2, 2)) < 0.5
    module = kind(width, width, 2, 0, 0.04, 0.04, 0.07, 0.07, 0, 2)
    patches = torch.tensor(seen.reshape(-1, tokens, width), requires_grad=True)
    student = (torch.tensor(clip.reshape(-1, width)), patches)
    teacher = (torch.tensor(clip_goal.reshape(-1, width)), torch.tensor(goal.reshape(-1, tokens, width)))
    expected = module(student, teacher, None, [torch.tensor(each) for each in mask], 0)
    expected["patch"].backward()
    by_video = [jnp.asarray(x.swapaxes(0, 1)) for x in (seen, goal, mask.reshape(2, count, tokens))]

    def loss(patches):
        target = sharpened(by_video[1], jnp.zeros(width), 0.07)
        return jnp.mean(patch_distillation(patches, target, by_video[2]))

    found, gradient = jax.value_and_grad(loss)(by_video[0])
    assert float(found) == pytest.approx(float(expected["patch"].detach()), rel=1e-5)
    close(gradient.swapaxes(0, 1).reshape(patches.shape), patches.grad.numpy())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_dino_head_is_the_official_one():
    fill = {"trunc_normal_": torch.nn.init.trunc_normal_}
    module = class_of(script("dino", "vision_transformer.py"), "DINOHead", _extras() | fill)(
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
    dense = r"mlp\.{}\.{}"
    rules = []
    for place, name in zip((0, 2, 4), ("dense1", "dense2", "dense3"), strict=True):
        rules += [
            (dense.format(place, "weight"), f"{name}/kernel", transposed),
            (dense.format(place, "bias"), f"{name}/bias", same),
        ]
    rules += [(r"last_layer\.(?:weight_v|parametrizations\.weight\.original1)", "prototypes", same)]
    params = unflatten_dict(renamed(state_of(module), rules), sep="/")
    head = PrototypeHead(20, 8, 3, 9)
    found, back = jax.vjp(lambda params, x: head.apply({"params": params}, x), params, jnp.asarray(features))
    close(found, expected.detach().numpy())
    of_params, of_features = back(jnp.asarray(weight))
    close(of_features, x.grad.numpy())
    gradients = {name: each.grad.numpy() for name, each in module.named_parameters() if each.grad is not None}
    all_close(of_params, unflatten_dict(renamed(gradients, rules), sep="/"))


def test_hog_targets_are_the_official_ones():
    """In another order: there color, bin, row and column of the cell, here row, column, color, bin."""
    folder = "slowfast/models"
    layer = class_of(script("SlowFast", f"{folder}/operators.py"), "HOGLayerC", _extras() | {"math": math})
    kind = class_of(script("SlowFast", f"{folder}/masked.py"), "MaskMViT", _extras() | {"MViT": object, "math": math})
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


@pytest.mark.filterwarnings("ignore:.*sdp_kernel:FutureWarning")
def test_vjepa_loss_is_the_official_one(official, monkeypatch):
    models = official("jepa", "src.models.vision_transformer")
    predictors = official("jepa", "src.models.predictor")
    masks = official("jepa", "src.masks.utils")
    torch.manual_seed(0)
    size, patch = 32, 4
    common = {"img_size": size, "patch_size": patch, "num_frames": FRAMES, "tubelet_size": 2, "uniform_power": True}
    norm = {"norm_layer": lambda width: torch.nn.LayerNorm(width, eps=1e-6)}
    encoder = models.VisionTransformer(embed_dim=24, depth=2, num_heads=2, qkv_bias=True, **common, **norm)
    sizes = {"embed_dim": 24, "predictor_embed_dim": 12, "depth": 1, "num_heads": 2}
    predictor = predictors.VisionTransformerPredictor(**sizes, use_mask_tokens=True, num_mask_tokens=2, **common, **norm)
    for module in (encoder, predictor):
        peers.randomize(module)
    clips = np.random.default_rng(0).uniform(size=(B, FRAMES, size, size, 3)).astype(np.float32)
    x = torch.from_numpy(((clips - MEAN) / STD).transpose(0, 4, 1, 2, 3).copy())
    orders = [np.stack([np.random.default_rng(2 * k + i).permutation(128) for i in range(B)]) for k in range(2)]
    kinds = [(order[:, :30], order[:, 30:80]) for order in orders]
    with torch.no_grad():
        goal = torch.nn.functional.layer_norm(encoder(x), (24,))
    losses = []
    for k, (context, targets) in enumerate(kinds):
        seen, wanted = (torch.from_numpy(each) for each in (context, targets))
        z = predictor(encoder(x, [seen]), None, [seen], [wanted], mask_index=k)
        losses.append(torch.mean(torch.abs(z - masks.apply_masks(goal, [wanted]))))
    loss = sum(losses) / 2
    loss.backward()

    model = ModelConfig("tiny_vit", 12, vit=ViTConfig((2, patch, patch), "grid"))
    monkeypatch.setitem(KINDS, "tiny", Kind((model,), vjepa.FIRST, ""))
    view = ClipView(num_frames=FRAMES, size=size)
    settings = VJEPASettings(PredictorSettings(12, 2, 1), TeacherSettings())
    method = VJEPA(settings, Setup(model, view, view, 10))
    drawn = [Blocks(*(jnp.asarray(each, jnp.int32) for each in kind), jnp.ones((B, 50))) for kind in kinds]
    monkeypatch.setattr(VJEPA, "draw", lambda self, rng, batch: drawn)

    def thirds(state):
        made = dict(state)
        for part in ("weight", "bias"):
            stacked = made.pop(f"predictor_blocks.0.attn.qkv.{part}")
            made |= dict(zip([f"predictor_blocks.0.{n}.{part}" for n in ("q", "k", "v")], np.split(stacked, 3), strict=True))
        made.pop("predictor_blocks.0.k.bias")
        tokens = [made.pop(f"mask_tokens.{k}").reshape(-1) for k in range(2)]
        return {**made, "mask_tokens": np.stack(tokens)}

    rules = [
        (r"predictor_embed\.weight", "embed/kernel", transposed),
        (r"predictor_embed\.bias", "embed/bias", same),
        (r"mask_tokens", "mask_tokens", same),
        *_block(r"predictor_blocks\.0", "block1", "q", "k", "v", r"attn\.proj", ("norm1", "norm2"), (r"mlp\.fc1", r"mlp\.fc2")),
        (r"predictor_norm\.weight", "norm/scale", same),
        (r"predictor_norm\.bias", "norm/bias", same),
        (r"predictor_proj\.weight", "head/kernel", transposed),
        (r"predictor_proj\.bias", "head/bias", same),
    ]

    def ours(of_encoder, of_predictor):
        tensors = unflatten_dict(renamed(thirds(of_predictor), rules), sep="/")
        return {"encoder": convert("tiny", of_encoder, "the module").variables["params"], "predictor": tensors}

    params = ours(state_of(encoder), state_of(predictor))
    teacher = {"params": {"encoder": params["encoder"]}}
    batch = {"clip": jnp.asarray(clips), "video": jnp.arange(B)}

    @jax.jit
    def value(params):
        state = MethodState(params, {}, teacher, {})
        return jax.value_and_grad(lambda p: method.loss(p, state, batch, jax.random.key(0), 0)[0])(params)

    found, gradient = value(params)
    assert float(found) == pytest.approx(float(loss.detach()), rel=1e-5)
    grads = [
        {name: each.grad.numpy() for name, each in module.named_parameters() if each.grad is not None}
        for module in (encoder, predictor)
    ]
    all_close(gradient, ours(*grads))
