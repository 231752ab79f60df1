"""Every protocol of the table: the test's labels reach no choice, and odd sets have an answer or a clear error."""

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from wt_jax.config import from_dict, to_dict
from wt_jax.eval.protocols.attentive import Attentive
from wt_jax.eval.protocols.base import Encoded, Split
from wt_jax.eval.protocols.clips import Choice, Predictions
from wt_jax.eval.protocols.knn import Knn, choose_knn, weighted_knn
from wt_jax.eval.protocols.linear import Linear, linear_probe
from wt_jax.eval.protocols.low_shot import LowShot, few_of_each
from wt_jax.eval.protocols.nonlinear import NonLinear
from wt_jax.eval.protocols.retrieval import Retrieval
from wt_jax.eval.protocols.speech_retrieval import SpeechRetrieval
from wt_jax.eval.protocols.table import FEATURE_PROTOCOLS, PROTOCOLS
from wt_jax.eval.protocols.zero_shot import ZeroShot, zero_shot
from wt_jax.eval.statistics import join
from wt_jax.eval.validation_split import stratified_split
from wt_jax.weights.table import save_table

CLASSES = ("a", "b", "c", "d", "e", "f")
# Protocols are tested at their defaults, or at these settings where the defaults would only cost time.
_FOLDER = tempfile.TemporaryDirectory(prefix="table")
# The features' means of the classes, in another order and one more: what perfect text features were.
_ROWS = np.random.default_rng(100).normal(size=(len(CLASSES), 12)).astype(np.float32)
save_table(Path(_FOLDER.name), [*reversed(CLASSES), "more"], np.concatenate([_ROWS[::-1], _ROWS[:1] * 0.1 + 5]))
QUICK = {
    "zero_shot": ZeroShot(_FOLDER.name),
    "linear": Linear(learning_rates=(0.1, 1.0), weight_decays=(1e-3,), epochs=20),
    "low_shot": LowShot((0.1, 0.4), 2, Linear((0.1, 1.0), (1e-3,), epochs=20)),
    "nonlinear": NonLinear(32, 16, 1e-2, epochs=20),
    "attentive": Attentive((1e-3, 3e-2), (0.01,), epochs=20, batch_size=32),
}
# Retrieval between clips and sound reads no training set, which most of these tests are about, and detection no labels.
TABLE = {name: each for name, each in {**PROTOCOLS, **QUICK}.items() if each.reads not in ("sounds", "boxes")}
FEATURES = [name for name, protocol in TABLE.items() if protocol.reads != "clips"]


class NearestMean:
    """In place of a classifier that is trained on clips: the nearest mean of the training features; keeps what it was asked."""

    def __init__(self, encoded):
        self.encoded, self.asked = encoded, []

    def predict(self, training, split, train_labels, classes, seed):
        self.asked.append((split, train_labels))
        means = np.full((len(classes), self.encoded.values.shape[1]), np.inf)
        for label in np.unique(train_labels):
            means[label] = self.encoded.values[split.train][train_labels == label].mean(axis=0)
        distance = np.linalg.norm(self.encoded.values[split.test][:, None] - means[None], axis=2)
        probabilities = np.exp(-distance) / np.exp(-distance).sum(axis=1, keepdims=True)
        return Predictions(probabilities.astype(np.float32), np.arange(len(split.test)), Choice(0.1, 0.0, 0.5))


def make_items(count, seed=0, noise=1.0, test=60):
    """Features (count + test, 12), tokens whose mean they are, labels in an order of chance, and one split."""
    centers = np.random.default_rng(100).normal(size=(len(CLASSES), 12))
    rng = np.random.default_rng(seed)
    labels = np.concatenate([rng.permutation(np.arange(part) % len(CLASSES)) for part in (count, test)]).astype(np.int32)
    tokens = (centers[labels][:, None] + noise * rng.normal(size=(len(labels), 3, 12))).astype(np.float16)
    encoded = Encoded(tokens.astype(np.float32).mean(axis=1), tokens, np.arange(len(labels)))
    return encoded, labels, Split("only", np.arange(count), count + np.arange(test))


def run(protocol, encoded, labels, *splits, seed=0):
    features = NearestMean(encoded) if protocol.reads == "clips" else encoded
    return protocol.run(features, labels, CLASSES, splits, seed=seed)


def check(protocol, encoded, labels, *splits):
    protocol.check({"values": encoded.values.shape[1:], "tokens": encoded.tokens.shape[1:]}, labels, splits)


