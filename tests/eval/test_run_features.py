"""The evaluation of a run on its own videos: metrics while it trains, protocols at its end, and what is refused before."""

import dataclasses

import numpy as np
import pytest

from wt_jax.data.records import VideoList
from wt_jax.errors import ConfigError
from wt_jax.eval import run_features
from wt_jax.eval.config import EvalConfig
from wt_jax.eval.features.extract import Features
from wt_jax.eval.online import BEST_BY, METRICS, Metric, make_evaluators
from wt_jax.eval.protocols.knn import Knn, weighted_knn
from wt_jax.eval.protocols.linear import Linear, linear_probe
from wt_jax.eval.protocols.retrieval import Retrieval
from wt_jax.eval.run_features import RunFeatures, open_run_videos
from wt_jax.eval.statistics import top1
from wt_jax.experiment import default_config, resolve

CLASSES = ("a", "b", "c", "d")


def make_list(count, first=0, classes=CLASSES, **columns):
    paths = tuple(f"{first + index}.mp4" for index in range(count))
    labels = (np.arange(count) % len(classes)).astype(np.int32) if classes else np.full(count, -1, np.int32)
    return VideoList(paths, labels, classes, columns)


def features_of(videos, seed=0, noise=1.5, missing=()):
    rows = np.setdiff1d(np.arange(len(videos)), missing)
    centers = np.random.default_rng(100).normal(size=(len(CLASSES), 16))
    noise = noise * np.random.default_rng(seed).normal(size=(len(rows), 16))
    values = (centers[videos.labels[rows]] + noise).astype(np.float32)
    return Features(values, rows.astype(np.int32), videos.labels[rows], np.zeros((len(rows), 1, 2), np.float32))


def opened(monkeypatch, train, test=None, **settings):
    config = default_config("weak_teacher")
    config.data.train, config.data.test = "train.csv", "" if test is None else "test.csv"
    config.eval.update(settings)
    monkeypatch.setattr(run_features, "open_videos", lambda *_: test)
    return open_run_videos(resolve(config), train)


@pytest.fixture
def two_lists(monkeypatch):
    return opened(monkeypatch, make_list(48), make_list(24, first=100))


def test_two_lists_are_one_split(two_lists):
    train, test = features_of(two_lists.train), features_of(two_lists.test, seed=1, missing=(3, 7))
    result = RunFeatures(two_lists, train, test).run(Knn(ks=()))
    np.testing.assert_array_equal(result.items, 48 + np.setdiff1d(np.arange(24), (3, 7)))
    np.testing.assert_array_equal(result.labels, test.labels)
    np.testing.assert_array_equal(result.predictions, weighted_knn(train.values, train.labels, test.values))


def test_left_out_groups_are_one_test_set(monkeypatch):
    groups = tuple(np.repeat(["ann", "bob", "eve"], [12, 10, 8]))
    videos = opened(monkeypatch, make_list(30, who=groups), leave_out="who")
    found = features_of(videos.train)
    values, labels = found.values, videos.train.labels
    voted, fitted, hits = (np.empty(30) for _ in range(3))
    for name in ("ann", "bob", "eve"):
        test = np.asarray(groups) == name
        voted[test] = weighted_knn(values[~test], labels[~test], values[test], k=5)
        fitted[test] = linear_probe(values[~test], labels[~test], values[test]).predictions
        gallery, query = values[~test] - values[~test].mean(0), values[test] - values[test].mean(0)
        hits[test] = weighted_knn(gallery, labels[~test], query, k=1) == labels[test]
    features = RunFeatures(videos, found, None)
    for protocol, number, expected in (
        (Knn(k=5, ks=()), "top1", top1(voted, labels)),
        (Linear(), "top1", top1(fitted, labels)),
        (Retrieval(), "recall@1", hits.mean()),
    ):
        result = features.run(protocol)
        assert result.numbers()[number].value == pytest.approx(expected)
        assert sorted(result.items) == list(range(30))


