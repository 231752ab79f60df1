"""Passes of networks with BatchNorm: which clips are normalized together, and what a key shares with its query."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wt_jax.bench.figures import Normalized, shared
from wt_jax.methods.forward import apply_clips, shuffle


def test_clips_are_normalized_one_by_one_or_all_together():
    rng = np.random.default_rng(0)
    clips = [jnp.asarray(rng.normal(mean, 1.0, (8, 3)), jnp.float32) for mean in (-2.0, 4.0)]
    network = Normalized()
    variables = network.init(jax.random.key(0), clips[0], False)
    found, state = apply_clips(network, variables, clips, separate=True)
    np.testing.assert_allclose([x.mean(0) for x in found], np.zeros((2, 3)), atol=1e-5)
    first, second = (np.asarray(x).mean(0) for x in clips)
    # One update of the running statistics after the other.
    (kept,) = state["batch_stats"].values()
    np.testing.assert_allclose(kept["mean"], 0.9 * (0.1 * first) + 0.1 * second, rtol=1e-5)
    found, state = apply_clips(network, variables, clips, separate=False)
    np.testing.assert_allclose(np.concatenate(found).mean(0), np.zeros(3), atol=1e-5)
    assert np.abs(found[0].mean(0)).min() > 0.5
    (kept,) = state["batch_stats"].values()
    np.testing.assert_allclose(kept["mean"], 0.1 * np.concatenate(clips).mean(0), rtol=1e-5)


@pytest.mark.parametrize(("count", "parts"), [(16, 4), (16, 2), (8, 4)])
def test_shuffled_parts_have_rows_of_all_parts_and_are_put_back(count, parts):
    rows = jnp.arange(2.0 * count).reshape(count, 2) // 2
    shuffled = shuffle(rows, parts)
    size = count // parts
    for part in np.asarray(shuffled[:, 0], int).reshape(parts, size):
        old = np.bincount(part // size, minlength=parts)
        assert old.max() <= -(-size // parts)
    np.testing.assert_array_equal(shuffle(shuffled, size), rows)


def test_a_key_shares_no_statistics_with_its_query_once_it_is_shuffled():
    leak, after = shared(8, 1), shared(8, 8)
    assert leak > 0.8
    assert after < 0.25  # a video is itself an eighth of both parts
