"""What the rest of the package needs of the operations' runtime."""

from wt_jax.ops import describe, fingerprint


def test_the_fingerprint_and_the_description_are_those_of_the_implementation(kernels):
    assert fingerprint().startswith(kernels)
    assert ("XLA alone" in describe()) == (kernels == "portable")
