"""BatchNorm with its ReLU against the formulas, on several devices, and under a convolution of either implementation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wt_jax.kernels import implementation
from wt_jax.models import Norm
from wt_jax.models.layers import ConvNorm
from wt_jax.ops.batch_norm import batch_norm
from wt_jax.ops.ranks import widened

FORMS = {"relu": (1e-5, True), "no_relu": (1e-5, False), "epsilon": (0.1, True)}


def arrays(batch=4):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((batch, 4, 5, 6, 10), (10,), (10,))]


def formula(x, scale, bias, epsilon, relu):
    mean, var = x.mean((0, 1, 2, 3)), x.var((0, 1, 2, 3))
    y = (x - widened(mean, x)) / jnp.sqrt(widened(var, x) + epsilon) * widened(scale, x) + widened(bias, x)
    return jnp.maximum(y, 0) if relu else y, mean, var


def value_and_gradients(function, form, *arrays):
    @jax.jit
    def run(*arrays):
        results, pullback = jax.vjp(lambda *arrays: function(*arrays, *form), *arrays)
        return *results, *pullback((jnp.sin(3 * results[0]), *map(jnp.zeros_like, results[1:])))

    return run(*arrays)


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * float(jnp.abs(other).max()))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_value_and_gradients_are_those_of_the_formulas(form):
    given = arrays()
    assert_close(value_and_gradients(batch_norm, form, *given), value_and_gradients(formula, form, *given))


def test_four_devices_have_the_statistics_of_the_whole_batch():
    given, form = arrays(batch=8), FORMS["relu"]
    whole = value_and_gradients(batch_norm, form, *given)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "fsdp"))
    split, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ([("data", "fsdp")], []))
    parts = value_and_gradients(
        batch_norm, form, jax.device_put(given[0], split), *(jax.device_put(array, everywhere) for array in given[1:])
    )
    assert_close(parts, whole)
    assert parts[0].sharding.spec[0] == ("data", "fsdp")


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_the_layer_is_the_same_in_both_implementations(kind, native):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4, 9, 8, 3)), jnp.float32)
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
