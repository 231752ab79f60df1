"""Non-linear probe on stored features: what a small network gets out of them, with the features themselves beside it.

The non-linear baseline of SCALE (Sameni et al. 2023, arXiv 2211.17042, public code): an MLP with two hidden layers of 2,048 and
an output of 512, a linear classifier on the feature and the output side by side, AdamW 3e-4 without weight decay at 512 videos,
60 epochs, 5 % warm-up, cosine. Ours: one feature per video instead of one per clip, and features that are standardized.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from wt_jax.eval.protocols.base import Encoded, Predicted, Split, check_two_classes, over_splits
from wt_jax.eval.statistics import Result
from wt_jax.eval.validation_split import top_classes


class NonLinearClassifier(nn.Module):
    """(B, D) -> logits (B, C)."""

    classes: int
    hidden: int
    out: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Of the feature and what two hidden layers make of it."""
        x = features
        for index in range(2):
            x = nn.relu(nn.Dense(self.hidden, name=f"dense{index + 1}")(x))
        x = nn.Dense(self.out, name="dense3")(x)
        return nn.Dense(self.classes, name="classifier")(jnp.concatenate([features, x], axis=-1))


@dataclass(frozen=True)
class NonLinear:
    """Non-linear probe on features.

    Attributes:
      hidden, out: widths of the hidden layers and of the output beside the feature.
      learning_rate: peak, for a batch of `batch_size`.
      epochs: passes over the training set.
      batch_size: upper bound of the batch; the remainder of an epoch is left out.
    """

    hidden: int = 2048
    out: int = 512
    learning_rate: float = 3e-4
    epochs: int = 60
    batch_size: int = 512

    reads: ClassVar = "features"

    def headings(self) -> dict[str, str]:
        """Its top-1."""
        return {"top1": "non-linear"}

    def check(self, shapes: Mapping[str, tuple[int, ...]], labels: np.ndarray, splits: Sequence[Split]) -> None:
        """Raise ValueError where a training set has fewer than two classes."""
        check_two_classes(labels, splits)

    def run(
        self, features: Encoded, labels: np.ndarray, classes: Sequence[str], splits: Sequence[Split], *, seed: int = 0
    ) -> Result:
        """The probe of every split; see `wt_jax.eval.protocols.base.Protocol`."""

        def fit(train: Encoded, train_labels: np.ndarray, test: Encoded) -> list[Predicted]:
            known, targets = np.unique(train_labels, return_inverse=True)
            if len(known) < 2:
                raise ValueError(f"train_labels has only class {known[0]}; a probe needs at least two classes")
            logits = self._fit(train.values, targets, test.values, len(known), seed)
            if not np.isfinite(logits).all():
                raise ValueError(f"the non-linear probe diverged at learning rate {self.learning_rate}; set a smaller one")
            return [Predicted({"": top_classes(logits, known)})]

        return over_splits(fit, features, labels, splits)

    def _fit(self, train: np.ndarray, targets: np.ndarray, test: np.ndarray, classes: int, seed: int) -> np.ndarray:
        """Logits (M, C) of the test items."""
        mean, spread = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
        train, test = (((x - mean) / np.where(spread > 0, spread, 1)).astype(np.float32) for x in (train, test))
        steps = -(-len(train) // self.batch_size)
        rng, used = np.random.default_rng(seed), len(train) // steps * steps
        order = np.concatenate([rng.permutation(len(train))[:used].reshape(steps, -1) for _ in range(self.epochs)])
        total = len(order)
        rate = optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, max(1, total // 20), max(2, total))
        network = NonLinearClassifier(classes, self.hidden, self.out)
        with jax.default_matmul_precision("float32"):
            params = _descend(network, optax.adamw(rate, weight_decay=0.0), seed, train, targets.astype(np.int32), order)
            logits: Any = network.apply(params, test)
            return np.asarray(logits)


@partial(jax.jit, static_argnums=(0, 1))
def _descend(network, optimizer, seed, features, targets, order):
    """The classifier after a step on each of the batches `order` (steps, batch) of rows."""

    def loss(params, rows):
        logits = network.apply(params, features[rows])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets[rows]))

    def step(carry, rows):
        params, state = carry
        gradient = jax.grad(loss)(params, rows)
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by its integer counter
            updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = network.init(jax.random.key(seed), features[:1])
    return jax.lax.scan(step, (params, optimizer.init(params)), order)[0][0]
