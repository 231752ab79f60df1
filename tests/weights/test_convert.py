"""Imported weights compute what the original PyTorch modules compute, from clips and from video files; bad files are named."""

import argparse
import re
import sys
from functools import cache, partial

import av
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from support import peers
from support.peers import torch

from wt_jax.augment import finish_view
from wt_jax.data.pipeline import eval_batches
from wt_jax.data.sources.open import open_source
from wt_jax.errors import ConfigError, WeightsError
from wt_jax.kernels import implementation
from wt_jax.models import build_encoder
from wt_jax.specs import ClipView, PixelSpec
from wt_jax.weights.convert import KINDS, convert, convert_file
from wt_jax.weights.convert.folder import convert_weights
from wt_jax.weights.folder import load_encoder

# Compared in their own size; the other families have their tests in test_convert_transformers.py.
WHOLE = [name for name in KINDS if name.startswith(("torchvision", "slow", "coclr", "videomae"))]
VIDEOMAE = {"small": (384, 6, 12), "base": (768, 12, 12), "large": (1024, 16, 24)}
# Mean and deviation as the original projects write them, not as our tables do.
KINETICS = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STATISTICS = {"torchvision": KINETICS, "slow": ((0.45,) * 3, (0.225,) * 3), "coclr": IMAGENET, "videomae": IMAGENET}


def videomae(size, frames, side, pooled=True):
    """transformers' VideoMAE with a classifier; the state dict of the fine-tuned or of the pre-trained form."""
    hf = peers.transformers()
    width, heads, depth = VIDEOMAE[size]
    options = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": depth, "intermediate_size": 4 * width}
    config = hf.VideoMAEConfig(
        image_size=side, num_frames=frames, use_mean_pooling=pooled, decoder_num_hidden_layers=1, **options
    )
    return hf.VideoMAEForVideoClassification(config) if pooled else hf.VideoMAEForPreTraining(config)


@cache
def module(kind, frames=8, side=32):
    """The original network with random weights and statistics."""
    torch.manual_seed(1)
    if kind.startswith("torchvision"):
        peers.torchvision()
        from torchvision.models import video

        network = getattr(video, kind.removeprefix("torchvision_"))()
    elif kind.startswith("videomae"):
        network = videomae(kind.removeprefix("videomae_"), frames, side)
    else:
        network = {"slow_r50": peers.SlowR50, "coclr_s3d": peers.CoCLRS3D}[kind]()
    peers.randomize(network)
    for block in network.modules():
        if isinstance(block, peers.Bottleneck):  # sixteen of them add up
            block.branch2["norm_c"].weight.data *= 0.3
    return network


def theirs(kind, network, clips):
    """The features before the classifier of clips (B, T, H, W, 3) in [0, 1]."""
    mean, std = (np.asarray(value, np.float32) for value in STATISTICS[kind.split("_")[0]])
    x = torch.from_numpy(((clips - mean) / std).transpose(0, 4, 1, 2, 3).copy())
    with torch.no_grad():
        if kind.startswith("torchvision"):
            kept = []
            hook = network.avgpool.register_forward_hook(lambda layer, args, out: kept.append(out.flatten(1)))
            network(x)
            hook.remove()
            return kept[0].numpy()
        if kind.startswith("videomae"):
            return network.fc_norm(network.videomae(x.transpose(1, 2)).last_hidden_state.mean(1)).numpy()
        return network(x).numpy()


@partial(jax.jit, static_argnums=0)
def apply(config, variables, clips):
    return build_encoder(config).apply(variables, clips, False)


def ours(made, clips):
    with jax.default_matmul_precision("float32"):
        return np.asarray(apply(made.config, made.variables, jnp.asarray(clips)))


def arrays(network):
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def assert_equal_trees(one, other):
    one, other = (flatten_dict(tree, sep="/") for tree in (one, other))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def random_clips(frames, side):
    return np.random.default_rng(2).uniform(0, 1, (2, frames, side, side, 3)).astype(np.float32)


def compare(kind, frames, side, record):
    network, clips = module(kind, frames, side), random_clips(frames, side)
    expected, found = theirs(kind, network, clips), ours(convert(kind, arrays(network), "the module"), clips)
    record("largest difference", float(np.abs(found - expected).max()))
    record("largest feature", float(np.abs(expected).max()))
    assert 0.1 < np.abs(expected).max() < 100
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [name for name in WHOLE if name not in ("videomae_base", "videomae_large")])
def test_imported_weights_compute_what_the_original_does(kind, record_property):
    # An odd number of places before S3D's last pool, which PyTorch rounds down.
    compare(kind, *((16, 48) if kind == "coclr_s3d" else (8, 32)), record_property)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WHOLE)
