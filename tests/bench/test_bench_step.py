"""bench_step: the peer computes what our step computes, and the report has what it promises."""

import copy
import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from support.training import BATCH, batches, filled, first, mesh_of, parts, small_config

from wt_jax.augment import finish_view
from wt_jax.bench.peers.measure_step import Job
from wt_jax.bench.step_turns import Contender, report
from wt_jax.models import MODELS, forward_flops
from wt_jax.models.resnet import Basic, Bottleneck, ResNet, Stage
from wt_jax.models.vit import ViT
from wt_jax.specs import PixelSpec
from wt_jax.train.sharding import put_batch
from wt_jax.train.step import make_step, model_flops

# Nothing is drawn, so that both steps see the same pixels.
PLAIN = {f"views__strong__pixels__{name}_probability": 0.0 for name in ("jitter", "gray", "blur")}


def _slow(width, **options):
    """Two stages of Slow R50's blocks."""
    stages = (Stage(1, Bottleneck, (1, 1, 1), {"kernels": ((1, 1, 1), (1, 3, 3))}), Stage(1, Bottleneck, (1, 2, 2)))
    return ResNet(((width, (1, 7, 7), (1, 2, 2)),), stages, width=width, pool=(1, 3, 3), pool_strides=(1, 2, 2), **options)


def _r3d(width, factorized, **options):
    """Two stages of R3D-18's or R(2+1)D-18's blocks."""
    stages = tuple(Stage(1, Basic, (step,) * 3, {"factorized": factorized}) for step in (1, 2))
    return ResNet(((width, (3, 7, 7), (1, 2, 2)),), stages, width=width, **options)


def _vit(norm, **options):
    """One block of ViT."""
    return ViT(functools.partial(norm, kind="layer", epsilon=1e-6), heads=2, depth=1, **options)


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    """Each kind of network in a size that compiles soon, by a name of its own."""
    monkeypatch.setitem(MODELS, "vit_tiny", _vit)
    monkeypatch.setitem(MODELS, "slow_tiny", _slow)
    monkeypatch.setitem(MODELS, "r3d_tiny", functools.partial(_r3d, factorized=False))
    monkeypatch.setitem(MODELS, "r2plus1d_tiny", functools.partial(_r3d, factorized=True))


def _side_by_side(config, feed, **options):
    """Our state and the peer after a step for each of `feed(method)`, losses compared on the way, and the student before.

    Both start from the same variables.
    """
    torch = pytest.importorskip("torch")
    from wt_jax.bench.peers.torch_step import TorchStep

    torch.set_num_threads(1)
    method, optimizer, schedule, init, given = parts(config)
    state = init(given)
    state = dataclasses.replace(state, buffers=filled(state.buffers))  # against an empty queue there is nothing to learn
    peer = TorchStep(config, method.views, lambda step: float(schedule(step)), torch.device("cpu"), **options)
    peer.load(jax.device_get(state.params))
    for name, column in peer.queue.items():
        column.copy_(torch.from_numpy(np.array(state.buffers[name])))
    assert sum(p.numel() for p in peer.student.parameters()) == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    before = copy.deepcopy(peer.student)
    step = jax.jit(make_step(method, optimizer, schedule, seed=0))
    for batch in feed(method):
        state, metrics = step(state, put_batch(batch, mesh_of(1)))
        loss = peer({name: torch.from_numpy(np.array(value)) for name, value in batch.items()})
        assert float(loss) == pytest.approx(float(metrics["loss"]), rel=1e-3)
    return state, peer, before


def _with(network, tree):
    """A copy of a module with our variables."""
    from wt_jax.bench.peers.torch_variables import load_variables

    ours = copy.deepcopy(network)
    load_variables(ours, jax.device_get(tree))
    return ours


def _apart(one, other):
    """L2 distance between two modules' parameters."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5


def _largest(network, tree):
    """The largest difference of a module's parameters to ours."""
    pairs = zip(network.parameters(), _with(network, tree).parameters(), strict=True)
    return max(float((one - other).detach().abs().max()) for one, other in pairs)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"model__norm": "group", "method__head__norm": "batch"}, {}),
        ({"method__queue__size": 0}, {}),
        ({"model__name": "vit_tiny"}, {"memory_format": "contiguous_format"}),
        pytest.param(
            {"model__name": "r2plus1d_tiny", "model__norm": "batch", "optim__name": "sgd", "optim__decay_norms": False},
            {},
            marks=pytest.mark.slow,
        ),
        pytest.param({"model__name": "slow_tiny", "optim__name": "adam", "optim__clip_norm": 0.1}, {}, marks=pytest.mark.slow),
        pytest.param({"model__name": "r3d_tiny", "method__label": "one_hot", "optim__name": "sgd"}, {}, marks=pytest.mark.slow),
    ],
    ids=["small", "no queue", "vit", "r2plus1d", "slow", "r3d"],
)
def test_the_peer_computes_our_step(changes, options):
    config = small_config(**PLAIN, optim__warmup="0 steps", **changes)
    state, peer, _ = _side_by_side(config, functools.partial(batches, count=3), **options)
    moved = float(optax.tree.norm(optax.tree.sub(state.params, state.teacher["params"])))
    assert moved > 1e-3  # three steps went somewhere
    assert _largest(peer.student, state.params) < 2e-3
    assert _largest(peer.teacher, state.teacher["params"]) < 2e-3
    for name, column in peer.queue.items():
        np.testing.assert_allclose(column.numpy(), state.buffers[name], atol=5e-3)


