"""Accuracies and intervals by hand and against independent references."""

import numpy as np
import pytest

from wt_jax.eval.statistics import (
    Result,
    bootstrap_interval,
    bootstrap_intervals,
    confusion_matrix,
    join,
    per_class_accuracy,
    top1,
)


def test_accuracies_by_hand():
    labels, predictions = np.array([0, 0, 1, 1, 3]), np.array([0, 1, 1, 1, 2])
    assert top1(predictions, labels) == pytest.approx(3 / 5)
    expected = [[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    np.testing.assert_array_equal(confusion_matrix(predictions, labels), expected)
    np.testing.assert_array_equal(per_class_accuracy(predictions, labels, 5), [0.5, 1, np.nan, 0, np.nan])


def test_confusion_matrix_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    labels, predictions = np.random.default_rng(0).integers(7, size=(2, 300))
    np.testing.assert_array_equal(confusion_matrix(predictions, labels), metrics.confusion_matrix(labels, predictions))
    assert confusion_matrix(predictions, labels, 9).shape == (9, 9)


def test_accuracy_errors():
    with pytest.raises(ValueError, match="labels has shape"):
        top1(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="must be equal"):
        top1(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="class 4 occurs with num_classes=2"):
        confusion_matrix(np.array([0]), np.array([4]), 2)


def test_bootstrap_equals_resampling_and_is_seeded():
    rng = np.random.default_rng(0)
    correct = rng.random(150) < 0.7
    resampled = correct[rng.integers(150, size=(10_000, 150))].mean(axis=1)
    assert bootstrap_interval(correct) == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.01)
    assert bootstrap_interval(correct) == bootstrap_interval(correct)
    wide, narrow = bootstrap_interval(correct, level=0.99), bootstrap_interval(correct, level=0.5)
    assert wide[0] < narrow[0] < correct.mean() < narrow[1] < wide[1]
    assert bootstrap_interval(np.ones(5, bool)) == (1, 1)


def test_bootstrap_covers_the_true_accuracy():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(400):
        low, high = bootstrap_interval(rng.random(200) < 0.8, resamples=500, seed=trial)
        covered += low <= 0.8 <= high
    assert 0.91 < covered / 400 < 0.98


def test_bootstrap_errors():
    with pytest.raises(ValueError, match="do not fit together"):
        bootstrap_interval(np.zeros(0, bool))
    with pytest.raises(ValueError, match="level is 95"):
        bootstrap_interval(np.ones(3, bool), level=95)


def test_intervals_resample_items_not_rows():
    rng = np.random.default_rng(0)
    one = rng.random((80, 2)) < 0.6
    items, fold = np.arange(80), np.zeros(80, int)
    once = bootstrap_intervals(one, items, fold)
    # Three draws that agree about every item are no more certain than one.
    thrice = bootstrap_intervals(np.tile(one, (3, 1)), np.tile(items, 3), np.repeat([0, 1, 2], 80))
    np.testing.assert_allclose(thrice, once)
    # Three splits of other items are: the interval of a mean of three is narrower by the root of three.
    apart = bootstrap_intervals(np.tile(one, (3, 1)), np.arange(240), np.repeat([0, 1, 2], 80))
    np.testing.assert_allclose((apart[1] - apart[0]) * np.sqrt(3), once[1] - once[0], rtol=0.15)


def test_a_number_is_the_mean_over_splits_of_their_means():
    def split(values, first):
        count = len(values)
        items = np.arange(first, first + count)
        return Result(items, np.zeros(count, np.int32), np.zeros(count, np.int32), {"top1": np.array(values, float)})

    splits = [split([1, 1, 1, 0], 0), split([0, 1], 10)]
    assert join(splits).numbers()["top1"].value == pytest.approx((0.75 + 0.5) / 2)
    pooled = join(splits).pooled().numbers()["top1"]
    assert pooled.value == pytest.approx(4 / 6)
    assert pooled.low < 4 / 6 < pooled.high