def test_imported_weights_compute_what_the_original_does_at_full_size(kind, record_property):
    sizes = {"torchvision": (16, 112), "slow": (8, 224), "coclr": (32, 128), "videomae": (16, 224)}
    compare(kind, *sizes[kind.split("_")[0]], record_property)


def feature_by_pytorch(kind, network, path, frames, stride, side, windows):
    """From file to feature without wt_jax: PyAV, the largest centered square, halved, interpolated, the mean over windows."""
    with av.open(str(path)) as container:
        video = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    last = len(video) - 1 - stride * (frames - 1)
    clips = []
    for start in (round(last * i / (windows - 1)) for i in range(windows)):
        clip = []
        for frame in video[start : start + stride * (frames - 1) + 1 : stride]:
            high, wide = frame.shape[:2]
            square = min(high, wide)
            top, left = (high - square) // 2, (wide - square) // 2
            box = frame[top : top + square, left : left + square]
            while square >= 2 * side:
                square //= 2
                box = cv2.resize(box[: 2 * square, : 2 * square], (square, square), interpolation=cv2.INTER_AREA)
            clip.append(cv2.resize(box, (side, side)))
        clips.append(np.stack(clip).astype(np.float32) / 255)
    return np.mean([theirs(kind, network, clip[None])[0] for clip in clips], axis=0)


def feature_by_pipeline(made, path, frames, stride, side, windows, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"{path}\n")
    view = ClipView(num_frames=frames, stride=stride, size=side, crop="center")
    with implementation("portable"):  # frames as RGB: what is cut from planes is a level or two apart (test_yuv420.py)
        (batch,) = eval_batches(open_source(str(listed)), view, windows=windows, batch_size=1)
    assert batch["valid"].all()
    clips = finish_view(jnp.asarray(batch["clip"][0]), jnp.zeros(windows, jnp.int32), jax.random.key(0), PixelSpec())
    return ours(made, clips).mean(0)


def compare_from_file(kind, path, frames, stride, side, tmp_path, record):
    network = module(kind, frames, side)
    torch.save({"state_dict": network.state_dict(), "epoch": 1}, tmp_path / "weights.pth")
    convert_weights(kind, tmp_path / "weights.pth", tmp_path / "out")
    config, variables = load_encoder(tmp_path / "out")
    made = convert(kind, arrays(network), "the module")
    assert made.config == config
    assert_equal_trees(made.variables, variables)
    expected = feature_by_pytorch(kind, network, path, frames, stride, side, 2)
    found = feature_by_pipeline(made, path, frames, stride, side, 2, tmp_path)
    record("largest difference", float(np.abs(found - expected).max()))
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["torchvision_r2plus1d_18", "videomae_small"])
def test_from_a_video_file_to_the_same_feature(kind, shared_data, tmp_path, record_property):
    compare_from_file(kind, shared_data / "clips" / "bikes.mp4", 8, 4, 32, tmp_path, record_property)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "frames", "stride", "side"),
    [
        ("torchvision_r3d_18", 16, 2, 112),
        ("torchvision_r2plus1d_18", 16, 2, 112),
        ("slow_r50", 8, 8, 224),
        ("videomae_base", 16, 4, 224),
    ],
)
def test_from_a_video_file_to_the_same_feature_at_full_size(kind, frames, stride, side, shared_data, tmp_path, record_property):
    compare_from_file(kind, shared_data / "clips" / "bikes.mp4", frames, stride, side, tmp_path, record_property)


def test_every_naming_of_slow_r50_gives_the_same():
    state = arrays(module("slow_r50"))
    renames = [(r"blocks\.0\.conv", "s1.pathway0_stem.conv"), (r"blocks\.0\.norm", "s1.pathway0_stem.bn")]
    renames += [(r"blocks\.(\d)\.res_blocks\.(\d)\.", lambda m: f"s{int(m[1]) + 1}.pathway0_res{m[2]}.")]
    renames += [(r"conv_(\w)", r"\1"), (r"norm_(\w)", r"\1_bn"), ("branch1_conv", "branch1"), ("branch1_norm", "branch1_bn")]
    renames += [(r"blocks\.5\.proj", "head.projection")]

    def renamed(name):
        for pattern, other in renames:
            name = re.sub(pattern, other, name)
        return name

    pyslowfast = {renamed(name): array for name, array in state.items()}
    contrastive = {f"backbone.{name}": array for name, array in pyslowfast.items()}
    contrastive |= {f"backbone_hist.{name}": array for name, array in pyslowfast.items()}
    contrastive |= {"queue_x": np.zeros((4, 8)), "ptr": np.zeros(1), "knn_mem.memory": np.zeros((4, 1, 8))}
    first, *others = (convert("slow_r50", names, "a file") for names in (state, pyslowfast, contrastive))
    assert (first.source, others[0].source) == ("PyTorchVideo", "PySlowFast")
    for other in others:
        assert_equal_trees(first.variables, other.variables)
    assert len(others[1].dropped["the momentum copy of the encoder"]) == len(pyslowfast)