@pytest.mark.parametrize("name", TABLE)
def test_scrambled_test_labels_leave_every_choice_and_prediction_as_it_is(name):
    encoded, labels, split = make_items(120)
    scrambled = labels.copy()
    scrambled[split.test] = np.random.default_rng(0).permutation(labels[split.test])
    true, other = (run(TABLE[name], encoded, some, split) for some in (labels, scrambled))
    assert list(true.chosen) == list(other.chosen)
    assert (true.predictions is None) == (other.predictions is None)
    if true.predictions is not None:
        np.testing.assert_array_equal(true.predictions, other.predictions)
    for number, value in true.values.items():
        # Top-5 of six classes and R@50 are nearly always right.
        assert value.mean() > other.values[number].mean() or value.mean() == 1


@pytest.mark.parametrize("name", TABLE)
def test_several_splits_are_their_results_one_after_the_other(name):
    """So that an interrupted evaluation may keep the result of each split in a file of its own."""
    encoded, labels, _ = make_items(60, noise=2.0)
    splits = [Split("low", np.arange(60, 120), np.arange(60)), Split("high", np.arange(60), np.arange(60, 120))]
    whole = run(TABLE[name], encoded, labels, *splits, seed=3)
    parts = join([run(TABLE[name], encoded, labels, split, seed=3) for split in splits])
    for field in ("items", "folds", "labels"):
        np.testing.assert_array_equal(getattr(whole, field), getattr(parts, field))
    assert set(whole.items) == set(range(120))
    assert list(whole.chosen) == list(parts.chosen)
    for number, value in whole.values.items():
        np.testing.assert_array_equal(value, parts.values[number])


@pytest.mark.parametrize("name", sorted(TABLE.keys() - {"zero_shot"}))  # which reads no training set
def test_a_test_class_absent_from_training_counts_as_wrong(name):
    encoded, labels, split = make_items(120)
    part = dataclasses.replace(split, train=np.flatnonzero(labels[:120] != 3))
    result = run(TABLE[name], encoded, labels, part)
    absent = result.labels == 3
    assert absent.sum() >= 10
    assert all((value[absent] == 0).all() for value in result.values.values())
    assert any(value[~absent].mean() > 0.3 for value in result.values.values())


@pytest.mark.parametrize("name", TABLE)
def test_headings_name_numbers_that_are_there(name):
    result = run(TABLE[name], *make_items(60))
    headings = TABLE[name].headings()
    assert headings
    assert headings.keys() <= result.values.keys()
    assert all(0 <= number.low <= number.value <= number.high <= 1 for number in result.numbers().values())


def needs_two_classes(protocol):
    """Whether the protocol fits something: it refuses a training set of one class when it runs, so it must before too."""
    encoded, labels, split = make_items(60)
    if protocol.reads == "clips":
        return True
    try:
        run(protocol, encoded, np.zeros_like(labels), split)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("name", sorted(TABLE.keys() - {"zero_shot"}))
def test_what_cannot_work_is_found_before_any_work(name):
    encoded, labels, split = make_items(60)
    check(TABLE[name], encoded, labels, split)
    one_class = np.zeros_like(labels)
    if needs_two_classes(TABLE[name]):
        with pytest.raises(ValueError, match="only has only class 0; a probe needs at least two"):
            check(TABLE[name], encoded, one_class, split)
    else:
        check(TABLE[name], encoded, one_class, split)
        assert all((value == 1).all() for value in run(TABLE[name], encoded, one_class, split).values.values())


@pytest.mark.parametrize("name", TABLE)
def test_settings_survive_their_file(name):
    assert from_dict(type(TABLE[name]), json.loads(json.dumps(to_dict(TABLE[name])))) == TABLE[name]


@pytest.mark.parametrize("name", FEATURES)
def test_nan_is_named(name):
    encoded, labels, split = make_items(60)
    values = encoded.values.copy()
    values[64, 2] = np.nan
    with pytest.raises(ValueError, match=r"test_features has NaN or infinity in 1 of 60 rows \(4\)"):
        run(TABLE[name], dataclasses.replace(encoded, values=values), labels, split)


@pytest.mark.parametrize("name", FEATURES)
def test_fewer_items_than_k_or_than_a_fraction_have_an_answer(name):
    result = run(TABLE[name], *make_items(18, test=9))
    assert all(np.isfinite(value).all() for value in result.values.values())


def test_a_run_can_use_the_protocols_that_read_features_alone():
    assert {PROTOCOLS[name].reads for name in FEATURE_PROTOCOLS} == {"features"}
    assert PROTOCOLS.keys() > FEATURE_PROTOCOLS.keys()


