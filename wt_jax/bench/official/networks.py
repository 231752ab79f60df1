"""Whole networks beside their authors' modules, from the same random weights, and the attentive probe."""

from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # of an extra

from wt_jax.augment.masks import Blocks, Split
from wt_jax.bench.official.checks import Check, Found
from wt_jax.bench.official.sources import NoOptimizer, Sources, gradient, leaf, one_process
from wt_jax.bench.official.weights import block, randomize, renamed, separated, slopes_of, state_of
from wt_jax.config import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, ModelConfig, ViTConfig
from wt_jax.eval.protocols.attentive import apply_probe, normalize
from wt_jax.losses import masked_clip_loss, set_contrast
from wt_jax.methods.base import MethodState, Setup
from wt_jax.methods.settings import TeacherSettings
from wt_jax.methods.videomae import DecoderSettings, VideoMAE, VideoMAESettings
from wt_jax.methods.vjepa import VJEPA, PredictorSettings, VJEPASettings
from wt_jax.models import build_encoder
from wt_jax.models.set_transformer import SetEncoder, SetHead, SetPredictor
from wt_jax.specs import ClipView
from wt_jax.weights.convert import KINDS, Kind, clip, convert, videomae, vjepa
from wt_jax.weights.text_tower import read_text_tower

MEAN, STD = (np.array(each, np.float32) for each in (IMAGENET_MEAN, IMAGENET_STD))
B, SIZE, HEADS, DEPTH = 2, 32, 4, 4  # heads and depth are those of "small_vit"


def _clips(frames: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(B, frames, SIZE, SIZE, 3)).astype(np.float32)


