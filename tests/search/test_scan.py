import numpy as np
import pytest
from support.search import SNAPSHOT_DIM as DIM
from support.search import queries, snapshot

from wt_jax.errors import SearchError
from wt_jax.search.engine import Filters, allowed_moments, places_of, recall
from wt_jax.search.scan import Scan, combined
from wt_jax.search.store import Snapshot


def reference(scan: Scan, query: np.ndarray) -> np.ndarray:
    """Cosines after centering in float64."""
    features = scan.snapshot.features[scan.snapshot.rows].astype(np.float64)
    features -= features.mean(axis=0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features @ (query.astype(np.float64) / np.linalg.norm(query))


@pytest.fixture(scope="module")
def scan() -> Scan:
    return Scan(snapshot())


def test_the_ten_best_are_those_of_float64(scan):
    for query in queries():
        hits = scan.search(query, 10)
        wanted = reference(scan, query)
        assert hits.places.tolist() == np.argsort(-wanted, kind="stable")[:10].tolist()
        np.testing.assert_allclose(hits.scores, wanted[hits.places], atol=1e-5)


def test_filters_lose_nothing(scan):
    rng = np.random.default_rng(2)
    for query in queries(10):
        allowed = rng.random(len(scan)) < 0.01
        wanted = np.where(allowed, reference(scan, query), -9)
        assert scan.search(query, 5, allowed).places.tolist() == np.argsort(-wanted, kind="stable")[:5].tolist()
    assert not len(scan.search(queries(1)[0], 5, np.zeros(len(scan), bool)).places)


def test_one_per_video_goes_on_until_there_are_enough():
    # One video holds the hundred best moments.
    features = np.random.default_rng(0).normal(size=(407, DIM)).astype(np.float32)
    features[7:107, 0] += 50
    scan = Scan(snapshot(400, per_video=100, features=features))
    query = np.eye(DIM, dtype=np.float32)[0]
    hits = scan.search(query, 4, one_per_video=True)
    assert sorted(scan.snapshot.video_ids[hits.places].tolist()) == [1, 2, 3, 4]
    assert scan.snapshot.video_ids[hits.places[0]] == 1
    assert np.all(np.diff(hits.scores) <= 0)


def test_counterexamples_push_away(scan):
    example, against = scan.unit(np.array([5])), scan.unit(np.array([77]))
    query = combined(example, against)
    assert scan.search(query, 1).places[0] == 5
    assert scan.scores(query[None], np.array([77]))[0, 0] < scan.scores(example, np.array([77]))[0, 0]
    only_against = combined(np.zeros((0, DIM), np.float32), against)
    assert scan.search(only_against, len(scan)).places[-1] == 77


def test_percentiles_count_random_pairs(scan):
    low, middle, high = scan.percentile(np.array([-0.99, 0.0, 0.99]))
    assert low == 0
    assert abs(middle - 50) < 3
    assert high == 100


def test_what_is_unlike_everything_is_told_from_what_is_alike():
    # Each moment has a near copy in another video.
    rng = np.random.default_rng(0)
    half = rng.normal(size=(200, DIM))
    features = np.concatenate([np.zeros((7, DIM)), half, half + 0.05 * rng.normal(size=half.shape)]).astype(np.float32)
    scan = Scan(snapshot(400, features=features))
    assert 0.9 < scan.least_alike < 1
    assert scan.search(scan.unit(np.array([3]))[0], 1).scores[0] >= scan.least_alike
    assert scan.search(queries(1)[0], 1).scores[0] < scan.least_alike


def test_filters_choose_videos(scan):
    def passing(**rules) -> set[int]:
        return set(scan.snapshot.video_ids[allowed_moments(scan.snapshot, Filters(**rules))].tolist())

    every = set(scan.snapshot.videos)
    assert allowed_moments(scan.snapshot, Filters()) is None
    assert passing(folders=("/v/a",)) == {i for i in every if i % 2 == 0}
    assert passing(folders=("/v/a/", "/v/b")) == every
    assert passing(folders=("/v/a/2",)) == set()  # a folder, not any prefix
    assert passing(labels=("class0", "class3")) == {i for i in every if i % 5 in (0, 3)}
    assert passing(columns={"person": ("p1",)}) == {i for i in every if i % 3 == 1}
    assert passing(duration=(10.0, 12.0)) == {10, 11, 12}
    assert passing(changed=(None, 3e-9)) == {1, 2, 3}
    assert passing(videos=(4, 9), not_videos=(9,)) == {4}


def test_moments_are_named_by_their_rows(scan):
    assert places_of(scan.snapshot, [7, 9]).tolist() == [0, 2]
    for gone in (3, 10**9):
        with pytest.raises(SearchError, match=f"moment {gone} is not in the index any more"):
            places_of(scan.snapshot, [7, gone])


def test_recall_is_the_evaluations(scan):
    from wt_jax.eval.similarity import nearest

    shot = snapshot(300)
    found = recall(Scan(shot), "person")
    videos = list(shot.videos.values())
    means = np.stack([shot.features[shot.rows[shot.video_ids == v.id]].mean(axis=0, dtype=np.float64) for v in videos])
    labels, people = np.array([v.label for v in videos]), np.array([v.columns["person"] for v in videos])
    right = []
    for person in np.unique(people):
        mine = people == person
        best = nearest(means[mine], means[~mine], 1, center=True)[:, 0]
        right += (labels[~mine][best] == labels[mine]).tolist()
    assert found[1] == np.mean(right)
    with pytest.raises(SearchError, match="no column 'city'"):
        recall(Scan(shot), "city")


def test_an_empty_index_answers():
    scan = Scan(Snapshot(1, {}, {}, (), *(np.zeros(0, np.int64),) * 2, np.zeros((0, 2)), np.zeros((0, DIM), np.float32)))
    assert not len(scan.search(queries(1)[0], 5).places)
    assert scan.percentile(np.zeros(1)).tolist() == [0.0]
