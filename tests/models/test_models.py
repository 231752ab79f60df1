"""Encoders, norms, heads and the FLOP count."""

import sys
import types
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wt_jax.config import ModelConfig, ViTConfig
from wt_jax.models import MLP, MODELS, Norm, build_encoder, forward_flops
from wt_jax.models.embedder import l2_normalize
from wt_jax.models.feature_maps import layer_maps
from wt_jax.models.resnet import Basic, ResNet, Stage
from wt_jax.ops.ranks import widened


# Parameters with a 400-class linear head. The arithmetic is that of the published structures; what was published:
# torchvision's tables for r3d_18, r2plus1d_18 and s3d; PyTorchVideo's 32.45 M for slow_r50; 63.7 M for R3D-34 in
# https://arxiv.org/abs/2004.04968. s3dg is s3d with a linear gate per branch; r2plus1d_10 and small_r2plus1d are ours.
def vit_parameters(width, depth):
    """Tubelets; two norms, attention with three biases and a perceptron per block; last norm; head."""
    return (1536 + 1) * width + depth * (12 * width**2 + (4 + 3 + 5) * width) + 2 * width + (width + 1) * 400


VITS = {name: vit_parameters(*sizes) for name, sizes in {"small": (384, 12), "base": (768, 12), "large": (1024, 24)}.items()}
ADDED = {"tiny", "tiny_vit"}  # by other tests
DEEP = {"vit_huge", "vit_giant"}
SHIPPED = [pytest.param(name, marks=pytest.mark.slow if name in DEEP else ()) for name in MODELS if name not in ADDED]
PARAMETERS = {
    "r3d_18": 33_371_472,
    "mc3_18": 11_695_440,
    "r3d_34": 63_718_736,
    "r3d_50": 47_018_576,
    "r2plus1d_10": 12_692_205,
    "r2plus1d_18": 31_505_325,
    "slow_r50": 32_454_096,
    "s3d": 8_320_048,
    "s3dg": 8_320_048 + 1_182_464 + 5_488,
    "s3d_coclr": 8_320_048,
    "small_r2plus1d": (27 + 3 * 64) * 64 + (9 * 64 + 3 * 128) * 128 + (9 * 128 + 3 * 256) * 256 + 4 * 448 + 256 * 400 + 400,
    **{f"vit_{size}{form}": count for size, count in VITS.items() for form in ("", "_fc_norm")},
    "small_vit": vit_parameters(256, 4),
    "vit_huge": vit_parameters(1280, 32),
    # Its perceptrons are 48 / 11 times as wide, 6,144.
    "vit_giant": vit_parameters(1408, 40) + 40 * (6144 - 4 * 1408) * (2 * 1408 + 1),
}
FEATURES = {"small_r2plus1d": 256, "r3d_50": 2048, "slow_r50": 2048, "s3d": 1024, "s3dg": 1024, "s3d_coclr": 1024}
FEATURES |= {
    f"vit_{size}{form}": width for size, width in [("small", 384), ("base", 768), ("large", 1024)] for form in ("", "_fc_norm")
} | {"small_vit": 256, "vit_huge": 1280, "vit_giant": 1408}


def shapes(config, clip_shape, **options):
    """Variables and output of an encoder as shapes, nothing computed."""
    encoder = build_encoder(config)
    clips = jax.ShapeDtypeStruct(clip_shape, jnp.float32)
    with jax.numpy_dtype_promotion("strict"):
        return jax.eval_shape(lambda clips: encoder.init_with_output(jax.random.key(0), clips, train=True, **options), clips)


def small_encoder(norm="batch", remat=False):
    """R(2+1)D with two stages: as much as needs to be compiled."""
    stages = tuple(Stage(1, Basic, (step,) * 3, {"factorized": True}) for step in (1, 2))
    return ResNet(((8, (1, 3, 3), (1, 2, 2)),), stages, norm=partial(Norm, norm), width=8, remat=remat)


def random_clips(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name):
    encoder = build_encoder(ModelConfig(name))
    _, variables = shapes(ModelConfig(name), (1, 8, 64, 64, 3))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count + encoder.feature_dim * 400 + 400 == PARAMETERS[name]
    assert encoder.feature_dim == FEATURES.get(name, 512)


