"""kNN and retrieval against naive NumPy and scikit-learn, their invariances and their edge cases."""

import numpy as np
import pytest

from wt_jax.eval import similarity
from wt_jax.eval.protocols.knn import weighted_knn
from wt_jax.eval.protocols.retrieval import mean_average_precision, retrieval_recall
from wt_jax.eval.similarity import nearest, top_k


def make_sets(seed=0, train=90, test=40, dim=12, classes=5):
    """Overlapping classes, so that neither kNN nor retrieval is trivially right."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(classes, dim))

    def draw(count):
        labels = rng.integers(classes, size=count).astype(np.int32)
        return (centers[labels] + 1.3 * rng.normal(size=(count, dim)) + 0.5).astype(np.float32), labels

    return *draw(train), *draw(test)


def naive_similarity(query, gallery, center):
    query, gallery = query.astype(np.float64), gallery.astype(np.float64)
    if center:
        query, gallery = query - query.mean(0), gallery - gallery.mean(0)
    return np.array([[q @ g / np.linalg.norm(q) / np.linalg.norm(g) for g in gallery] for q in query])


def naive_knn(train, labels, test, k, temperature):
    predictions = []
    for row in naive_similarity(test, train, center=False):
        votes = dict.fromkeys(sorted(set(labels.tolist())), 0.0)
        for i in sorted(range(len(row)), key=lambda i: -row[i])[:k]:
            votes[int(labels[i])] += np.exp(row[i] / temperature)
        predictions.append(max(votes, key=votes.get))
    return np.array(predictions)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 1.0), (90, 0.2)])
def test_knn_equals_naive_reference(k, temperature):
    train, labels, test, _ = make_sets()
    predictions = weighted_knn(train, labels, test, k=k, temperature=temperature)
    assert predictions.dtype == np.int32
    np.testing.assert_array_equal(predictions, naive_knn(train, labels, test, k, temperature))


def test_knn_equals_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    train, labels, test, _ = make_sets(seed=1, train=300, test=200)

    def weights(distance):
        return np.exp((1 - distance) / 0.07)

    reference = neighbors.KNeighborsClassifier(20, weights=weights, metric="cosine").fit(train, labels)
    np.testing.assert_array_equal(weighted_knn(train, labels, test), reference.predict(test))


def test_knn_equals_scikit_learn_where_all_features_nearly_share_a_direction():
    neighbors = pytest.importorskip("sklearn.neighbors")
    train, labels, test, _ = make_sets(seed=1, train=600, test=400)
    # As those of a network without centering: cosines between 0.9999 and 1, whose order float32 cannot hold.
    train, test = (np.abs(some) * 1e-2 + np.linspace(1, 3, some.shape[1]) for some in (train, test))
    reference = neighbors.KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d) / 0.07), metric="cosine").fit(train, labels)
    np.testing.assert_array_equal(weighted_knn(train, labels, test), reference.predict(test))


def test_knn_ignores_scale_and_order_of_the_training_set():
    train, labels, test, _ = make_sets(seed=2)
    expected = weighted_knn(train, labels, test)
    np.testing.assert_array_equal(weighted_knn(3e4 * train, labels, 1e-6 * test), expected)
    order = np.random.default_rng(0).permutation(len(train))
    np.testing.assert_array_equal(weighted_knn(train[order], labels[order], test), expected)


def test_knn_with_fewer_items_than_k_lets_all_vote():
    train, labels, test, _ = make_sets()
    expected = weighted_knn(train[:7], labels[:7], test, k=7)
    np.testing.assert_array_equal(weighted_knn(train[:7], labels[:7], test, k=20), expected)


def test_knn_tie_goes_to_the_lower_class_and_tiny_temperature_stays_finite():
    train = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    labels = np.array([4, 2, 0])
    test = np.array([[1, 0]], np.float32)
    assert weighted_knn(train, labels, test, k=2) == [2]
    assert weighted_knn(train, labels, test, k=1) == [4]  # Equal similarities: the lower index.
    assert weighted_knn(train, labels, test, k=3, temperature=1e-6) == [2]


def test_knn_with_one_class_predicts_it():
    train, labels, test, _ = make_sets()
    np.testing.assert_array_equal(weighted_knn(train, np.full_like(labels, 3), test, num_classes=9), np.full(40, 3))


def test_top_k_equals_a_stable_sort_with_many_ties():
    values = np.random.default_rng(0).integers(0, 4, size=(200, 15)).astype(np.float32)
    for k in (1, 4, 15):
        np.testing.assert_array_equal(top_k(values, k), np.argsort(-values, axis=1, kind="stable")[:, :k])


@pytest.mark.parametrize("center", [True, False])
def test_retrieval_equals_naive_reference(center):
    train, labels, test, test_labels = make_sets(seed=3)
    ranking = np.argsort(-naive_similarity(test, train, center), axis=1)
    np.testing.assert_array_equal(nearest(test, train, 8, center), ranking[:, :8])

    recall = retrieval_recall(test, test_labels, train, labels, center=center)
    assert list(recall) == [1, 5, 10, 20, 50]
    for k, value in recall.items():
        hits = [test_labels[i] in labels[ranking[i, :k]] for i in range(len(test))]
        assert value == np.mean(hits)


def test_mean_average_precision_equals_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    train, labels, test, test_labels = make_sets(seed=4)
    similarity = naive_similarity(test, train, center=True)
    expected = np.mean(
        [sklearn_metrics.average_precision_score(labels == c, s) for c, s in zip(test_labels, similarity, strict=True)]
    )
    value = mean_average_precision(test, test_labels, train, labels)
    assert value == pytest.approx(expected, abs=1e-6)


def test_mean_average_precision_by_hand():
    gallery = np.array([[1.0, 0], [0.9, 0.1], [0.5, 0.5], [0, 1]], np.float32)
    query = np.array([[1, 0], [1, 0]], np.float32)
    # Class 0 is at ranks 1 and 3; class 7 is absent, which counts 0.
    value = mean_average_precision(query, np.array([0, 7]), gallery, np.array([0, 1, 0, 1]), center=False)
    assert value == pytest.approx((1 / 1 + 2 / 3) / 2 / 2)


def test_centering_removes_an_offset_of_either_set():
    train, labels, test, test_labels = make_sets(seed=5)
    plain = retrieval_recall(test, test_labels, train, labels)
    assert retrieval_recall(test + 8, test_labels, train - 8, labels) == plain
    assert retrieval_recall(test + 8, test_labels, train - 8, labels, center=False) != plain


def test_chunks_leave_the_result_as_it_is(monkeypatch):
    train, labels, test, test_labels = make_sets(seed=6)

    def results():
        return (
            nearest(test, train, 7).tolist(),
            weighted_knn(train, labels, test).tolist(),
            mean_average_precision(test, test_labels, train, labels),
        )

    whole = results()
    monkeypatch.setattr(similarity, "_CHUNK_VALUES", 3 * len(train))
    assert len(list(similarity.similarity_chunks(test, train))) == 14
    assert results() == whole


def test_k_above_the_gallery_means_the_gallery():
    train, labels, test, test_labels = make_sets(train=6)
    assert nearest(test, train, 50).shape == (40, 6)
    recall = retrieval_recall(test, test_labels, train, labels, ks=(6, 50))
    assert recall[6] == recall[50] == np.isin(test_labels, labels).mean()


def test_a_collapsed_encoder_gets_the_first_item_not_noise():
    collapsed = np.full((30, 8), 0.1, np.float32)
    np.testing.assert_array_equal(nearest(collapsed, collapsed, 3), np.tile([0, 1, 2], (30, 1)))


def test_errors_name_the_thing():
    train, labels, test, test_labels = make_sets()
    broken = test.copy()
    broken[[4, 9], 0] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"test_features has NaN or infinity in 2 of 40 rows \(4, 9\)"):
        weighted_knn(train, labels, broken)
    with pytest.raises(ValueError, match="query_features has NaN"):
        retrieval_recall(broken, test_labels, train, labels)
    with pytest.raises(ValueError, match="train_features is empty"):
        weighted_knn(train[:0], labels[:0], test)
    with pytest.raises(ValueError, match="dimension 12 and test_features has 5"):
        weighted_knn(train, labels, test[:, :5])
    with pytest.raises(ValueError, match=r"train_features has shape \(12,\)"):
        weighted_knn(train[0], labels, test)
    with pytest.raises(ValueError, match=r"one label per feature vector: \(90,\)"):
        weighted_knn(train, labels[:-1], test)
    with pytest.raises(ValueError, match="drop the unlabelled"):
        weighted_knn(train, labels - 1, test)
    with pytest.raises(ValueError, match="integer class numbers"):
        weighted_knn(train, labels.astype(float), test)
    with pytest.raises(ValueError, match="raise num_classes"):
        weighted_knn(train, labels, test, num_classes=2)
    with pytest.raises(ValueError, match="k is 0"):
        weighted_knn(train, labels, test, k=0)
    with pytest.raises(ValueError, match="temperature is 0"):
        weighted_knn(train, labels, test, temperature=0)
    with pytest.raises(ValueError, match="k is 0"):
        nearest(test, train, 0)
    with pytest.raises(ValueError, match="ks is"):
        retrieval_recall(test, test_labels, train, labels, ks=())
    with pytest.raises(ValueError, match=r"query_features has one row.*center=False"):
        nearest(test[:1], train, 3)
