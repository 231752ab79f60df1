"""Every protocol on stored features: the test's labels reach no choice, and odd sets have an answer or a clear error."""

import dataclasses

import numpy as np
import pytest

from wt_jax.eval.protocols.knn import choose_knn, weighted_knn
from wt_jax.eval.protocols.linear import linear_probe
from wt_jax.eval.protocols.low_shot import few_of_each
from wt_jax.eval.protocols.stored import (
    PREDICTORS,
    STORED,
    AttentiveSettings,
    KnnSettings,
    LinearSettings,
    LowShotSettings,
    StoredSettings,
    Unlabeled,
    judge,
)
from wt_jax.eval.statistics import Result, bootstrap_intervals, join
from wt_jax.eval.validation_split import stratified_part

LINEAR = LinearSettings(learning_rates=(0.1, 1.0), weight_decays=(1e-3,), epochs=20)
SETTINGS = StoredSettings(
    knn=KnnSettings(k=5, ks=(1, 5, 20), temperatures=(0.07, 1.0)),
    linear=LINEAR,
    attentive=AttentiveSettings(learning_rates=(1e-3, 3e-2), weight_decays=(0.01,), epochs=20, batch_size=32, heads=2),
    low_shot=LowShotSettings(shares=(0.02, 0.2), draws=2, linear=LINEAR),
)


def make_items(count, seed=0, classes=6, noise=1.0):
    """Features (count, 8), tokens whose mean they are, and labels in an order of chance."""
    centers = np.random.default_rng(100).normal(size=(classes, 8))
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes).astype(np.int32)
    tokens = (centers[labels][:, None] + noise * rng.normal(size=(count, 3, 8))).astype(np.float16)
    return Unlabeled(tokens.astype(np.float32).mean(axis=1), tokens, np.arange(count)), labels


# Without a search, which would only cost another compilation here.
NO_SEARCH = dataclasses.replace(SETTINGS, attentive=dataclasses.replace(SETTINGS.attentive, learning_rates=(3e-2,)))


def run(protocol, train, train_labels, test, test_labels, settings=SETTINGS):
    return judge(protocol, train, train_labels, test, test_labels, np.arange(len(test_labels)), settings)


@pytest.mark.parametrize("protocol", PREDICTORS)
def test_scrambled_test_labels_leave_every_choice_and_prediction_as_it_is(protocol, monkeypatch):
    (train, labels), (test, test_labels) = make_items(120), make_items(60, seed=1)
    seen = []
    plain = PREDICTORS[protocol]

    def recorded(*arguments):
        seen.append(plain(*arguments))
        return seen[-1]

    monkeypatch.setitem(PREDICTORS, protocol, recorded)
    true = run(protocol, train, labels, test, test_labels)
    scrambled = run(protocol, train, labels, test, np.random.default_rng(0).permutation(test_labels))
    assert len(true.chosen) > 0
    assert true.chosen == scrambled.chosen
    for one, other in zip(*seen, strict=True):
        for suffix, ranked in one.ranked.items():
            np.testing.assert_array_equal(ranked, other.ranked[suffix])
    for name, value in true.values.items():
        assert value.mean() > scrambled.values[name].mean()


def test_a_predictor_has_no_argument_for_test_labels():
    assert {field.name for field in dataclasses.fields(Unlabeled)} == {"values", "tokens", "rows"}


@pytest.mark.parametrize("protocol", STORED)
def test_nan_is_named(protocol):
    (train, labels), (test, test_labels) = make_items(60), make_items(30, seed=1)
    values = test.values.copy()
    values[4, 2] = np.nan
    with pytest.raises(ValueError, match=r"test_features has NaN or infinity in 1 of 30 rows \(4\)"):
        run(protocol, train, labels, dataclasses.replace(test, values=values), test_labels)


@pytest.mark.parametrize("protocol", STORED)
def test_one_class_is_an_error_for_probes_and_right_for_neighbors(protocol):
    (train, labels), (test, test_labels) = make_items(60), make_items(30, seed=1)
    only, only_test = np.full_like(labels, 2), np.full_like(test_labels, 2)
    if protocol in ("knn", "retrieval"):
        values = run(protocol, train, only, test, only_test).values
        assert all((value == 1).all() for value in values.values())
    else:
        with pytest.raises(ValueError, match="only class 2"):
            run(protocol, train, only, test, only_test)


@pytest.mark.parametrize("protocol", STORED)
def test_a_test_class_absent_from_training_counts_as_wrong(protocol):
    (train, labels), (test, test_labels) = make_items(120), make_items(60, seed=1)
    known = np.flatnonzero(labels != 3)
    part = Unlabeled(train.values[known], train.tokens, train.rows[known])
    result = run(protocol, part, labels[known], test, test_labels, NO_SEARCH)
    absent = result.labels == 3
    assert absent.sum() >= 10
    assert all((value[absent] == 0).all() for value in result.values.values())
    assert any(value[~absent].mean() > 0.3 for value in result.values.values())