@pytest.mark.parametrize("name", SHIPPED)
def test_any_clip_size_gives_features_and_a_map(name):
    encoder = build_encoder(ModelConfig(name))
    features, _ = shapes(ModelConfig(name, dtype="bfloat16"), (2, 3, 17, 45, 3))
    assert (features.shape, features.dtype) == ((2, encoder.feature_dim), jnp.float32)
    kept = {"mutable": True, "capture_intermediates": lambda module, method: len(module.path) == 1}
    last_map, variables = shapes(ModelConfig(name), (2, 1, 32, 32, 3), pool=False, **kept)
    assert last_map.ndim == 5
    assert min(last_map.shape) >= 1
    assert last_map.shape[-1] == features.shape[-1]
    maps = [jax.tree.leaves(variables["intermediates"][layer])[0] for layer in encoder.layers]  # a block also returns tokens
    assert {layer_map.ndim for layer_map in maps} == {5}


def test_the_worked_example_of_the_docs_is_a_backbone(monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    names: dict = {"__name__": "example"}
    monkeypatch.setitem(sys.modules, "example", types.ModuleType("example"))  # dataclasses look their module up
    exec(page.split("```python\n")[1].split("```")[0], names)
    monkeypatch.setitem(MODELS, "c3d", names["C3D"])
    test_any_clip_size_gives_features_and_a_map("c3d")


def test_last_map_of_the_published_input_size():
    names = set(MODELS) - ADDED - DEEP
    sizes = {name: shapes(ModelConfig(name), (1, 16, 112, 112, 3), pool=False)[0].shape[1:4] for name in names}
    assert sizes["r3d_18"] == sizes["r2plus1d_18"] == (2, 7, 7)
    assert sizes["r3d_34"] == sizes["r3d_50"] == (1, 4, 4)
    assert sizes["slow_r50"] == (16, 4, 4)
    assert sizes["s3d"] == (2, 4, 4)
    assert sizes["s3d_coclr"] == (2, 3, 3)
    assert sizes["mc3_18"] == (16, 7, 7)
    assert sizes["vit_base"] == sizes["vit_base_fc_norm"] == (8, 7, 7)


@pytest.mark.parametrize("name", ["s3dg", "r3d_18", "r2plus1d_10", "vit_small", "vit_small_fc_norm"])
@pytest.mark.parametrize("norm", ["batch", "sub_batch", "group"])
def test_bfloat16_keeps_parameters_and_statistics_in_float32(name, norm):
    config = ModelConfig(name, norm=norm, sub_batches=2 if norm == "sub_batch" else 1, dtype="bfloat16")
    last_map, variables = shapes(config, (2, 4, 32, 32, 3), pool=False)
    assert last_map.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert ("batch_stats" in variables) == (norm != "group" and not name.startswith("vit"))


@pytest.mark.parametrize("name", ["s3dg", "slow_r50", "r2plus1d_10", "vit_small"])
def test_remat_changes_neither_parameters_nor_shapes(name):
    clip = (1, 4, 32, 32, 3)
    plain, remat = (shapes(ModelConfig(name, remat=remat), clip) for remat in (False, True))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), plain) == jax.tree.map(lambda a: (a.shape, a.dtype), remat)


def test_width_scales_the_encoder():
    assert build_encoder(ModelConfig("s3d", width=16)).feature_dim == 256
    assert build_encoder(ModelConfig("slow_r50", width=8)).feature_dim == 256
    features, variables = shapes(ModelConfig("r2plus1d_10", width=16), (1, 4, 32, 32, 3))
    assert features.shape == (1, 128)
    assert variables["params"]["stem1"]["conv"]["kernel"].shape == (1, 7, 7, 3, 11)


def test_train_and_eval_under_jit_with_gradients():
    clips = random_clips((4, 3, 16, 16, 3))
    encoder = small_encoder()
    variables = jax.jit(partial(encoder.init, train=False))(jax.random.key(0), clips)

    @jax.jit
    def step(params, stats):
        def loss(params):
            features, new = encoder.apply({"params": params, "batch_stats": stats}, clips, train=True, mutable=["batch_stats"])
            return jnp.square(features - 1).mean(), (features, new["batch_stats"])

        return jax.value_and_grad(loss, has_aux=True)(params)

    with jax.numpy_dtype_promotion("strict"):
        (loss, (features, stats)), gradients = step(variables["params"], variables["batch_stats"])
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(gradients))
    assert all(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (stats, variables["batch_stats"])), strict=True))

    evaluate = jax.jit(lambda variables, clips: encoder.apply(variables, clips, train=False))
    together = evaluate(variables, clips)
    assert not np.allclose(together, features)
    np.testing.assert_allclose(evaluate(variables, clips[1:2])[0], together[1], rtol=1e-4, atol=1e-5)