def test_coclr_files_hold_the_trained_encoder_among_others():
    state = {name: array for name, array in arrays(module("coclr_s3d", 16, 48)).items() if not name.startswith("block")}
    noise = {name: array + 1 for name, array in state.items()}
    pretrained = {f"module.encoder_q.0.{name}": array for name, array in state.items()}
    for other in ("encoder_k.0", "sampler.0"):
        pretrained |= {f"module.{other}.{name}": array for name, array in noise.items()}
    heads = {"encoder_q.2.weight", "encoder_q.4.bias", "queue", "queue_ptr", "queue_second", "queue_vname"}
    pretrained |= {f"module.{name}": np.zeros(2) for name in heads}
    classifier = {f"backbone.{name}": array for name, array in state.items()} | {"final_fc.1.weight": np.zeros((4, 1024))}
    first, *others = (convert("coclr_s3d", names, "a file") for names in (state, pretrained, classifier))
    for other in others:
        assert_equal_trees(first.variables, other.variables)
    assert {"projection head", "the network of the other modality", "queues"} <= set(others[0].dropped)
    assert others[1].dropped["classifier"] == ["final_fc.1.weight"]


def authors_names(state):
    """A fine-tuned VideoMAE of transformers in the names of its authors."""
    plain = {
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "attention.output.dense": "attn.proj",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "encoder.layer": "blocks",
        "classifier": "head",
    }
    found = {}
    for name, array in state.items():
        short = name.removeprefix("videomae.")
        for old, new in plain.items():
            short = short.replace(old, new)
        found[short] = array
    for block in range(12):
        place = f"blocks.{block}.attention.attention"
        q, k, v = (found.pop(f"{place}.{part}.weight") for part in ("query", "key", "value"))
        found[f"blocks.{block}.attn.qkv.weight"] = np.concatenate([q, k, v])
        found[f"blocks.{block}.attn.q_bias"] = found.pop(f"{place}.query.bias")
        found[f"blocks.{block}.attn.v_bias"] = found.pop(f"{place}.value.bias")
    return found


def test_every_naming_of_videomae_gives_the_same():
    state = arrays(module("videomae_small"))
    before5 = {re.sub(r"(q|v)(uery|alue)\.bias", r"\1_bias", name): array for name, array in state.items()}
    assert any(name.endswith("q_bias") for name in before5)
    first, *others = (convert("videomae_small", names, "a file") for names in (state, before5, authors_names(state)))
    assert [other.source for other in others] == ["transformers before 5", "VideoMAE's authors"]
    for other in others:
        assert other.config == first.config
        assert_equal_trees(first.variables, other.variables)


def test_a_pre_trained_videomae_keeps_its_norm_over_the_tokens(record_property):
    torch.manual_seed(1)
    network = peers.randomize(videomae("small", 8, 32, pooled=False))
    made = convert("videomae_small", arrays(network), "the module")
    assert (made.config.name, list(made.dropped)) == ("vit_small", ["decoder of the pre-training"])
    clips = random_clips(8, 32)
    mean, std = (np.asarray(value, np.float32) for value in IMAGENET)
    with torch.no_grad():
        x = torch.from_numpy(((clips - mean) / std).transpose(0, 1, 4, 2, 3).copy())
        tokens = network.videomae(x).last_hidden_state.numpy()
    found = jax.jit(lambda v: build_encoder(made.config).apply(v, clips, False, pool=False))(made.variables)
    assert found.shape == (2, 4, 2, 2, 384)
    record_property("largest difference", float(np.abs(found.reshape(tokens.shape) - tokens).max()))
    np.testing.assert_allclose(found.reshape(tokens.shape), tokens, atol=1e-4, rtol=1e-4)