def test_a_classifier_is_given_no_test_label():
    encoded, labels, split = make_items(60)
    classifier = NearestMean(encoded)
    PROTOCOLS["finetune"].run(classifier, labels, CLASSES, [split])
    ((asked, given),) = classifier.asked
    assert asked is split
    np.testing.assert_array_equal(given, labels[split.train])


def test_heads_that_do_not_divide_the_width_are_found_by_the_shapes():
    encoded, labels, split = make_items(60)
    with pytest.raises(ValueError, match="heads 5 does not divide the 12 channels"):
        check(Attentive(heads=5), encoded, labels, split)


@pytest.mark.parametrize("protocol", [Knn(center=True), Retrieval()])
def test_one_item_cannot_be_centered(protocol):
    encoded, labels, split = make_items(60, test=1)
    with pytest.raises(ValueError, match="the test set of only has one item, which centering turns into zero"):
        check(protocol, encoded, labels, split)


def test_knn_is_not_centered_unless_it_says_so():
    encoded, labels, split = make_items(120, noise=1.5)
    shift = np.zeros_like(encoded.values)
    shift[split.test] = 20
    moved = dataclasses.replace(encoded, values=encoded.values + shift)
    plain, centered = Knn(ks=()), Knn(ks=(), center=True)
    assert (run(plain, moved, labels, split).values["top1"] != run(plain, encoded, labels, split).values["top1"]).any()
    np.testing.assert_array_equal(
        run(centered, moved, labels, split).predictions, run(centered, encoded, labels, split).predictions
    )
    expected = weighted_knn(encoded.values[:120], labels[:120], encoded.values[120:])
    np.testing.assert_array_equal(run(plain, encoded, labels, split).predictions, expected)
    assert plain.headings()["top1"] == "kNN"
    assert centered.headings()["top1"] == "kNN (centered)"
    assert PROTOCOLS["knn"].center is False


def test_one_item_per_class_leaves_nothing_to_choose_by():
    encoded, labels, split = make_items(6, test=6)
    with pytest.raises(ValueError, match="no class with two items"):
        run(Knn(), encoded, labels, split)
    low_shot = run(TABLE["low_shot"], encoded, labels, split)
    assert {choice["validation_accuracy"] for choice in low_shot.chosen} == {None}
    assert {choice["learning_rate"] for choice in low_shot.chosen} == {1.0}  # the middle of two, rounded up


def test_knn_choice_is_the_best_of_a_naive_sweep():
    encoded, labels, _ = make_items(150, noise=3.0, test=0)
    ks, temperatures = (1, 3, 30, 500), (0.05, 2.0)
    validation = stratified_split(labels, fraction=0.2, seed=3)
    naive = {}
    for k in ks:
        for temperature in temperatures:
            gallery, query = encoded.values[~validation], encoded.values[validation]
            voted = weighted_knn(gallery, labels[~validation], query, k=k, temperature=temperature)
            naive[k, temperature] = (voted == labels[validation]).mean()
    choice = choose_knn(encoded.values, labels, ks=ks, temperatures=temperatures, seed=3)
    assert len(set(naive.values())) > 2
    assert choice.validation_accuracy == pytest.approx(max(naive.values()))
    assert (choice.k, choice.temperature) == max(naive, key=naive.get)


def test_low_shot_draws_a_fraction_of_every_class():
    labels = np.repeat([0, 1, 2, 5], [200, 50, 9, 1])
    drawn = few_of_each(labels, fraction=0.05, seed=0)
    assert [int(drawn[labels == c].sum()) for c in (0, 1, 2, 5)] == [10, 2, 1, 1]
    assert (drawn != few_of_each(labels, fraction=0.05, seed=1)).any()
    np.testing.assert_array_equal(few_of_each(labels, fraction=1, seed=0), True)
    with pytest.raises(ValueError, match="fraction is 5"):
        few_of_each(labels, fraction=5, seed=0)


def test_low_shot_is_the_linear_probe_on_what_was_drawn():
    encoded, labels, split = make_items(120)
    protocol = TABLE["low_shot"]
    result = run(protocol, encoded, labels, split)
    assert len(result.items) == 2 * 60
    for draw in (0, 1):
        drawn = np.flatnonzero(few_of_each(labels[:120], fraction=0.4, seed=draw))
        probe = linear_probe(encoded.values[drawn], labels[drawn], encoded.values[120:], **vars(protocol.linear), seed=draw)
        expected = probe.predictions == labels[120:]
        np.testing.assert_array_equal(result.values["top1_40%"][result.folds == draw], expected)