def test_remat_gives_the_same_gradients():
    clips = random_clips((2, 1, 16, 16, 3))

    variables = jax.jit(partial(small_encoder("group").init, train=False))(jax.random.key(0), clips)

    def gradients(remat):
        encoder = small_encoder("group", remat)
        return jax.jit(jax.grad(lambda v: jnp.square(encoder.apply(v, clips, train=True)).sum()))(variables)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), gradients(False), gradients(True))


class TestNorm:
    x = np.random.default_rng(1).normal(2.0, 3.0, (4, 2, 3, 3, 12)).astype(np.float32)

    def apply(self, norm, x, train=True):
        variables = norm.init(jax.random.key(0), x, train=False)
        with jax.numpy_dtype_promotion("strict"):
            return norm.apply(variables, x, train, mutable=["batch_stats"])

    def test_batch(self):
        y, new = self.apply(Norm(), self.x)
        mean, var = self.x.mean((0, 1, 2, 3)), self.x.var((0, 1, 2, 3))
        np.testing.assert_allclose(y, (self.x - mean) / np.sqrt(var + 1e-5), atol=1e-4)
        np.testing.assert_allclose(new["batch_stats"]["mean"], 0.1 * mean, rtol=1e-4)
        np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=1e-4)

    def test_eval_uses_the_running_statistics_only(self):
        y, new = self.apply(Norm(), self.x, train=False)
        np.testing.assert_allclose(y, self.x / np.sqrt(1 + 1e-5), rtol=1e-5)
        np.testing.assert_array_equal(new["batch_stats"]["mean"], 0)

    def test_sub_batch_is_batch_norm_of_each_part(self):
        y, new = self.apply(Norm("sub_batch", sub_batches=2), self.x)
        _, whole = self.apply(Norm(), self.x)
        for part in (slice(0, 2), slice(2, 4)):
            np.testing.assert_allclose(y[part], self.apply(Norm(), self.x[part])[0], atol=1e-4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), new, whole)

    def test_sub_batch_must_divide_the_batch(self):
        with pytest.raises(ValueError, match="batch of 4 cannot be split into sub_batches=3"):
            self.apply(Norm("sub_batch", sub_batches=3), self.x)

    def test_group(self):
        y, new = self.apply(Norm("group"), self.x)
        groups = self.x.reshape(4, 18, 4, 3)
        mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
        np.testing.assert_allclose(y, ((groups - mean) / np.sqrt(var + 1e-5)).reshape(self.x.shape), atol=1e-4)
        assert not new

    def test_layer(self):
        y, new = self.apply(Norm("layer", epsilon=1e-6), self.x)
        mean, var = self.x.mean(-1, keepdims=True), self.x.var(-1, keepdims=True)
        np.testing.assert_allclose(y, (self.x - mean) / np.sqrt(var + 1e-6), atol=1e-4)
        assert not new

    @pytest.mark.parametrize(
        ("norm", "parts", "groups"), [(Norm(), 1, 12), (Norm("sub_batch", sub_batches=2), 2, 12), (Norm("group"), 4, 4)]
    )
    def test_gradients_are_those_of_the_formula(self, norm, parts, groups):
        rng = np.random.default_rng(2)
        weights = rng.normal(size=self.x.shape)
        scale, bias = rng.normal(size=(2, 12))

        def formula(x, scale, bias):
            rows = x.reshape(parts, -1, groups, 12 // groups)
            mean, var = (f(rows, (1, 3), keepdims=True) for f in (jnp.mean, jnp.var))
            y = ((rows - mean) / jnp.sqrt(var + 1e-5)).reshape(x.shape) * widened(scale, x) + widened(bias, x)
            return jnp.sum(jnp.sin(y) * weights)

        def ours(x, scale, bias):
            variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": bias, "var": scale}}
            y, _ = norm.apply(variables, x, True, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(y) * jnp.asarray(weights, jnp.float32))

        arrays = [jnp.asarray(array, jnp.float32) for array in (self.x, scale, bias)]
        found, expected = (jax.grad(function, (0, 1, 2))(*arrays) for function in (ours, formula))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)

    def test_statistics_are_float32_under_bfloat16(self):
        x = jnp.asarray(self.x, jnp.bfloat16)
        y, _ = self.apply(Norm(dtype=jnp.bfloat16), x)
        expected, _ = self.apply(Norm(), x.astype(jnp.float32))
        assert y.dtype == jnp.bfloat16
        np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=0.02)


@pytest.mark.parametrize(("norm", "parameters"), [(None, 8 * 6 + 6 + 6 * 4 + 4), ("batch", 8 * 6 + 12 + 6 * 4 + 4)])
def test_mlp(norm, parameters):
    head = MLP(hidden=6, out=4, norm=norm, dtype=jnp.bfloat16)
    x = random_clips((5, 8))
    with jax.numpy_dtype_promotion("strict"):
        y, variables = head.init_with_output(jax.random.key(0), x, train=True)
    assert (y.shape, y.dtype) == ((5, 4), jnp.float32)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters


