"""Explicit ranks: JAX widens an array of fewer axes silently, which hides mistakes, so the tests make it an error."""

import jax


def widened(array: jax.Array, like: jax.Array) -> jax.Array:
    """`array` with leading axes of size 1, up to the number of axes of `like`: for broadcasting along its last axes."""
    return array.reshape((1,) * (like.ndim - array.ndim) + array.shape)