@pytest.mark.parametrize("protocol", [protocol for protocol in STORED if protocol != "attentive"])
def test_fewer_items_than_k_or_than_a_share_have_an_answer(protocol):
    (train, labels), (test, test_labels) = make_items(12), make_items(9, seed=1)
    result = run(protocol, train, labels, test, test_labels)
    assert all(np.isfinite(value).all() for value in result.values.values())
    if protocol == "retrieval":
        assert (result.values["recall@50"] == 1).all()  # the whole gallery holds every class


def test_one_item_per_class_leaves_nothing_to_choose_by():
    train, labels = make_items(6)
    with pytest.raises(ValueError, match="no class with two items"):
        run("knn", train, labels, train, labels)
    low_shot = run("low_shot", train, labels, train, labels)
    assert {choice["held_out_accuracy"] for choice in low_shot.chosen} == {None}
    assert {choice["learning_rate"] for choice in low_shot.chosen} == {1.0}  # the middle of two, rounded up


def test_knn_choice_is_the_best_of_a_naive_sweep():
    train, labels = make_items(150, noise=3.0)
    ks, temperatures = (1, 3, 30, 500), (0.05, 2.0)
    held_out = stratified_part(labels, fraction=0.2, seed=3)
    naive = {}
    for k in ks:
        for temperature in temperatures:
            gallery, query = train.values[~held_out], train.values[held_out]
            voted = weighted_knn(gallery, labels[~held_out], query, k=k, temperature=temperature)
            naive[k, temperature] = (voted == labels[held_out]).mean()
    choice = choose_knn(train.values, labels, ks=ks, temperatures=temperatures, seed=3)
    assert len(set(naive.values())) > 2
    assert choice.held_out_accuracy == pytest.approx(max(naive.values()))
    assert (choice.k, choice.temperature) == max(naive, key=naive.get)


def test_low_shot_draws_a_share_of_every_class():
    labels = np.repeat([0, 1, 2, 5], [200, 50, 9, 1])
    drawn = few_of_each(labels, share=0.05, seed=0)
    assert [int(drawn[labels == c].sum()) for c in (0, 1, 2, 5)] == [10, 2, 1, 1]
    assert (drawn != few_of_each(labels, share=0.05, seed=1)).any()
    np.testing.assert_array_equal(few_of_each(labels, share=1, seed=0), True)
    with pytest.raises(ValueError, match="share is 5"):
        few_of_each(labels, share=5, seed=0)


def test_low_shot_is_the_linear_probe_on_what_was_drawn():
    (train, labels), (test, test_labels) = make_items(120), make_items(60, seed=1)
    result = run("low_shot", train, labels, test, test_labels)
    assert len(result.items) == 2 * 60
    for draw in (0, 1):
        drawn = few_of_each(labels, share=0.2, seed=draw)
        probe = linear_probe(train.values[drawn], labels[drawn], test.values, **vars(LINEAR), seed=draw)
        np.testing.assert_array_equal(result.values["top1_20%"][result.folds == draw], probe.predictions == test_labels)


def test_intervals_resample_items_not_rows():
    rng = np.random.default_rng(0)
    one = rng.random((80, 2)) < 0.6
    items, fold = np.arange(80), np.zeros(80, int)
    once = bootstrap_intervals(one, items, fold)
    # Three draws that agree about every item tell no more than one.
    thrice = bootstrap_intervals(np.tile(one, (3, 1)), np.tile(items, 3), np.repeat([0, 1, 2], 80))
    np.testing.assert_allclose(thrice, once)
    # Three splits of other items do: the interval of a mean of three is narrower by the root of three.
    apart = bootstrap_intervals(np.tile(one, (3, 1)), np.arange(240), np.repeat([0, 1, 2], 80))
    np.testing.assert_allclose((apart[1] - apart[0]) * np.sqrt(3), once[1] - once[0], rtol=0.15)


def test_a_number_is_the_mean_over_splits_of_their_means():
    def split(values, first):
        count = len(values)
        items = np.arange(first, first + count)
        return Result(items, np.zeros(count, np.int32), np.zeros(count, np.int32), {"top1": np.array(values, float)})

    splits = [split([1, 1, 1, 0], 0), split([0, 1], 10)]
    assert join(splits).numbers()["top1"].value == pytest.approx((0.75 + 0.5) / 2)
    pooled = join(splits, one_fold=True).numbers()["top1"]
    assert pooled.value == pytest.approx(4 / 6)
    assert pooled.low < 4 / 6 < pooled.high


def test_average_precisions_have_an_interval_around_their_mean():
    (train, labels), (test, test_labels) = make_items(120), make_items(60, seed=1)
    result = run("retrieval", train, labels, test, test_labels)
    number = result.numbers()["mean_average_precision"]
    rng = np.random.default_rng(5)
    values = result.values["mean_average_precision"]
    naive = np.quantile(values[rng.integers(60, size=(10_000, 60))].mean(axis=1), [0.025, 0.975])
    assert number.value == pytest.approx(values.mean())
    np.testing.assert_allclose([number.low, number.high], naive, atol=0.01)
