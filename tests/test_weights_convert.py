"""Imported weights compute what the original PyTorch modules compute, from clips and from video files; bad files are named."""

import re
from functools import cache, partial

import av
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest
from flax.traverse_util import flatten_dict
from peers import torch

from wt_jax.augment import finish_view
from wt_jax.data.pipeline import eval_batches
from wt_jax.data.sources import open_source
from wt_jax.data.views import PixelSpec, ViewSpec
from wt_jax.models import build_encoder
from wt_jax.models.convert import KINDS, convert, convert_file
from wt_jax.models.weights import WeightsError, load_encoder
from wt_jax.tools.convert_weights import convert_weights

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
    return peers.randomise(network)


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
def apply(encoder, variables, clips):
    return encoder.apply(variables, clips, False)


def ours(made, clips):
    with jax.default_matmul_precision("float32"):
        return np.asarray(apply(build_encoder(made.config), made.variables, jnp.asarray(clips)))


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


@pytest.mark.parametrize("kind", [name for name in KINDS if name not in ("videomae_base", "videomae_large")])
def test_imported_weights_compute_what_the_original_does(kind, record_property):
    # An odd number of places before S3D's last pool, which PyTorch rounds down.
    compare(kind, *((16, 48) if kind == "coclr_s3d" else (8, 32)), record_property)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_imported_weights_compute_what_the_original_does_at_full_size(kind, record_property):
    sizes = {"torchvision": (16, 112), "slow": (8, 224), "coclr": (32, 128), "videomae": (16, 224)}
    compare(kind, *sizes[kind.split("_")[0]], record_property)


def feature_by_pytorch(kind, network, path, frames, stride, side, windows):
    """From file to feature without wt_jax: PyAV, the largest centred square, cv2, the mean over windows."""
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
            clip.append(cv2.resize(box, (side, side), interpolation=cv2.INTER_AREA))
        clips.append(np.stack(clip).astype(np.float32) / 255)
    return np.mean([theirs(kind, network, clip[None])[0] for clip in clips], axis=0)


def feature_by_pipeline(made, path, frames, stride, side, windows, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"{path}\n")
    view = ViewSpec(num_frames=frames, stride=stride, size=side, crop="center")
    (batch,) = eval_batches(open_source(str(listed)), view, windows=windows, batch_size=1)
    assert batch["valid"].all()
    clips = finish_view(jnp.asarray(batch["clip"][0]), jnp.zeros(windows, jnp.int32), jax.random.key(0), PixelSpec())
    return np.mean([ours(made, clip[None])[0] for clip in clips], axis=0)


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


@pytest.mark.parametrize("kind", ["torchvision_r3d_18", "torchvision_r2plus1d_18", "slow_r50", "videomae_small"])
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