@pytest.mark.slow
def test_the_peer_computes_our_first_step_of_s3d():
    """On clips of 64 pixels: of smaller ones S3D's last blocks normalize so few numbers that rounding decides."""

    def noise(method):
        rng, video = np.random.default_rng(0), np.arange(8, dtype=np.int32)
        views = {name: rng.integers(0, 256, (8, 8, 8, 8, 3), np.uint8).repeat(8, 2).repeat(8, 3) for name in method.views}
        yield {**views, "video": video, "label": video % 3, "failed": np.full(8, -1, np.int32)}

    changes = {"model__name": "s3d", "model__norm": "batch", "optim__name": "sgd", "optim__warmup": "0 steps"}
    state, peer, before = _side_by_side(small_config(**PLAIN, **changes, clip__size=64, clip__num_frames=8), noise)
    assert _apart(_with(before, state.params), peer.student) < 0.05 * _apart(before, peer.student)


@pytest.mark.parametrize("changes", [{"gray_probability": 1.0}, {"blur_probability": 1.0, "blur_sigma": (1.3, 1.3)}])
def test_the_peer_changes_pixels_as_we_do(changes):
    torch = pytest.importorskip("torch")
    from wt_jax.bench.peers.torch_step import _finish

    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), dtype=np.uint8)
    spec = PixelSpec(**changes)
    ours = finish_view(frames, np.arange(2), jax.random.key(0), spec)
    planes = torch.from_numpy(frames / np.float32(255)).permute(0, 4, 1, 2, 3).contiguous()
    np.testing.assert_allclose(np.moveaxis(np.asarray(ours), -1, 1), _finish(planes, spec).numpy(), atol=1e-5)
    assert np.abs(np.asarray(ours) - frames / 255).max() > 0.1


@pytest.mark.parametrize(
    ("method", "passes"), [("weak_teacher", 3 + 2), ("one_hot", 3 + 1), ("simclr", 3 + 3), ("byol", 6 + 2)]
)
def test_flops_of_a_step_count_students_three_times_and_teachers_once(method, passes):
    made, state, _ = first(small_config(method))
    clip = next(iter(made.views.values()))
    encoders = forward_flops(made.encoder, (clip.num_frames, clip.size, clip.size, 3)) * BATCH * passes
    heads = model_flops(made, state, BATCH) - encoders
    assert 0 < heads < 0.1 * encoders


def _contender(name, kind, seconds, **facts):
    job = Job(kind, small_config(), cache="", ways=(), run=True)
    facts = {"device": "1 cpu", "platform": "cpu", "version": f"{kind} 1", **facts}
    return Contender(name, job, Path(), facts, starts=[9.0, 3.0], seconds={0: seconds}, memory=100.0)


def test_report_compares_turn_by_turn():
    ours = _contender("weak_teacher", "wt_jax", [1.0, 3.0, 2.0], flops=4e9, peak=None, matmul=1e10)
    theirs = _contender("PyTorch", "torch", [2.0, 4.0, 4.0], tried={"eager": "2000 ms", "compile": "failed: no compiler"})
    text = report([ours, theirs])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert rows[2] == [
        "weak_teacher",
        "2000.0",
        "1000.0 to 3000.0",
        "4.0",
        "0.004",
        "20.0%",
        "100",
        "9.0",
        "3.0",
        "1.00 (1.00 to 1.00)",
    ]
    assert rows[3][0] == "PyTorch"
    assert rows[3][-1] == "0.50 (0.50 to 0.75)"
    assert "measured matmul rate of 0.01 TFLOP/s" in text
    assert "eager 2000 ms; compile failed: no compiler" in text
    ours.seconds[2], theirs.seconds[2] = [4.0, 4.0], [8.0, 16.0]
    crowded = [line.split(" | ") for line in report([ours, theirs]).splitlines() if ", 2 busy |" in line]
    assert [row[0] for row in crowded] == ["| weak_teacher, 2 busy", "| PyTorch, 2 busy"]
    assert crowded[1][-1] == "0.38 (0.25 to 0.50) |"
    ours.facts["matmul"] = None
    assert "peak is not known" in report([ours])


@pytest.mark.slow
def test_command(capfd):
    command = [sys.executable, "-m", "wt_jax.bench.step", "--config=configs/quickstart.py", "--rounds=2", "--steps=1"]
    sizes = [
        "--config.clip.size=16",
        "--config.clip.num_frames=4",
        "--config.train.batch_size=4",
        "--methods=weak_teacher,one_hot",
    ]
    subprocess.run([*command, *sizes, "--views", "--against=torch", "--ways=eager", "--busy=0,1"], check=True)
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("| ")]
    names = ["weak_teacher", "one_hot", "weak_teacher, plain views"]
    assert [line.split(" | ")[0] for line in lines[2:5]] == [f"| {name}" for name in names]
    assert sum(", 1 busy | " in line for line in lines) == sum(", 1 busy | " not in line for line in lines[2:])
    assert all(float(line.split(" | ")[1]) > 0 for line in lines[2:])
