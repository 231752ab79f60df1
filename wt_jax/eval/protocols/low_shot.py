"""Low-shot classification: the linear probe with a small share of the training labels.

Each draw takes a share of every class, at least one item. The search for learning rate and weight decay holds out a part of
the few that were drawn; where no class has two of them the middle candidates are taken (our choice: there is nothing to
choose by). Shares of 1, 5 and 10 % are the usual ones; three draws are our choice.
"""

from collections.abc import Sequence

import numpy as np

from wt_jax.eval.protocols.linear import LinearProbe, linear_probe


def few_of_each(labels: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """Marks a random share of each class, at least one item.

    Args:
      labels: (N,) integer classes.
      share: above 0, at most 1.
      seed: of the draw.

    Returns:
      (N,) bool.

    Raises:
      ValueError: the share is out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; pass a number above 0 and at most 1, such as 0.1")
    rng = np.random.default_rng(seed)
    marked = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        marked[members[: max(1, round(share * len(members)))]] = True
    return marked


def low_shot_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    share: float,
    seed: int,
    learning_rates: Sequence[float],
    weight_decays: Sequence[float],
    epochs: int,
    batch_size: int,
) -> LinearProbe:
    """The `linear_probe` of one draw; all arguments and errors but `share` and `seed`, of the draw too, are its own."""
    train_labels = np.asarray(train_labels)
    drawn = few_of_each(train_labels, share=share, seed=seed)
    if np.unique(train_labels[drawn], return_counts=True)[1].max() < 2:
        learning_rates, weight_decays = ([some[len(some) // 2]] for some in (learning_rates, weight_decays))
    return linear_probe(
        np.asarray(train_features)[drawn],
        train_labels[drawn],
        test_features,
        learning_rates=learning_rates,
        weight_decays=weight_decays,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
    )