def broken(**changes):
    state = arrays(module("torchvision_mc3_18"))
    for name, change in changes.items():
        name = name.replace("__", ".")
        state[name] = change(state.get(name))
        if state[name] is None:
            del state[name]
    return state


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer1__0__conv1__0__weight": lambda a: None}, "layer1.0.conv1.0.weight is missing"),
        ({"layer2__0__downsample__1__running_var": lambda a: None}, "layer2.0.downsample.1.running_var is missing"),
        ({"layer5__0__weight": lambda a: np.zeros(3)}, "layer5.0.weight is left over"),
        (
            {"stem__0__weight": lambda a: a[:, :, :1]},
            r"stem.0.weight is \(64, 3, 1, 7, 7\), which does not make the .*params/stem1",
        ),
        ({"stem__0__weight": lambda a: a[0, 0]}, r"stem.0.weight is \(3, 7, 7\)"),
        ({"stem__1__bias": lambda a: a * np.nan}, "stem.1.bias holds values that are not finite"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(WeightsError, match=message):
        convert("torchvision_mc3_18", broken(**changes), "file.pth")


def test_a_file_of_another_kind_is_named():
    state = arrays(module("torchvision_mc3_18"))
    with pytest.raises(
        WeightsError, match=r"does not fit r3d_18: layer2.0.conv1.0.weight is .* and \d+ more; is it of another"
    ):
        convert("torchvision_r3d_18", state, "file.pth")
    with pytest.raises(WeightsError, match=r"file.pth holds no names of torchvision; it has stem.0.weight"):
        convert("torchvision_r2plus1d_18", state, "file.pth")
    twice = arrays(module("coclr_s3d", 16, 48))
    twice["block2.1.bn.bias"] = twice["block2.1.bn.bias"] + 1
    with pytest.raises(WeightsError, match=r"block2.1.bn.bias differs from Conv_2b.bn.bias"):
        convert("coclr_s3d", twice, "file.pth")


def test_files_of_pytorch_and_of_safetensors_hold_the_same(tmp_path):
    from safetensors.torch import save_file

    state = module("torchvision_mc3_18").state_dict()
    halves = {name: t.bfloat16() if t.is_floating_point() else t for name, t in state.items()}
    torch.save({"model_state": halves, "epoch": 3, "cfg": "text"}, tmp_path / "a.pyth")
    torch.save({"model": halves, "args": argparse.Namespace(lr=1)}, tmp_path / "b.pth")
    save_file(halves, tmp_path / "c.safetensors")
    first, *others = (convert_file("torchvision_mc3_18", tmp_path / name) for name in ("a.pyth", "b.pth", "c.safetensors"))
    for other in others:
        assert_equal_trees(first.variables, other.variables)
    np.testing.assert_array_equal(first.variables["params"]["stem1"]["norm"]["scale"], halves["stem.1.weight"].float().numpy())


class Anything:
    """Not a tensor: reading it could run code."""


def test_files_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    torch.save({"state_dict": Anything()}, tmp_path / "code.pth")
    torch.save({"epoch": 3, "model": {"name": "s3d"}}, tmp_path / "other.pth")
    (tmp_path / "torn.safetensors").write_bytes(b"abc")
    for name, message in {
        "none.pth": "none.pth is no file",
        "code.pth": "cannot be read by PyTorch as plain tensors",
        "other.pth": "holds no state dict",
        "torn.safetensors": "cannot be read as safetensors",
    }.items():
        with pytest.raises(WeightsError, match=message):
            convert_file("slow_r50", tmp_path / name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(WeightsError, match="PyTorch is not installed"):
        convert_file("slow_r50", tmp_path / "other.pth")


def test_the_command_names_kinds_and_overwrites_nothing(tmp_path, caplog):
    with pytest.raises(ConfigError, match="did you mean 'torchvision_r3d_18'"):
        convert_weights("torchvision_r3d18", tmp_path / "a.pth", tmp_path / "out")
    torch.save(module("torchvision_mc3_18").state_dict(), tmp_path / "a.pth")
    with caplog.at_level("INFO", logger="wt_jax"):
        convert_weights("torchvision_mc3_18", tmp_path / "a.pth", tmp_path / "out", licence="CC0")
    assert "left out: classifier (2 tensors: fc.weight" in caplog.text
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("mc3_18", "11,490,240 parameters", "0.43216", "a.pth", "CC0", "center crop 112"):
        assert words in card
    with pytest.raises(WeightsError, match="holds weights already"):
        convert_weights("torchvision_mc3_18", tmp_path / "a.pth", tmp_path / "out")
