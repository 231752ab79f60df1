"""Our losses beside lightly's: values and gradients (extra `peers`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wt_jax.losses import byol_loss, nt_xent, sinkhorn, swapped_prediction
from wt_jax.models.embedder import l2_normalize

torch = pytest.importorskip("torch")
B, D, P = 6, 16, 10
_kept = []  # a library that is dropped takes its operators with it


@pytest.fixture(scope="module")
def lightly():
    """lightly's losses; a torchvision built for GPUs asks for two operators that a CPU torch has not."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    _kept.append(library)
    for operator in ("nms(Tensor a) -> Tensor", "qnms(Tensor a) -> Tensor"):
        try:
            library.define(operator)
        except RuntimeError:  # it is there
            continue
    return pytest.importorskip("lightly.loss")


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, B, D))
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def theirs(function, *arguments):
    """Value and gradients of a torch function."""
    tensors = [torch.tensor(x, requires_grad=True) for x in arguments]
    value = function(*tensors)
    value.backward()
    return float(value.detach()), [t.grad.numpy() if t.grad is not None else np.zeros(t.shape) for t in tensors]


def compare(ours, function, *arguments):
    value, gradients = jax.value_and_grad(ours, argnums=tuple(range(len(arguments))))(*arguments)
    expected, expected_gradients = theirs(function, *arguments)
    assert float(value) == pytest.approx(expected, abs=2e-6)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, other, atol=2e-6)


# lightly normalizes inside, so we do too: gradients then lie along the sphere.


def test_nt_xent(lightly, arrays):
    loss = lightly.NTXentLoss(temperature=0.3)

    def ours(x, y):
        return nt_xent(l2_normalize(jnp.stack([x, y], axis=1)), temperature=0.3).mean()

    compare(ours, loss, *arrays[:2])


def test_byol_is_two_plus_twice_the_negative_cosine(lightly, arrays):
    loss, target = lightly.NegativeCosineSimilarity(), torch.tensor(arrays[1])
    compare(lambda x: byol_loss(l2_normalize(x), arrays[1]).mean(), lambda x: 2 + 2 * loss(x, target), arrays[0])


def test_swav(lightly, arrays):
    rng = np.random.default_rng(1)
    scores = [rng.uniform(-0.5, 0.5, size=(B, P)).astype(np.float32) for _ in range(3)]
    loss = lightly.SwaVLoss(temperature=0.2, sinkhorn_iterations=3, sinkhorn_epsilon=0.3)

    def ours(first, second, third):
        total = 0.0
        every = (first, second, third)
        for place, own in enumerate((first, second)):
            codes = sinkhorn(own, epsilon=0.3)
            others = [s for i, s in enumerate(every) if i != place]
            total += sum(swapped_prediction(s, codes, temperature=0.2).mean() for s in others) / len(others)
        return total / 2

    compare(ours, lambda a, b, c: loss([a, b], [c]), *scores)