def test_a_group_never_finds_itself(monkeypatch):
    # Each group is far from the others and half of its labels are its own: only leakage could find those.
    groups = tuple(np.repeat(["x", "y"], 6))
    train = dataclasses.replace(make_list(12, who=groups), labels=np.repeat([0, 1], 6).astype(np.int32))
    train.labels[[0, 6]] = 2
    videos = opened(monkeypatch, train, leave_out="who")
    values = np.repeat(np.eye(2, dtype=np.float32), 6, axis=0)
    found = Features(values, np.arange(12, dtype=np.int32), train.labels, np.zeros((12, 1, 2), np.float32))
    result = RunFeatures(videos, found, None).run(Knn(k=1, ks=()))
    assert not result.values["top1"][result.labels != 2].any()


@pytest.mark.parametrize(
    ("train", "test", "settings", "message"),
    [
        (make_list(8), make_list(8, 100, ("w", "x", "y", "z")), {}, "have no class in common"),
        (make_list(8, classes=("a",)), make_list(8, 100, ("a",)), {}, "protocols: linear: .* only class 0"),
        (make_list(8), make_list(1, 100), {}, "protocols: retrieval: the test set of test has one item"),
        (make_list(8), None, {"leave_out": "who"}, r"leave_out of train\.csv: 'who' is no column"),
        (make_list(8, who=("x",) * 8), None, {"leave_out": "who"}, "at least two"),
    ],
)
def test_what_cannot_work_is_found_before_the_training(monkeypatch, train, test, settings, message):
    with pytest.raises(ConfigError, match=message):
        opened(monkeypatch, train, test, **settings)


def test_only_the_protocols_that_read_features_suit_a_run():
    config = default_config("weak_teacher")
    config.eval.protocols = ("knn", "finetune")
    with pytest.raises(ConfigError, match=r"config\.eval\.protocols: unknown name 'finetune'"):
        resolve(config)
    config.eval.protocols = ("nn",)
    with pytest.raises(ConfigError, match="did you mean 'knn'"):
        resolve(config)


class Reader:
    """In place of one that extracts features; counts what it was asked."""

    def __init__(self, videos):
        self.videos, self.states = videos, []

    def read(self, state):
        self.states.append(state)
        return RunFeatures(self.videos, features_of(self.videos.train), features_of(self.videos.test, seed=1))


def test_each_metric_is_an_evaluator_with_its_period(two_lists, monkeypatch):
    def spread(features, settings):
        return {"spread": float(features.train.values.std())}

    monkeypatch.setitem(METRICS, "spread", Metric(spread, labels=False))
    reader = Reader(two_lists)
    evaluators = make_evaluators(EvalConfig(online=("knn", "spread")), reader, every=7)
    assert {name: evaluator.every for name, evaluator in evaluators.items()} == {"knn": 7, "spread": 7}
    numbers = {name: value for evaluator in evaluators.values() for name, value in evaluator.run("state").items()}
    assert numbers.keys() == {BEST_BY, "spread"}
    assert reader.states == ["state", "state"]
    result = reader.read("state").run(Knn(ks=()))
    assert numbers["knn_top1"] == pytest.approx(result.numbers()["top1"].value)
    assert make_evaluators(EvalConfig(), reader, every=0) == {}
    with pytest.raises(ConfigError, match=r"config\.eval\.online: unknown name 'kn' \(did you mean 'knn'\?\)"):
        make_evaluators(EvalConfig(online=("kn",)), reader, every=7)


def test_without_labels_only_the_metrics_that_need_none_are_left(monkeypatch):
    videos = opened(monkeypatch, make_list(8, classes=()), make_list(8, 100, ()))
    assert videos.splits == ()
    monkeypatch.setitem(METRICS, "count", Metric(lambda features, settings: {"count": 1.0}, labels=False))
    assert list(make_evaluators(EvalConfig(online=("knn", "count")), Reader(videos), every=1)) == ["count"]
