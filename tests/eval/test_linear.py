"""The linear probe against scikit-learn and a naive SGD, its search, its invariances and its edge cases."""

import inspect

import numpy as np
import pytest

from wt_jax.eval.protocols.linear import linear_probe
from wt_jax.eval.validation_split import stratified_split


def make_sets(seed=0, train=200, test=100, dim=10, classes=4, noise=0.4):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(classes, dim))

    def draw(count):
        labels = rng.integers(classes, size=count).astype(np.int32)
        return (centers[labels] + noise * rng.normal(size=(count, dim))).astype(np.float32), labels

    return *draw(train), *draw(test)


def naive_probe(train, labels, test, rate, decay, epochs):
    """Full-batch PyTorch-style SGD with momentum 0.9 and drops at 60 and 80 %, written out."""
    mean, std = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    x, one_hot = (train - mean) / std, np.eye(labels.max() + 1)[labels]
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    layer = momentum = np.zeros((x.shape[1], one_hot.shape[1]))
    for epoch in range(epochs):
        logits = x @ layer
        p = np.exp(logits - logits.max(1, keepdims=True))
        gradient = x.T @ (p / p.sum(1, keepdims=True) - one_hot) / len(x) + decay * layer
        momentum = 0.9 * momentum + gradient
        layer = layer - rate * 0.1 ** ((epoch >= 0.6 * epochs) + (epoch >= 0.8 * epochs)) * momentum
    return (np.concatenate([(test - mean) / std, np.ones((len(test), 1))], axis=1) @ layer).argmax(1)


@pytest.mark.parametrize(("rate", "decay"), [(0.01, 1e-4), (0.1, 1e-2)])
def test_equals_naive_sgd(rate, decay):
    # Overlapping classes and an early stop, where each detail of the optimizer moves the boundary.
    train, labels, test, _ = make_sets(noise=1.5, test=2000)
    probe = linear_probe(train, labels, test, learning_rates=[rate], weight_decays=[decay], epochs=20)
    expected = naive_probe(train, labels, test, rate, decay, epochs=20)
    assert (probe.predictions == expected).mean() > 0.999
    assert (probe.learning_rate, probe.weight_decay, probe.validation_accuracy) == (rate, decay, None)


def test_agrees_with_logistic_regression_on_well_separated_classes():
    linear_model = pytest.importorskip("sklearn.linear_model")
    train, labels, test, test_labels = make_sets(seed=1, noise=0.2)
    probe = linear_probe(train, labels, test)
    reference = linear_model.LogisticRegression().fit(train, labels).predict(test)
    np.testing.assert_array_equal(probe.predictions, reference)
    np.testing.assert_array_equal(probe.predictions, test_labels)
    assert probe.validation_accuracy == 1
    assert probe.predictions.dtype == np.int32


def test_as_good_as_logistic_regression_on_correlated_overlapping_features():
    linear_model = pytest.importorskip("sklearn.linear_model")
    train, labels, test, test_labels = make_sets(seed=2, train=600, test=600, dim=64, classes=8, noise=2.0)
    mix = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32) + 3
    train, test = train @ mix, test @ mix
    accuracy = (linear_probe(train, labels, test).predictions == test_labels).mean()
    mean, std = train.mean(0), train.std(0)
    fitted = [linear_model.LogisticRegression(C=c, max_iter=2000).fit((train - mean) / std, labels) for c in (1e-3, 1e-1, 10)]
    best = max(model.score((test - mean) / std, test_labels) for model in fitted)
    assert accuracy > best - 0.04


def test_several_batches_per_epoch_learn_as_well():
    train, labels, test, test_labels = make_sets(seed=3, train=210)
    probe = linear_probe(train, labels, test, batch_size=64, epochs=30)
    assert (probe.predictions == test_labels).mean() > 0.95


def test_ignores_scale_and_offset_of_each_feature_and_a_constant_one():
    train, labels, test, _ = make_sets(noise=1.0)
    expected = linear_probe(train, labels, test)
    scale, offset = 2.0 ** np.arange(-5, 5, dtype=np.float32), np.float32(1)

    def changed(x):
        return np.concatenate([x * scale + offset, np.full((len(x), 1), 7, np.float32)], axis=1)

    probe = linear_probe(changed(train), labels, changed(test))
    np.testing.assert_array_equal(probe.predictions, expected.predictions)
    assert (probe.learning_rate, probe.weight_decay) == (expected.learning_rate, expected.weight_decay)


def test_is_deterministic_and_keeps_class_numbers():
    train, labels, test, test_labels = make_sets(seed=4)
    first, second = (linear_probe(train, labels, test) for _ in range(2))
    np.testing.assert_array_equal(first.predictions, second.predictions)
    renamed = np.array([3, 40, 7, 11])
    probe = linear_probe(train, renamed[labels], test)
    assert (probe.predictions == renamed[test_labels]).mean() > 0.95


def test_search_leaves_out_a_rate_that_diverges():
    train, labels, test, test_labels = make_sets(seed=5)
    probe = linear_probe(train, labels, test, learning_rates=[1e30, 0.1])
    assert probe.learning_rate == 0.1
    assert (probe.predictions == test_labels).mean() > 0.95
    with pytest.raises(ValueError, match="diverged at learning rate 1e\\+30"):
        linear_probe(train, labels, test, learning_rates=[1e30])


def test_test_labels_cannot_reach_the_choice():
    assert not [name for name in inspect.signature(linear_probe).parameters if "test" in name and "label" in name]
    # Nor does the size or content of the test set.
    train, labels, test, _ = make_sets(noise=1.5)
    whole, part = linear_probe(train, labels, test), linear_probe(train, labels, 5 - test[:3])
    assert (whole.learning_rate, whole.weight_decay) == (part.learning_rate, part.weight_decay)
    assert whole.validation_accuracy == part.validation_accuracy


def test_validation_part_is_stratified_and_seeded():
    labels = np.repeat([0, 1, 2, 5], [50, 10, 2, 1])
    marked = stratified_split(labels, fraction=0.2, seed=0)
    assert [int(marked[labels == c].sum()) for c in (0, 1, 2, 5)] == [10, 2, 1, 0]
    np.testing.assert_array_equal(marked, stratified_split(labels, fraction=0.2, seed=0))
    assert (marked != stratified_split(labels, fraction=0.2, seed=1)).any()


def test_errors_name_the_thing():
    train, labels, test, _ = make_sets()
    with pytest.raises(ValueError, match="only class 2; a linear probe needs at least two"):
        linear_probe(train, np.full_like(labels, 2), test)
    with pytest.raises(ValueError, match="no class with two items"):
        linear_probe(train[:3], np.arange(3), test)
    broken = train.copy()
    broken[17, 3] = np.nan
    with pytest.raises(ValueError, match=r"train_features has NaN or infinity in 1 of 200 rows \(17\)"):
        linear_probe(broken, labels, test)
    with pytest.raises(ValueError, match="test_features is empty"):
        linear_probe(train, labels, test[:0])
    with pytest.raises(ValueError, match="one label per feature vector"):
        linear_probe(train, labels[1:], test)


def test_one_item_per_class_works_without_a_search():
    train = np.eye(3, dtype=np.float32)
    probe = linear_probe(train, np.arange(3), train, learning_rates=[0.1], weight_decays=[1e-3])
    np.testing.assert_array_equal(probe.predictions, np.arange(3))
