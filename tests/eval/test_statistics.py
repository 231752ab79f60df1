"""Accuracies and intervals by hand, and the two whole protocols: what they measure and what they refuse."""

import numpy as np
import pytest

from wt_jax.eval.online import EvalSettings, evaluate_leave_one_group_out, evaluate_split
from wt_jax.eval.protocols import stored
from wt_jax.eval.protocols.knn import weighted_knn
from wt_jax.eval.protocols.linear import linear_probe
from wt_jax.eval.statistics import bootstrap_interval, confusion_matrix, per_class_accuracy, top1

KEYS = {
    "knn_top1",
    "linear_top1",
    "recall@1",
    "recall@5",
    "recall@10",
    "recall@20",
    "recall@50",
    "mean_average_precision",
}


def make_set(count, seed=0, classes=4, dim=16, noise=0.3):
    centers = np.random.default_rng(100).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes).astype(np.int32)
    return (centers[labels] + noise * rng.normal(size=(count, dim))).astype(np.float32), labels


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


@pytest.mark.parametrize("center", [True, False])
def test_split_tells_separated_features_from_noise(center):
    settings = EvalSettings(center=center)
    good = evaluate_split(*make_set(120), *make_set(60, seed=1), settings)
    assert good.keys() == KEYS
    assert min(good[key] for key in ("knn_top1", "linear_top1", "recall@1", "mean_average_precision")) > 0.95
    noise = evaluate_split(*make_set(120, noise=1e4), *make_set(60, seed=1, noise=1e4), settings)
    # Chance is 0.25 with 60 items: three standard deviations are 0.17.
    assert max(noise[key] for key in ("knn_top1", "linear_top1", "recall@1")) < 0.42
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in {**good, **noise}.values())


def test_settings_reach_knn_and_retrieval():
    train, test = make_set(120, noise=1.5), make_set(60, seed=1, noise=1.5)
    shifted = (test[0] + 20, test[1])
    plain = evaluate_split(*train, *test, EvalSettings())
    moved = evaluate_split(*train, *shifted, EvalSettings())
    for key in KEYS - {"linear_top1"}:
        assert moved[key] == pytest.approx(plain[key], abs=0.02)
    uncentered = evaluate_split(*train, *shifted, EvalSettings(center=False))
    assert uncentered["recall@1"] < plain["recall@1"]
    assert uncentered["linear_top1"] == moved["linear_top1"]
    assert evaluate_split(*train, *test, EvalSettings(k=1))["knn_top1"] == pytest.approx(plain["recall@1"])


def test_scrambled_test_labels_change_no_prediction_and_no_choice(monkeypatch):
    train, (test, test_labels) = make_set(120, noise=1.5), make_set(60, seed=1, noise=1.5)
    seen = []

    def recorded(function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            seen.append(result)
            return result

        return call

    monkeypatch.setattr(stored, "linear_probe", recorded(linear_probe))
    monkeypatch.setattr(stored, "weighted_knn", recorded(weighted_knn))
    true = evaluate_split(*train, test, test_labels, EvalSettings())
    scrambled = evaluate_split(*train, test, np.random.default_rng(0).permutation(test_labels), EvalSettings())
    assert true["linear_top1"] > scrambled["linear_top1"]
    voted, probe, scrambled_voted, scrambled_probe = seen
    np.testing.assert_array_equal(probe.predictions, scrambled_probe.predictions)
    np.testing.assert_array_equal(voted, scrambled_voted)
    assert (probe.learning_rate, probe.weight_decay, probe.held_out_accuracy) == (
        scrambled_probe.learning_rate,
        scrambled_probe.weight_decay,
        scrambled_probe.held_out_accuracy,
    )


def test_a_test_class_absent_from_training_counts_as_wrong():
    train, labels = make_set(120)
    test, test_labels = make_set(60, seed=1)
    known = labels != 3
    result = evaluate_split(train[known], labels[known], test, test_labels, EvalSettings(center=False))
    for key in ("knn_top1", "linear_top1", "recall@50"):
        assert result[key] == pytest.approx(0.75, abs=0.02)


def test_fewer_items_than_k_have_an_answer():
    result = evaluate_split(*make_set(8), *make_set(12, seed=1), EvalSettings(k=50))
    assert result["recall@10"] == result["recall@50"] == 1


def test_leave_one_group_out_equals_pooled_predictions():
    features, labels = make_set(30, noise=1.5)
    groups = np.repeat(["ann", "bob", "eve"], [12, 10, 8])
    pooled_knn, pooled_linear, hits = (np.empty(30) for _ in range(3))
    for name in ("ann", "bob", "eve"):
        test = groups == name
        train = features[~test] - features[~test].mean(0)
        query = features[test] - features[test].mean(0)
        pooled_knn[test] = weighted_knn(train, labels[~test], query, k=5)
        pooled_linear[test] = linear_probe(features[~test], labels[~test], features[test]).predictions
        hits[test] = weighted_knn(train, labels[~test], query, k=1) == labels[test]
    result = evaluate_leave_one_group_out(features, labels, groups, EvalSettings(k=5))
    assert result.keys() == KEYS
    assert result["knn_top1"] == pytest.approx(top1(pooled_knn, labels))
    assert result["linear_top1"] == pytest.approx(top1(pooled_linear, labels))
    assert result["recall@1"] == pytest.approx(hits.mean())


def test_a_group_never_finds_itself():
    # Each group is far from the others and its labels are its own: only leakage could score.
    features = np.repeat(np.eye(3, dtype=np.float32), 6, axis=0)
    labels = np.repeat([0, 1, 2], 6)
    result = evaluate_leave_one_group_out(features, labels, labels, EvalSettings(center=False))
    assert set(result.values()) == {0.0}


def test_protocol_errors():
    features, labels = make_set(40)
    settings = EvalSettings()
    broken = features.copy()
    broken[5] = np.nan
    with pytest.raises(ValueError, match=r"test_features has NaN or infinity in 1 of 40 rows \(5\)"):
        evaluate_split(features, labels, broken, labels, settings)
    with pytest.raises(ValueError, match="needs at least two classes"):
        evaluate_split(features, np.zeros_like(labels), features, labels, settings)
    with pytest.raises(ValueError, match="test_labels has shape"):
        evaluate_split(features, labels, features, labels[:3], settings)
    with pytest.raises(ValueError, match="test_features is empty"):
        evaluate_split(features, labels, features[:0], labels[:0], settings)
    with pytest.raises(ValueError, match="test_features has one row"):
        evaluate_split(features, labels, features[:1], labels[:1], settings)
    with pytest.raises(ValueError, match="dimension 16 and test_features has 4"):
        evaluate_split(features, labels, features[:, :4], labels, settings)
    with pytest.raises(ValueError, match="needs at least two"):
        evaluate_leave_one_group_out(features, labels, np.zeros(40, int), settings)
    with pytest.raises(ValueError, match="groups has shape"):
        evaluate_leave_one_group_out(features, labels, np.zeros(3, int), settings)
    with pytest.raises(ValueError, match="group True has one item"):
        evaluate_leave_one_group_out(features, labels, np.arange(40) == 0, settings)
