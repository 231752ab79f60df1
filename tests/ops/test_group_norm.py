"""GroupNorm: its kernel and what XLA makes of it, beside NumPy, with both gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from wt_jax.kernels import operations
from wt_jax.ops.group_norm import group_norm
from wt_jax.ops.ranks import widened

SHAPES = [((3, 2, 5, 7, 12), 4), ((2, 1, 1, 1, 6), 2), ((5, 131, 32), 32), ((1, 9, 8), 1), ((3, 64, 24), 8)]


def arrays(shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(len(shape))
    x, dy = rng.normal(1, 2, (2, *shape)).astype(np.float32)
    scale, bias = rng.normal(0, 1, (2, shape[-1])).astype(np.float32)
    return tuple(jnp.asarray(array) for array in (x, scale, bias, dy))


def naive(x, scale, bias, groups: int, relu: bool):
    """Float64, as the paper has it."""
    parts = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    parts = (parts - parts.mean((1, 3), keepdims=True)) / np.sqrt(parts.var((1, 3), keepdims=True) + 1e-5)
    y = parts.reshape(x.shape) * widened(scale, x) + widened(bias, x)
    return np.maximum(y, 0) if relu else y


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_the_value_is_that_of_numpy(shape, groups, relu, kernels):
    x, scale, bias, _ = arrays(shape)
    lowered = jax.jit(group_norm, static_argnums=(3, 4, 5)).lower(x, scale, bias, groups, 1e-5, relu)
    assert lowered.as_text().count(operations.TARGET) == (1 if kernels == "native" else 0)
    y = lowered.compile()(x, scale, bias)
    wide = [np.asarray(array, np.float64) for array in (x, scale, bias)]
    np.testing.assert_allclose(y, naive(*wide, groups, relu), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_the_gradients_are_those_of_the_formula(shape, groups, relu, kernels):
    given = arrays(shape)

    def by_formula(x, scale, bias):
        parts = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
        var = jnp.var(parts, (1, 3), keepdims=True)
        parts = (parts - jnp.mean(parts, (1, 3), keepdims=True)) / jnp.sqrt(var + 1e-5)
        y = parts.reshape(x.shape) * widened(scale, x) + widened(bias, x)
        return jnp.where(y > 0, y, 0.0) if relu else y

    def gradients(function):
        return jax.jit(lambda x, scale, bias, dy: jax.vjp(function, x, scale, bias)[1](dy))(*given)

    found = gradients(lambda x, scale, bias: group_norm(x, scale, bias, groups, 1e-5, relu))
    for ours, theirs in zip(found, gradients(by_formula), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)


def test_a_nan_is_not_lost_in_the_relu(kernels):
    x, scale, bias, _ = arrays((3, 64, 24))
    y = jax.jit(group_norm, static_argnums=(3, 4, 5))(x.at[1, 5, 0].set(jnp.nan), scale, bias, 8, 1e-5, True)
    assert np.isnan(y[1, :, :3]).all()  # of its group, and of no other
    assert not np.isnan(y[1, :, 3:]).any()
    assert not np.isnan(y[::2]).any()


def test_what_is_too_large_to_be_squared_gives_nan(kernels):
    x, scale, bias, _ = arrays((3, 64, 24))
    y = jax.jit(group_norm, static_argnums=(3, 4, 5))(x.at[1].multiply(1e25), scale, bias, 8, 1e-5, True)
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[::2]).all()


def test_under_vmap_it_is_one_after_the_other(kernels):
    x, scale, bias, _ = arrays((4, 6, 8))
    parts = x.reshape(2, 2, 6, 8)
    mapped = jax.jit(jax.vmap(lambda x: group_norm(x, scale, bias, 2, 1e-5, True)))(parts)
    np.testing.assert_allclose(mapped.reshape(x.shape), group_norm(x, scale, bias, 2, 1e-5, True), rtol=1e-5, atol=1e-6)


def test_four_devices_have_a_part_each(kernels):
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    x, scale, bias, dy = arrays((8, 3, 4, 4, 12))

    def both(x, scale, bias, dy):
        y, pull = jax.vjp(lambda *given: group_norm(*given, 4, 1e-5, True), x, scale, bias)
        return y, *pull(dy)

    split = NamedSharding(mesh, PartitionSpec("data"))
    compiled = jax.jit(both).lower(jax.device_put(x, split), scale, bias, jax.device_put(dy, split)).compile()
    found = compiled(jax.device_put(x, split), scale, bias, jax.device_put(dy, split))
    for ours, alone in zip(found, jax.jit(both)(x, scale, bias, dy), strict=True):
        np.testing.assert_allclose(ours, alone, rtol=1e-4, atol=1e-4)
    assert found[0].sharding.is_equivalent_to(split, 5)
    assert "all-gather" not in compiled.as_text()