def _channels_first(clips: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(((clips - MEAN) / STD).transpose(0, 4, 1, 2, 3).copy())


def _encoder(model: ModelConfig, sources: Any, state: Mapping[str, np.ndarray]) -> Any:
    """Flax parameters of an encoder of this form from the authors' names."""
    with mock.patch.dict(KINDS, {"compared": Kind((model,), sources, "")}):
        return convert("compared", state, "the module").variables["params"]


def _loss(method: Any, params: Any, clips: np.ndarray, teacher: Any = None) -> Found:
    batch = {"clip": jnp.asarray(clips), "video": jnp.arange(B)}

    @jax.jit
    def value(params: Any) -> Any:
        return method.loss(params, MethodState({}, {}, teacher or {}, {}), batch, jax.random.key(0), 0)[0]

    with jax.default_matmul_precision("float32"):
        loss, slopes = jax.value_and_grad(value)(params)
    return Found({"loss": loss}, slopes)


def _videomae(sources: Sources) -> tuple[Found, Found]:
    engine, models = (sources.load("VideoMAE", name) for name in ("engine_for_pretraining", "modeling_pretrain"))
    frames, patch = 16, 16  # the module has no other number of frames
    norm = {"norm_layer": partial(torch.nn.LayerNorm, eps=1e-6), "qkv_bias": True}
    sizes = {"encoder_embed_dim": 24, "encoder_depth": DEPTH, "encoder_num_heads": HEADS}
    sizes |= {"decoder_embed_dim": 12, "decoder_depth": 1, "decoder_num_heads": 2, "decoder_num_classes": 6 * patch**2}
    places = np.stack([np.random.default_rng(i).permutation(4) for i in range(B)])
    tubes = places[:, None] + 4 * np.arange(frames // 2)[None, :, None]  # the same places at each time
    masked, visible = (np.sort(part.reshape(B, -1), axis=1) for part in (tubes[..., :3], tubes[..., 3:]))
    mask = np.zeros((B, 4 * frames // 2), bool)
    np.put_along_axis(mask, masked, True, axis=1)
    clips = _clips(frames)

    class Scaler(SimpleNamespace):
        """The source's scaler, which does the backward pass."""

        def __call__(self, loss: torch.Tensor, *_: Any, **__: Any) -> float:
            loss.backward()
            return 0.0

    with one_process() as losses:
        module = models.PretrainVisionTransformer(SIZE, patch, **sizes, **norm)
        randomize(module, torch)
        scaler = Scaler(state_dict=lambda: {"scale": 1.0})
        batch, cpu = (_channels_first(clips), torch.from_numpy(mask)), torch.device("cpu")
        engine.train_one_epoch(module, [batch], NoOptimizer(), cpu, 0, scaler, patch_size=patch, start_steps=0)
    model = ModelConfig("small_vit", 6, vit=ViTConfig(init="xavier"))
    view = ClipView(num_frames=frames, size=SIZE)

    class Drawn(VideoMAE):
        """With the case's masks."""

        def draw(self, rng: Any, videos: Any) -> Split:
            return Split(jnp.asarray(visible, jnp.int32), jnp.asarray(masked, jnp.int32))

    method = Drawn(VideoMAESettings(ratio=0.75, decoder=DecoderSettings(12, 2, 1)), Setup(model, view, view, 10))
    layers = {"encoder_to_decoder": "embed", **block("decoder.blocks.0", "block1"), "decoder.norm": "norm"}
    layers["decoder.head"] = "head"

    def ours(state: Mapping[str, np.ndarray]) -> Any:
        encoder = {name.removeprefix("encoder."): array for name, array in state.items() if name.startswith("encoder.")}
        predictor = renamed(separated(state), layers) | {"mask_tokens": state["mask_token"].reshape(1, -1)}
        return {"encoder": _encoder(model, videomae.SOURCES, encoder), "predictor": predictor}

    return _loss(method, ours(state_of(module)), clips), Found({"loss": np.float32(losses[0])}, ours(slopes_of(module)))


def _vjepa(sources: Sources, clone: str, rotary: bool, seed: int = 0) -> tuple[Found, Found]:
    """With a seed by which no prediction is within rounding of its target, where an absolute error has no gradient."""
    models, predictors = (sources.load(clone, f"src.models.{name}") for name in ("vision_transformer", "predictor"))
    masks = sources.load(clone, "src.masks.utils")
    wrappers = sources.load(clone, "src.utils.wrappers" if rotary else "src.models.utils.multimask")
    frames, patch, channels = 4, 4, 48  # twelve for each head, as rotary positions need more than one pair for each axis
    common = {"img_size": SIZE, "patch_size": patch, "num_frames": frames, "tubelet_size": 2, "uniform_power": True}
    common |= {"norm_layer": partial(torch.nn.LayerNorm, eps=1e-6), "qkv_bias": True} | ({"use_rope": True} if rotary else {})
    clips, count = _clips(frames), frames // 2 * (SIZE // patch) ** 2
    orders = [np.stack([np.random.default_rng((seed, k, i)).permutation(count) for i in range(B)]) for k in range(2)]
    kinds = [(order[:, :30], order[:, 30:80]) for order in orders]
    with one_process():
        encoder = models.VisionTransformer(embed_dim=channels, depth=DEPTH, num_heads=HEADS, **common)
        sizes = {"embed_dim": channels, "predictor_embed_dim": channels, "depth": 1, "num_heads": HEADS}
        predictor = predictors.VisionTransformerPredictor(**sizes, use_mask_tokens=True, num_mask_tokens=2, **common)
        for module in (encoder, predictor):
            randomize(module, torch)
        x = _channels_first(clips)
        seen, wanted = ([torch.from_numpy(kind[i]) for kind in kinds] for i in (0, 1))
        with torch.no_grad():
            goal = torch.nn.functional.layer_norm(encoder(x), (channels,))
        if rotary:  # lists of groups of clips of one length: there is one
            z = wrappers.MultiSeqWrapper(encoder)([x], [seen])
            (z,) = wrappers.PredictorMultiSeqWrapper(predictor)(z, [seen], [wanted])
        else:
            z = wrappers.MultiMaskWrapper(encoder)(x, seen)
            z = wrappers.PredictorMultiMaskWrapper(predictor)(z, [None, None], seen, wanted)
        goals = [masks.apply_masks(goal, [each]) for each in wanted]
        loss = torch.stack([torch.mean(torch.abs(found - each)) for found, each in zip(z, goals, strict=True)]).mean()
        loss.backward()
    form = ViTConfig((2, patch, patch), "rotary_tiled" if rotary else "grid", key_bias=rotary)
    model, view = ModelConfig("small_vit", channels // HEADS, vit=form), ClipView(num_frames=frames, size=SIZE)

    class Drawn(VJEPA):
        """With the case's blocks."""

        def draw(self, rng: Any, batch: Any) -> list[Blocks]:
            places = [[jnp.asarray(each, jnp.int32) for each in kind] for kind in kinds]
            return [Blocks(context, targets, jnp.ones((B, 50))) for context, targets in places]

    method = Drawn(
        VJEPASettings(PredictorSettings(channels, HEADS, 1, 1 if rotary else 2), TeacherSettings()),
        Setup(model, view, view, 10),
    )
    layers = {"predictor_embed": "embed", **block("predictor_blocks.0", "block1"), "predictor_norm": "norm"}
    layers["predictor_proj"] = "head"

    def ours(of_encoder: Mapping[str, np.ndarray], of_predictor: Mapping[str, np.ndarray]) -> Any:
        tokens = np.stack([of_predictor[f"mask_tokens.{k}"].reshape(-1) for k in range(1 if rotary else 2)])
        made = renamed(separated(of_predictor), layers, key_bias=rotary) | {"mask_tokens": tokens}
        return {"encoder": _encoder(model, vjepa.SECOND if rotary else vjepa.FIRST, of_encoder), "predictor": made}

    params = ours(state_of(encoder), state_of(predictor))
    found = _loss(method, params, clips, {"params": {"encoder": params["encoder"]}})
    return found, Found({"loss": loss.detach()}, ours(slopes_of(encoder), slopes_of(predictor)))


def _scale(sources: Sources) -> tuple[Found, Found]:
    official, width, sets = sources.load("SCALE", "scale", below="src"), 12, (3, 2, 5)

    class Constructed(official.Scale):
        """The stored class reads `mask_ratio` before it is set, and never calls the constructor of its base."""

        def __init__(self, **arguments: Any):
            torch.nn.Module.__init__(self)
            self.mask_ratio = 0.25
            super().__init__(width, **arguments)

    rng = np.random.default_rng(5)
    features, positions = rng.normal(size=(*sets, width)).astype(np.float32), rng.random((*sets, 7)).astype(np.float32)
    draws = rng.random((sets[0] * sets[1], sets[2])).astype(np.float32)
    hidden = (draws < 0.25).reshape(sets)
    with one_process(), mock.patch.object(torch, "rand", return_value=torch.from_numpy(draws)):
        theirs = Constructed(hidden_size=64, set_dim=16, dense_dim=16, mlp_ratio=2.0)
        randomize(theirs, torch)
        out = theirs(torch.from_numpy(features), torch.from_numpy(positions))
        loss = (out["set_loss"] + out["dense_loss"]) / 2
        loss.backward()
    backbone = build_encoder(ModelConfig("small_r2plus1d", width=4))
    ours = SetPredictor(SetEncoder(backbone, 64), SetHead(4096, 16, 2), SetHead(4096, 16, 2), SetHead(2048, 16, 3))
    variables = ours.init(jax.random.key(0), features[:1, 0], positions[:1, 0], False)

    def value(params: Any) -> jax.Array:
        state = {"params": params, "frozen": variables["frozen"]}
        found: Any = ours.apply(state, features, positions, False, hidden)
        both, predicted, targets = found
        clips = masked_clip_loss(predicted.reshape(-1, 16), targets.reshape(-1, 16), jnp.asarray(hidden.reshape(-1)))
        return (jnp.mean(set_contrast(both[:, 0], both[:, 1])) + jnp.sum(clips) / hidden.sum()) / 2

    with jax.default_matmul_precision("float32"):
        found, slopes = jax.value_and_grad(value)(_scale_names(state_of(theirs)))
    return Found({"loss": found}, slopes), Found({"loss": loss.detach()}, _scale_names(slopes_of(theirs)))


def _scale_names(theirs: Mapping[str, np.ndarray]) -> Any:
    """SCALE's arrays as ours."""
    theirs, width = separated(theirs), theirs["set_cls_token"].shape[-1]
    layers = {"input_projection": "project", "pos_encoding_mlp.0": "place1", "pos_encoding_mlp.2": "place2", "norm": "norm"}
    for i in (0, 1):
        layers |= block(f"transformer.{i}", f"block{i + 1}")
    inner = renamed(theirs, layers) | {"cls": theirs["set_cls_token"].reshape(-1), "mask": theirs["msk_token"].reshape(-1)}
    for i in (1, 2):
        for name, layer in inner[f"block{i}"]["attention"].items():
            shape = (width // 32, 32, width) if name == "out" else (width, width // 32, 32)
            layer["kernel"] = layer["kernel"].reshape(shape)
            if name != "out":
                layer["bias"] = layer["bias"].reshape(shape[1:])
    heads = {"set_head": ("set_head", 2), "dense_pred_head": ("clip_head", 2), "dense_target_head": ("target_head", 3)}
    outer = {f"{name}.{2 * n}": f"{to}/dense{n + 1}" for name, (to, count) in heads.items() for n in range(count)}
    return renamed(theirs, outer) | {"encoder": {"aggregator": inner}}


def _clip(sources: Sources) -> tuple[Found, Found]:
    module, rng = sources.load("CLIP", "clip.model", bare=("clip",)), np.random.default_rng(0)
    images = rng.uniform(size=(B, 1, SIZE, SIZE, 3)).astype(np.float32)
    goals = [rng.normal(size=(B, 6)).astype(np.float32) for _ in range(2)]
    texts = rng.integers(1, 48, size=(B, 12)).astype(np.int32)
    texts[:, 7] = 49  # the end of the text
    with one_process():
        model = module.CLIP(6, SIZE, DEPTH, 64 * HEADS, 16, 12, 50, 128, 2, 2).float()
        randomize(model, torch)
        pixels = leaf(images)
        mean, std = (torch.tensor(np.array(each, np.float32)) for each in (CLIP_MEAN, CLIP_STD))
        image = model.encode_image(((pixels - mean) / std)[:, 0].permute(0, 3, 1, 2))
        text = model.encode_text(torch.from_numpy(texts).long())
        (image * torch.tensor(goals[0])).sum().backward()
        (text * torch.tensor(goals[1])).sum().backward()
    grid = (1, SIZE // 16, SIZE // 16)
    form = ViTConfig((1, 16, 16), "learned", grid, cls=True, attention="frame", activation="quick_gelu", pre_norm=True)
    form = ViTConfig(**{**vars(form), "patch_bias": False, "project": 6, "epsilon": 1e-5})
    config = ModelConfig("small_vit", mean=CLIP_MEAN, std=CLIP_STD, vit=form)
    encoder = build_encoder(config)
    state = state_of(model)
    params = _encoder(config, clip.SOURCES, state)
    tower, variables = read_text_tower(state)

    def value(images: Any) -> Any:
        features: Any = encoder.apply({"params": params}, images, False)
        return jnp.sum(features * goals[0]), features

    with jax.default_matmul_precision("float32"):
        (_, features), slope = jax.value_and_grad(value, has_aux=True)(jnp.asarray(images))
        places = jax.grad(lambda v: jnp.sum(jnp.asarray(tower.apply(v, texts)) * goals[1]))(variables)["params"]["places"]
        values = {"image": features, "text": tower.apply(variables, texts)}
    theirs = {"image": image.detach().numpy(), "text": text.detach().numpy()}
    slopes = {"pixels": gradient(pixels), "places": gradient(model.positional_embedding)}
    return Found(values, {"pixels": slope, "places": places}), Found(theirs, slopes)


def _attentive(sources: Sources) -> tuple[Found, Found]:
    module, rng = sources.load("jepa", "src.models.attentive_pooler"), np.random.default_rng(0)
    tokens, classes = rng.normal(size=(B, 12, 24)).astype(np.float32), 5
    goals = rng.normal(size=(B, classes)).astype(np.float32)
    model = module.AttentiveClassifier(embed_dim=24, num_heads=HEADS, num_classes=classes)
    randomize(model, torch)
    clips = leaf(tokens)
    logits = model(clips)
    (logits * torch.tensor(goals)).sum().backward()
    state, slopes = (
        {name.removeprefix("pooler."): value for name, value in read(model).items()} for read in (state_of, slopes_of)
    )
    state = {name.removeprefix("cross_attention_block."): value for name, value in state.items()}
    scale, offset = state["norm1.weight"], state["norm1.bias"]
    key, value = np.split(state["xattn.kv.weight"].T, 2, axis=1)
    maps = {"to_query": "xattn.q", "expand": "mlp.fc1", "shrink": "mlp.fc2", "classify": "linear"}
    probe: dict[str, Any] = {name: state[f"{theirs}.weight"].T for name, theirs in maps.items()}
    probe |= {f"{name}_offset": state[f"{theirs}.bias"] for name, theirs in maps.items()}
    probe |= {"norm_scale": state["norm2.weight"], "norm_offset": state["norm2.bias"], "query": state["query_tokens"][0]}
    # The tokens' norm goes into the maps behind it; what it and its bias add to all keys alike leaves the attention as it is.
    probe |= {"to_key": scale[:, None] * key, "to_value": scale[:, None] * value}
    probe["to_value_offset"] = offset @ value + state["xattn.kv.bias"][24:]

    def summed(query: Any, tokens: Any) -> Any:
        found = apply_probe(probe | {"query": query}, normalize(tokens), HEADS)
        return jnp.sum(found * goals), found

    with jax.default_matmul_precision("float32"):
        (_, found), (query, token) = jax.value_and_grad(summed, (0, 1), has_aux=True)(probe["query"], tokens)
    theirs = {"query": slopes["query_tokens"][0], "tokens": gradient(clips)}
    return Found({"logits": found}, {"query": query, "tokens": token}), Found({"logits": logits.detach().numpy()}, theirs)


CHECKS = (
    Check(
        "videomae",
        "VideoMAE",
        "`engine_for_pretraining.py`, `train_one_epoch`; `modeling_pretrain.py`",
        "a step: loss, gradients of all parameters",
        _videomae,
        "Random crops for its corner crops",
    ),
    Check(
        "vjepa",
        "jepa",
        "`src/models/vision_transformer.py`, `predictor.py`",
        "loss over two kinds of masks, gradients of all parameters (its loss is inside `main` and is written out again)",
        lambda sources: _vjepa(sources, "jepa", False),
        "Block sizes per clip instead of per batch, fixed counts of tokens",
    ),
    Check(
        "vjepa2",
        "vjepa2",
        "the same",
        "the same, rotary positions",
        lambda sources: _vjepa(sources, "vjepa2", True),
        "As `vjepa`",
    ),
    Check(
        "scale",
        "SCALE",
        "`src/scale.py`, `Scale`",
        "both losses, gradients of all parameters",
        _scale,
        "Stored clips are drawn from; positions are relative to the drawn clips",
    ),
    Check(
        "towers of CLIP",
        "CLIP",
        "`clip/model.py`, `CLIP`",
        "features of images and texts, gradients of pixels and places",
        _clip,
    ),
    Check(
        "attentive probe",
        "jepa",
        "`src/models/attentive_pooler.py`, `AttentiveClassifier`",
        "logits, gradients of the tokens and the query",
        _attentive,
    ),
)