def test_flops_of_a_dense_network_by_hand():
    stem = 2 * (8 * 56 * 56) * (3 * 7 * 7 * 3 * 8)
    first = 4 * 2 * (8 * 56 * 56) * (27 * 8 * 8)
    second = 2 * (4 * 28 * 28) * (27 * (8 * 16 + 3 * 16 * 16) + 8 * 16)
    third = 2 * (2 * 14 * 14) * (27 * (16 * 32 + 3 * 32 * 32) + 16 * 32)
    fourth = 2 * (1 * 7 * 7) * (27 * (32 * 64 + 3 * 64 * 64) + 32 * 64)
    assert forward_flops(build_encoder(ModelConfig("r3d_18", width=8)), (8, 112, 112, 3)) == (
        stem + first + second + third + fourth
    )


@pytest.mark.parametrize(
    ("name", "side", "published"),
    [("r3d_18", 112, 40.697), ("mc3_18", 112, 43.343), ("r2plus1d_18", 112, 40.519), ("s3d", 224, 17.979)],
)
def test_flops_are_twice_the_multiply_adds_of_torchvision(name, side, published):
    gflops = forward_flops(build_encoder(ModelConfig(name)), (16, side, side, 3)) / 1e9
    assert gflops / 2 == pytest.approx(published, abs=0.001)


def test_flops_of_a_transformer_by_hand():
    tokens, width = 8 * 14 * 14, 384
    block = 2 * tokens * 12 * width**2 + 2 * 2 * tokens**2 * width
    assert forward_flops(build_encoder(ModelConfig("vit_small")), (16, 224, 224, 3)) == 2 * tokens * 1536 * width + 12 * block


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig("r3d18"), "did you mean 'r3d_18'"),
        (ModelConfig(norm="bach"), "did you mean 'batch'"),
        (ModelConfig(dtype="bf16"), "did you mean 'bfloat16'"),
        (ModelConfig(width=0), "width=0"),
        (ModelConfig("s3d", vit=ViTConfig(cls=True)), "s3d is no vision transformer"),
        (ModelConfig(sub_batches=4), "sub_batches=4 is not possible with norm='batch'"),
    ],
)
def test_wrong_configs_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(config)


@pytest.mark.parametrize(("name", "remat"), [("r3d_18", False), ("s3d", True), ("small_r2plus1d", True), ("vit_small", True)])
def test_layers_name_every_part_and_their_maps_can_be_kept(name, remat):
    encoder = build_encoder(ModelConfig(name=name, width=8, norm="batch", remat=remat))
    clips = jnp.zeros((2, 4, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda: encoder.init(jax.random.key(0), clips, False))
    assert set(encoder.layers) == set(variables["params"])
    shapes = jax.eval_shape(lambda v: layer_maps(encoder, v, clips, encoder.layers, train=True), variables)
    feature, maps, state = shapes
    assert feature.shape == (2, encoder.feature_dim)
    assert maps[encoder.layers[-1]].shape[-1] == encoder.feature_dim
    assert jax.tree.structure(state.get("batch_stats")) == jax.tree.structure(variables.get("batch_stats"))
    with pytest.raises(ValueError, match="has no layer 'stage9'"):
        layer_maps(encoder, variables, clips, ["stage9"])


def test_normalized_rows_have_length_one_and_a_row_of_zeros_passes_no_gradient():
    rows = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32) * np.array([[1e-3], [0.0], [1e3], [1.0]], np.float32)
    done = np.asarray(l2_normalize(rows), np.float64)
    wide = rows.astype(np.float64)
    np.testing.assert_allclose(
        done[[0, 2, 3]], (wide / np.linalg.norm(wide, axis=1, keepdims=True).clip(1e-9))[[0, 2, 3]], atol=1e-6
    )
    assert not done[1].any()
    gradient = np.asarray(jax.grad(lambda x: jnp.sum(l2_normalize(x)))(rows))
    assert np.isfinite(gradient).all()
    assert not gradient[1].any()
    assert gradient[[0, 2, 3]].any(axis=1).all()
    rows[3, 5] = np.nan
    assert np.isnan(np.asarray(l2_normalize(rows))).all(axis=1).tolist() == [False, False, False, True]


@pytest.mark.parametrize("name", MODELS)
def test_every_encoder_has_a_unit(name):
    assert build_encoder(ModelConfig(name)).unit == "clip"
