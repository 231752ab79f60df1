"""Linear probe on stored features: how far a single linear layer gets with what the encoder kept.

Form (b) of CoCLR's linear evaluation (Han et al. 2020, arXiv 2010.09709, `eval/feature_linear_probe.py`): SGD with
momentum 0.9, batches of 1,024, 100 epochs, learning rate divided by 10 at 60 % and 80 % of them. The authors tune
learning rate (0.1 to 1) and weight decay (1e-4 to 1e-1) per data set. Ours: the choice is made by a search on a
validation fifth of the training set, the features are standardized rather than batch-normalized, 0.01 joins the learning
rates (standardized features that are strongly correlated need it), the layer starts from zero, and an epoch is cut
into equal batches, of which the remainder (fewer items than batches) is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from wt_jax.eval.protocols.base import Encoded, Predicted, Split, check_two_classes, over_splits
from wt_jax.eval.similarity import check_features, check_labels, check_pair
from wt_jax.eval.statistics import Result
from wt_jax.eval.validation_split import accuracy_and_likelihood, stratified_split, top_classes


@dataclass(frozen=True)
class Linear:
    """Linear probe on features; the fields are arguments of `linear_probe`."""

    learning_rates: tuple[float, ...] = (0.01, 0.1, 1.0)
    weight_decays: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    epochs: int = 100
    batch_size: int = 1024

    reads: ClassVar = "features"

    def headings(self) -> dict[str, str]:
        """Its top-1."""
        return {"top1": "linear"}

    def check(self, shapes: Mapping[str, tuple[int, ...]], labels: np.ndarray, splits: Sequence[Split]) -> None:
        """Raise ValueError where a training set has fewer than two classes."""
        check_two_classes(labels, splits)

    def run(
        self, features: Encoded, labels: np.ndarray, classes: Sequence[str], splits: Sequence[Split], *, seed: int = 0
    ) -> Result:
        """The probe of every split; see `wt_jax.eval.protocols.base.Protocol`."""

        def fit(train: Encoded, train_labels: np.ndarray, test: Encoded) -> list[Predicted]:
            probe = linear_probe(train.values, train_labels, test.values, **vars(self), seed=seed)
            return [Predicted({"": probe.ranked}, [probe.choice])]

        return over_splits(fit, features, labels, splits)


@dataclass(frozen=True)
class LinearProbe:
    """What `linear_probe` predicts and what it chose.

    Attributes:
      ranked: (M, min(5, C)) int32, the most likely classes of the test items, the likeliest first.
      learning_rate: the chosen learning rate.
      weight_decay: the chosen weight decay.
      validation_accuracy: accuracy of that choice on the validation split, in [0, 1]; None if there was
        nothing to choose.
    """

    ranked: np.ndarray
    learning_rate: float
    weight_decay: float
    validation_accuracy: float | None

    @property
    def choice(self) -> dict[str, float | None]:
        """What was chosen, for the results."""
        return {name: value for name, value in vars(self).items() if name != "ranked"}

    @property
    def predictions(self) -> np.ndarray:
        """(M,) int32 classes of the test items."""
        return self.ranked[:, 0]


def linear_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    learning_rates: Sequence[float] = (0.01, 0.1, 1.0),
    weight_decays: Sequence[float] = (1e-4, 1e-3, 1e-2),
    epochs: int = 100,
    batch_size: int = 1024,
    seed: int = 0,
) -> LinearProbe:
    """Trains a linear classifier on frozen features and predicts the classes of the test items.

    Test labels are not an argument, so that no choice can depend on them. Learning rate and weight decay are those with
    the best accuracy (then the lowest cross-entropy) on a stratified fifth of the training set; the layer is then
    fitted anew to the whole training set. Lists of one value each skip the search.

    Args:
      train_features: (N, D) float features.
      train_labels: (N,) integer classes, at least two different ones.
      test_features: (M, D) float features.
      learning_rates: candidates, for a batch of `batch_size`.
      weight_decays: candidates; L2 penalty added to the gradient of weights and bias, as in PyTorch's SGD.
      epochs: passes over the training set.
      batch_size: upper bound of the batch.
      seed: of the validation split and of the order of the batches.

    Returns:
      The predictions (each a class that occurs in training) and the choice made.

    Raises:
      ValueError: empty or non-finite features, dimensions or labels that do not fit, fewer than two classes, a search
        without a class that has two items (nothing can be held out), or a fit that diverged.
    """
    train, test = check_features("train_features", train_features), check_features("test_features", test_features)
    check_pair("train_features", train, "test_features", test)
    classes, targets = np.unique(check_labels("train_labels", train_labels, len(train)), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"train_labels has only class {classes[0]}; a linear probe needs at least two classes")

    fit = partial(_fit, num_classes=len(classes), epochs=epochs, batch_size=batch_size, seed=seed)
    grid = [(rate, decay) for rate in learning_rates for decay in weight_decays]
    choice, accuracy = 0, None
    if len(grid) > 1:
        validation = stratified_split(targets, fraction=0.2, seed=seed)
        if not validation.any():
            raise ValueError("train_labels has no class with two items to hold one out; fix one rate and one decay")
        candidates = fit(train[~validation], targets[~validation], train[validation], grid)
        scores = [accuracy_and_likelihood(logits, targets[validation]) for logits in candidates]
        choice = scores.index(max(scores))
        accuracy = scores[choice][0]
    (logits,) = fit(train, targets, test, [grid[choice]])
    if not np.isfinite(logits).all():
        raise ValueError(f"the linear probe diverged at learning rate {grid[choice][0]}; pass smaller learning_rates")
    return LinearProbe(top_classes(logits, classes), *grid[choice], accuracy)


def _fit(features, targets, other, grid, *, num_classes, epochs, batch_size, seed) -> Iterator[np.ndarray]:
    """Fits one layer per (learning rate, weight decay) of `grid`; yields the (M, C) logits of `other`, one by one."""
    mean, spread = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    spread = np.where(spread > 0, spread, 1)
    features, other = (((x - mean) / spread).astype(np.float32) for x in (features, other))

    steps = -(-len(features) // batch_size)
    used = len(features) // steps * steps
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(features))[:used].reshape(steps, -1) for _ in range(epochs)])
    progress = np.arange(epochs).repeat(steps) / epochs
    drop = 0.1 ** ((progress >= 0.6).astype(np.float32) + (progress >= 0.8))

    rates, decays = np.asarray(grid, np.float32).T
    with jax.default_matmul_precision("float32"):
        weights, bias = _descend(
            features, targets.astype(np.int32), order.astype(np.int32), drop, rates, decays, num_classes=num_classes
        )
    yield from (other @ w + b for w, b in zip(np.asarray(weights), np.asarray(bias), strict=True))


@partial(jax.jit, static_argnames="num_classes")
def _descend(features, targets, order, drop, rates, decays, *, num_classes):
    """SGD over the batches `order` (steps, batch); weights (G, D, C) and bias (G, C), one layer per rate and decay."""

    def loss(layer, inputs, labels):
        weights, bias = layer
        log_p = jax.nn.log_softmax(inputs @ weights + bias[None])
        return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))

    def descend(rate, decay):
        def step(carry, batch):
            layer, momentum = carry
            rows, drop = batch
            gradient = jax.grad(loss)(layer, features[rows], targets[rows])
            momentum = jax.tree.map(lambda m, g, p: 0.9 * m + g + decay * p, momentum, gradient, layer)
            layer = jax.tree.map(lambda p, m: p - rate * drop * m, layer, momentum)
            return (layer, momentum), None

        zero = (jnp.zeros((features.shape[1], num_classes)), jnp.zeros(num_classes))
        return jax.lax.scan(step, (zero, zero), (order, drop))[0][0]

    return jax.vmap(descend)(rates, decays)