def test_the_nonlinear_probe_learns_what_a_linear_one_cannot():
    rng = np.random.default_rng(0)
    corners = rng.choice([-1.0, 1.0], size=(240, 2))
    encoded = Encoded(corners + 0.2 * rng.normal(size=corners.shape))
    labels, split = (corners.prod(axis=1) > 0).astype(np.int32), Split("only", np.arange(160), np.arange(160, 240))
    assert NonLinear(32, 16, 1e-2).run(encoded, labels, ("a", "b"), [split]).values["top1"].mean() > 0.95
    assert TABLE["linear"].run(encoded, labels, ("a", "b"), [split]).values["top1"].mean() < 0.75


def test_speech_retrieval_equals_loops():
    encoded, labels, split = make_items(10, test=30)
    rng = np.random.default_rng(1)
    sounds = encoded.values + 0.7 * rng.normal(size=encoded.values.shape)
    protocol = SpeechRetrieval((1, 5))
    result = protocol.run(dataclasses.replace(encoded, sounds=sounds), labels, CLASSES, [split])
    clips, heard, own = encoded.values[10:], sounds[10:], labels[10:]
    for name, queries, gallery in (("to_speech", clips, heard), ("to_video", heard, clips)):
        for i, query in enumerate(queries):
            near = [query @ other / np.linalg.norm(query) / np.linalg.norm(other) for other in gallery]
            order = sorted(range(30), key=lambda j: -near[j])
            assert [result.values[f"{name}@{k}"][i] for k in (1, 5)] == [i in order[:1], i in order[:5]]
            assert result.values[f"{name}_class@1"][i] == (own[order[0]] == own[i])
    assert set(protocol.headings()) <= set(result.values)
    same = protocol.run(dataclasses.replace(encoded, sounds=encoded.values), labels, CLASSES, [split])
    assert all((value == 1).all() for value in same.values.values())
    collapsed = dataclasses.replace(encoded, values=np.ones((40, 2)), sounds=np.ones((40, 2)))
    assert protocol.run(collapsed, labels, CLASSES, [split]).values["to_speech@5"].sum() == 0
    with pytest.raises(ValueError, match="needs embeddings of sound"):
        check(protocol, encoded, labels, split)


def test_average_precisions_have_an_interval_around_their_mean():
    result = run(Retrieval(), *make_items(120))
    number = result.numbers()["mean_average_precision"]
    rng = np.random.default_rng(5)
    values = result.values["mean_average_precision"]
    naive = np.quantile(values[rng.integers(60, size=(10_000, 60))].mean(axis=1), [0.025, 0.975])
    assert number.value == pytest.approx(values.mean())
    np.testing.assert_allclose([number.low, number.high], naive, atol=0.01)


def test_zero_shot_takes_the_most_similar_row_whatever_its_length_and_order():
    rng = np.random.default_rng(0)
    table, features = rng.normal(size=(6, 12)), rng.normal(size=(2000, 12))
    ranked = zero_shot(features, table)
    by_hand = [max(range(6), key=lambda n: f @ table[n] / np.linalg.norm(table[n])) for f in features[:50]]
    assert ranked[:50, 0].tolist() == by_hand
    np.testing.assert_array_equal(zero_shot(features, table * rng.uniform(0.1, 9, size=(6, 1))), ranked)
    order = rng.permutation(6)
    np.testing.assert_array_equal(order[zero_shot(features, table[order])[:, 0]], ranked[:, 0])
    assert zero_shot(table, table)[:, 0].tolist() == list(range(6))
    hits = (ranked[:, 0] == rng.integers(6, size=2000)).mean()  # a table that knows nothing
    assert abs(hits - 1 / 6) < 3 * np.sqrt(1 / 6 * 5 / 6 / 2000)


def test_zero_shot_names_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="table is empty"):
        ZeroShot().check({"values": (12,)}, np.zeros(2, np.int32), [])
    with pytest.raises(ValueError, match="12 wide, the feature 5"):
        QUICK["zero_shot"].check({"values": (5,)}, np.zeros(2, np.int32), [])
    encoded, labels, split = make_items(60)
    save_table(tmp_path, ["a", "b"], np.ones((2, 12), np.float32))
    with pytest.raises(ValueError, match="no row of class 'c'"):
        ZeroShot(str(tmp_path)).run(encoded, labels, CLASSES, [split])
