"""The CPU convolutions, oneDNN's and the composed one, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wt_jax.kernels import operations
from wt_jax.ops import conv3d_composed
from wt_jax.ops.conv3d import conv3d

SAME = ((1, 1), (1, 1), (1, 1))
CASES = {
    "point": ((2, 3, 5, 4, 3), (1, 1, 1), (1, 1, 1), ((0, 0),) * 3),
    "point_strided": ((2, 3, 5, 4, 3), (1, 1, 1), (2, 2, 2), ((0, 0),) * 3),
    "time": ((2, 5, 4, 3, 3), (3, 1, 1), (1, 1, 1), ((1, 1), (0, 0), (0, 0))),
    "time_strided_padded": ((2, 5, 4, 3, 3), (3, 1, 1), (2, 2, 1), ((1, 1), (1, 0), (0, 2))),
    "space": ((2, 3, 6, 5, 3), (1, 3, 3), (1, 1, 1), ((0, 0), (1, 1), (1, 1))),
    "space_strided": ((2, 3, 7, 6, 3), (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1))),
    "full": ((2, 4, 6, 5, 3), (3, 3, 3), (1, 1, 1), SAME),
    "full_strided": ((2, 5, 7, 6, 3), (3, 3, 3), (2, 2, 2), SAME),
    "stem": ((1, 4, 16, 15, 3), (3, 7, 7), (1, 2, 2), ((1, 1), (3, 3), (3, 3))),
    "lopsided": ((2, 4, 8, 9, 2), (2, 3, 5), (1, 3, 2), ((0, 1), (2, 0), (1, 3))),
    "unpadded_with_rest": ((2, 4, 8, 8, 2), (3, 3, 3), (1, 2, 2), ((0, 0),) * 3),
    "one_frame": ((2, 1, 6, 6, 3), (3, 3, 3), (2, 2, 2), SAME),
    "frames_in_groups": ((3, 5, 20, 20, 2), (3, 3, 3), (1, 1, 1), SAME),
    # Those over time alone and within frames alone are oneDNN's with an axis less, but for some (onednn._folded).
    "over_time_strided": ((2, 7, 5, 4, 3), (3, 1, 1), (2, 1, 1), ((1, 1), (0, 0), (0, 0))),
    "over_time_of_many_places": ((1, 3, 28, 29, 2), (3, 1, 1), (1, 1, 1), ((1, 1), (0, 0), (0, 0))),
    "over_time_of_many_channels": ((1, 3, 3, 3, 97), (3, 1, 1), (1, 1, 1), ((1, 1), (0, 0), (0, 0))),
    "over_time_padded_in_space": ((2, 4, 3, 3, 2), (3, 1, 1), (1, 1, 1), ((1, 1), (1, 0), (0, 1))),
    "within_frames_strided_in_time": ((2, 5, 6, 6, 2), (1, 3, 3), (2, 2, 2), ((0, 0), (1, 1), (1, 1))),
    "within_frames_padded_in_time": ((2, 3, 6, 6, 2), (1, 3, 3), (1, 2, 2), ((1, 0), (1, 1), (0, 1))),
    "frames_larger_than_a_group": ((1, 2, 40, 33, 2), (1, 3, 3), (1, 1, 1), ((0, 0), (1, 1), (1, 1))),
}


def reference(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))


def value_and_gradients(function, x, kernel, strides, padding):
    @jax.jit
    def run(x, kernel):
        y, pullback = jax.vjp(lambda x, kernel: function(x, kernel, strides, padding), x, kernel)
        return y, *pullback(jnp.sin(y))

    return run(x, kernel)


def arrays(shape, kernel_size, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    kernel_shape = (*kernel_size, shape[-1], 4)
    x = jnp.asarray(rng.standard_normal(shape), dtype)
    return x, jnp.asarray(rng.standard_normal(kernel_shape) / np.sqrt(np.prod(kernel_shape[:4])), dtype)


@pytest.mark.parametrize("case", CASES)
def test_equals_lax_in_value_and_gradients(case, kernels):
    shape, kernel_size, strides, padding = CASES[case]
    x, kernel = arrays(shape, kernel_size)
    with jax.numpy_dtype_promotion("strict"):
        got = value_and_gradients(conv3d, x, kernel, strides, padding)
    for mine, theirs in zip(got, value_and_gradients(reference, x, kernel, strides, padding), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize("case", ["time", "full_strided"])
def test_bfloat16_is_within_rounding_of_float32(case, kernels):
    shape, kernel_size, strides, padding = CASES[case]
    x, kernel = arrays(shape, kernel_size, jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        got = value_and_gradients(conv3d, x, kernel, strides, padding)
    exact = value_and_gradients(reference, x.astype(jnp.float32), kernel.astype(jnp.float32), strides, padding)
    for mine, theirs in zip(got, exact, strict=True):
        assert mine.dtype == jnp.bfloat16
        np.testing.assert_allclose(mine.astype(jnp.float32), theirs, atol=2e-2 * float(jnp.abs(theirs).max()))


def test_other_platforms_get_one_plain_convolution():
    x, kernel = arrays(*CASES["full_strided"][:2])
    strided = jax.jit(lambda x, kernel: conv3d(x, kernel, (2, 2, 2), SAME))
    text = strided.trace(x, kernel).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.convolution") == 1
    assert "[b, 0, 1, 2, f]" in text


def test_cpu_never_runs_a_3d_convolution(kernels):
    x, kernel = arrays(*CASES["full_strided"][:2])
    gradient = jax.jit(jax.grad(lambda x, kernel: conv3d(x, kernel, (2, 2, 2), SAME).sum(), argnums=(0, 1)))
    text = gradient.lower(x, kernel).as_text()
    assert "[b, 0, 1, 2, f]" not in text
    assert ("stablehlo.convolution" in text) == (kernels == "portable")
    assert text.count(operations.TARGET) == (1 if kernels == "native" else 0)  # both gradients at once


def test_a_gradient_that_nobody_asks_for_is_not_computed(native):
    x, kernel = arrays(*CASES["full"][:2])
    of_kernel = jax.jit(jax.grad(lambda kernel: conv3d(x, kernel, (1, 1, 1), SAME).sum()))
    text = of_kernel.lower(kernel).as_text()
    assert "kernel_gradient" in text
    assert "\\22gradients\\22" not in text
    expected = jax.grad(lambda kernel: reference(x, kernel, (1, 1, 1), SAME).sum())(kernel)
    np.testing.assert_allclose(of_kernel(kernel), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("case", ["full_strided", "stem"])
def test_four_devices_share_the_batch(case, kernels):
    shape, kernel_size, strides, padding = CASES[case]
    x, kernel = arrays((8, *shape[1:]), kernel_size)
    whole = value_and_gradients(conv3d, x, kernel, strides, padding)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "fsdp"))
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
    parts = value_and_gradients(conv3d, split, jax.device_put(kernel, NamedSharding(mesh, PartitionSpec())), strides, padding)
    for one, four in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, four, rtol=1e-4, atol=1e-4 * float(jnp.abs(one).max()))
    assert all(part.sharding.spec[0] == ("data", "fsdp") for part in parts[:2])


def test_under_vmap(kernels):
    shape, kernel_size, strides, padding = CASES["full_strided"]
    x, kernel = arrays((3, *shape), kernel_size)

    def gradient(x):
        return value_and_gradients(conv3d, x, kernel, strides, padding)

    together = jax.vmap(gradient)(x)
    for i in range(3):
        for one, all_of_them in zip(gradient(x[i]), together, strict=True):
            np.testing.assert_allclose(one, all_of_them[i], rtol=1e-4, atol=1e-4)


def test_the_pieces_are_summed_in_several_groups(monkeypatch):
    shape, kernel_size, strides, padding = CASES["full"]
    x, kernel = arrays(shape, kernel_size)
    whole = value_and_gradients(conv3d_composed.conv3d, x, kernel, strides, padding)
    monkeypatch.setattr(conv3d_composed, "_POSITIONS", 90)
    pieces = value_and_gradients(conv3d_composed.conv3d, x, kernel, strides, padding)
    for one, many in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-4)


def test_traces_without_data_and_under_checkpoint(kernels):
    x, kernel = arrays(*CASES["full"][:2])

    def loss(kernel):
        return jax.checkpoint(lambda kernel: conv3d(x, kernel, (1, 1, 1), SAME))(kernel).sum()

    assert jax.eval_shape(jax.grad(loss), kernel).shape == kernel.shape
