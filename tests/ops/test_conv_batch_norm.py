"""A convolution with its BatchNorm and ReLU in one operation, against the formulas, and on several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wt_jax.kernels import implementation, operations
from wt_jax.models import Norm
from wt_jax.models.layers import ConvNorm
from wt_jax.ops.conv_batch_norm import Layer, conv_batch_norm
from wt_jax.ops.ranks import widened

STRIDED = Layer((1, 2, 2), ((1, 1), (1, 1), (1, 1)), 1e-5, True)
LAYERS = {"strided": STRIDED, "no_relu": STRIDED._replace(relu=False), "epsilon": STRIDED._replace(epsilon=0.1)}


def arrays(channels=16, batch=4):
    rng = np.random.default_rng(0)
    shapes = (batch, 4, 9, 8, 3), (3, 3, 3, 3, channels), (channels,), (channels,)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def formula(x, kernel, scale, bias, layer):
    x = lax.conv_general_dilated(x, kernel, layer.strides, layer.padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))
    mean, var = x.mean((0, 1, 2, 3)), x.var((0, 1, 2, 3))
    y = (x - widened(mean, x)) / jnp.sqrt(widened(var, x) + layer.epsilon) * widened(scale, x) + widened(bias, x)
    return jnp.maximum(y, 0) if layer.relu else y, mean, var


def value_and_gradients(function, layer, *arrays):
    @jax.jit
    def run(*arrays):
        results, pullback = jax.vjp(lambda *arrays: function(*arrays, layer), *arrays)
        return *results, *pullback((jnp.sin(3 * results[0]), *map(jnp.zeros_like, results[1:])))

    return run(*arrays)


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * float(jnp.abs(other).max()))


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("channels", [16, 48, 10])
def test_value_and_gradients_are_those_of_the_formulas(layer, channels):
    given = arrays(channels)
    assert_close(value_and_gradients(conv_batch_norm, layer, *given), value_and_gradients(formula, layer, *given))


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_without_a_gradient_the_value_is_the_same(layer, native):
    given = arrays()
    alone = jax.jit(conv_batch_norm, static_argnums=4)(*given, layer)
    for one, other in zip(alone, value_and_gradients(conv_batch_norm, layer, *given)[:3], strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_pass_is_one_operation_where_channels_fill_its_vectors(native):
    def programs(channels):
        given = arrays(channels)
        value = jax.jit(functools.partial(conv_batch_norm, layer=STRIDED)).lower(*given).as_text()
        by_kernel = jax.grad(lambda kernel: conv_batch_norm(given[0], kernel, *given[2:], STRIDED)[0].sum())
        return value.count(operations.TARGET), jax.jit(by_kernel).lower(given[1]).as_text()

    count, gradient = programs(32)
    assert count == 1
    assert gradient.count(operations.TARGET) == 2
    assert "conv_norm_own_gradients" in gradient  # the clip's is not computed
    count, gradient = programs(10)
    assert count == 1  # the convolution alone
    assert "conv_norm" not in gradient


def test_other_platforms_get_xla_alone():
    text = jax.jit(functools.partial(conv_batch_norm, layer=STRIDED)).trace(*arrays())
    text = text.lower(lowering_platforms=("cuda",)).as_text()
    assert operations.TARGET not in text
    assert text.count("stablehlo.convolution") == 1


def test_four_devices_have_the_statistics_of_the_whole_batch():
    given = arrays(batch=8)
    whole = value_and_gradients(conv_batch_norm, STRIDED, *given)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "fsdp"))
    split, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ([("data", "fsdp")], []))
    parts = value_and_gradients(
        conv_batch_norm, STRIDED, jax.device_put(given[0], split), *(jax.device_put(array, everywhere) for array in given[1:])
    )
    assert_close(parts, whole)
    assert parts[0].sharding.spec[0] == ("data", "fsdp")


def test_under_vmap():
    x, *rest = arrays()
    clips = jnp.stack([x, 2 * x + 1])
    together = jax.vmap(lambda x: value_and_gradients(conv_batch_norm, STRIDED, x, *rest))(clips)
    for place, one in enumerate(clips):
        apart = value_and_gradients(conv_batch_norm, STRIDED, one, *rest)
        assert_close([array[place] for array in together], apart)


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_the_layer_is_the_same_in_both_implementations(kind, native):
    x = arrays()[0]
    layer = ConvNorm(16, (3, 3, 3), (1, 1, 1), norm=functools.partial(Norm, kind))
    variables = layer.init(jax.random.key(0), x, True)

    def run(train):
        return layer.apply(variables, x, train, mutable=["batch_stats"])

    for train in (True, False):
        (with_it, moved), state = run(train), variables.get("batch_stats")
        with implementation("portable"):
            without, also_moved = run(train)
        np.testing.assert_allclose(with_it, without, rtol=1e-4, atol=1e-4)
        assert float(with_it.min()) == 0
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), moved, also_moved)
        if kind == "batch":
            unmoved = jax.tree.map(jnp.array_equal, moved["batch_stats"], state)
            assert any(jax.tree.leaves(unmoved)) == (not train)
