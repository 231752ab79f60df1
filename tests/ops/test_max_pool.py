"""Max-pooling against XLA's reduction over windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from wt_jax.ops.max_pool import max_pool


@pytest.mark.parametrize("window", [(1, 3, 3), (3, 3, 3), (2, 2, 2)])
@pytest.mark.parametrize("step", [1, 2])
def test_max_pool_equals_reduce_window(window, step, kernels):
    x = jnp.asarray(np.random.default_rng(0).random((2, 4, 6, 8, 3)), jnp.float32)
    strides = tuple(step if length > 1 else 1 for length in window)

    def expected(x):
        padding = [(0, 0), *((length // 2,) * 2 if length % 2 else (0, 2 - step) for length in window), (0, 0)]
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), padding)

    np.testing.assert_array_equal(max_pool(x, window, strides), expected(x))
    ours, theirs = (
        jax.grad(lambda x, pool=pool: jnp.sin(pool(x)).sum())(x) for pool in (lambda x: max_pool(x, window, strides), expected)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_max_pool_of_odd_sizes_rounds_up():
    x = jnp.arange(5.0).reshape(1, 5, 1, 1, 1)
    np.testing.assert_array_equal(max_pool(x, (2, 2, 2), (2, 2, 2)).ravel(), [1, 3, 4])
    np.testing.assert_array_equal(max_pool(x[:, :1], (3, 3, 3), (2, 2, 2)).ravel(), [0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_tpu_reduces_windows_and_no_other_platform_does(dtype):
    x = jnp.zeros((2, 4, 6, 8, 3), dtype)
    gradient = jax.jit(jax.grad(lambda x: max_pool(x, (3, 3, 3), (2, 2, 2)).astype(jnp.float32).sum())).trace(x)
    texts = {name: gradient.lower(lowering_platforms=(name,)).as_text() for name in ("tpu", "cuda", "cpu")}
    assert {name: "select_and_scatter" in text for name, text in texts.items()} == {"tpu": True, "cuda": False, "cpu": False}
