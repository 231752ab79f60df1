"""What users give the losses: masks of other dtypes and shapes, arrays on meshes with explicit axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from wt_jax import losses

B, D = 8, 16


def unit(seed, *shape):
    x = np.random.default_rng(seed).standard_normal((*shape, D)).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize(
    "loss",
    [
        lambda q, k, queue, mask: losses.info_nce(q, k, queue, mask=mask),
        lambda q, k, queue, mask: losses.weak_teacher_loss(q, k, k, queue, queue, mask=mask),
        lambda q, k, queue, mask: losses.co2_loss(q, k, queue, mask=mask),
        lambda q, k, queue, mask: losses.relations(q, queue, temperature=0.1, mask=mask),
    ],
)
def test_a_mask_of_another_kind_is_named(loss, dtype):
    query, key, queue = unit(0, B), unit(1, B), unit(2, 2 * B)
    with pytest.raises(TypeError, match=f"mask must be bool.*got {dtype}"):
        loss(query, key, queue, jnp.ones((B, 2 * B), dtype))
    with pytest.raises(ValueError, match=r"mask must be of shape \(8, 16\)"):
        loss(query, key, queue, jnp.ones((2 * B,), bool))


LOSSES = {
    "nt_xent": lambda views, queue: losses.nt_xent(views),
    "info_nce": lambda views, queue: losses.info_nce(views[:, 0], views[:, 1], queue),
    "in_batch_info_nce": lambda views, queue: losses.in_batch_info_nce(views[:, 0], views[:, 1]),
    "byol_loss": lambda views, queue: losses.byol_loss(views[:, 0], views[:, 1]),
    "weak_teacher_loss": lambda views, queue: losses.weak_teacher_loss(views[:, 0], views[:, 1], views[:, 1], queue, queue),
    "co2_loss": lambda views, queue: losses.co2_loss(views[:, 0], views[:, 1], queue),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_the_same_on_a_mesh_with_explicit_axes(name):
    def mean(views, queue):
        return LOSSES[name](views, queue).mean()

    views, queue = unit(0, B, 2), unit(1, 2 * B)
    expected, gradient = jax.value_and_grad(mean)(views, queue)
    count = max(n for n in (1, 2, 4) if n <= jax.device_count())
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:count])
    with jax.set_mesh(mesh):
        there = jax.device_put(views, NamedSharding(mesh, P("data")))
        queue = jax.device_put(queue, NamedSharding(mesh, P()))
        loss, slope = jax.jit(jax.value_and_grad(mean))(there, queue)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, gradient, atol=1e-5)
