"""What the rest of the package needs of the operations' runtime."""

import jax
import jax.numpy as jnp
import numpy as np

from wt_jax.ops import after, describe, fingerprint


def test_after_leaves_values_as_they_are_and_passes_no_gradient():
    x, other = jnp.arange(24.0).reshape(2, 3, 4), jnp.ones((2, 5))
    np.testing.assert_array_equal(jax.jit(after)(x, other), x)
    assert float(jax.grad(lambda other: after(x, other).sum())(other).sum()) == 0


def test_the_fingerprint_and_the_description_are_those_of_the_implementation(kernels):
    assert fingerprint().startswith(kernels)
    assert ("XLA alone" in describe()) == (kernels == "portable")
