"""masks: counts are fixed, parts are disjoint, draws depend on the video alone, and blocks are blocks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wt_jax.augment.masks import BlockSpec, block_masks, multi_block_masks, token_masks, tube_masks

GRID = (4, 8, 8)
KEY = jax.random.key(3)
VIDEOS = np.arange(6, dtype=np.int32)
MULTI = {"grid": (2, 14, 14), "blocks": 8, "area": 0.15, "context": 0.24, "targets": 0.5}
MAKERS = {
    "token": lambda key, videos: token_masks(key, videos, 50, 20),
    "tube": lambda key, videos: tube_masks(key, videos, GRID, 48),
    "block": lambda key, videos: block_masks(key, videos, GRID, 100),
    "cube": lambda key, videos: block_masks(key, videos, GRID, 100, BlockSpec(duration=(1, 4))),
    "multi": lambda key, videos: multi_block_masks(key, videos, **MULTI),
}


def compiled(make, videos, key=KEY):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        return jax.tree.map(np.asarray, jax.jit(make)(key, jnp.asarray(videos)))


def draw(name, videos=VIDEOS, key=KEY):
    return compiled(MAKERS[name], videos, key)


@pytest.mark.parametrize("name", MAKERS)
def test_masks_depend_on_key_and_video_alone(name):
    whole = draw(name)
    part = draw(name, VIDEOS[[4, 1]])
    for ours, theirs in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_array_equal(ours[[4, 1]], theirs)
    first = jax.tree.leaves(whole)[0]
    assert all((first[one] != first[other]).any() for one, other in itertools.combinations(range(len(VIDEOS)), 2))
    assert (jax.tree.leaves(draw(name, key=jax.random.key(4)))[0] != first).any()


@pytest.mark.parametrize(("name", "tokens", "masked"), [("token", 50, 20), ("tube", 256, 192)])
def test_visible_and_masked_are_all_tokens_in_order(name, tokens, masked):
    split = draw(name)
    assert split.masked.shape == (6, masked)
    assert split.visible.shape == (6, tokens - masked)
    assert split.masked.dtype == split.visible.dtype == np.int32
    for visible, hidden in zip(*split, strict=True):
        assert sorted([*visible, *hidden]) == list(range(tokens))
        assert (np.diff(visible) > 0).all()
        assert (np.diff(hidden) > 0).all()


def test_tubes_do_not_change_in_time():
    masked = draw("tube").masked.reshape(6, 4, 48)
    np.testing.assert_array_equal(masked, masked[:, :1] + 64 * np.arange(4)[:, None])


def test_every_token_is_masked_equally_often():
    split = compiled(lambda key, videos: token_masks(key, videos, 20, 5), np.arange(4000))
    counts = np.bincount(split.masked.ravel(), minlength=20)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000 * 0.75)


def test_nothing_and_everything_may_be_masked():
    assert token_masks(KEY, VIDEOS, 10, 0).masked.shape == (6, 0)
    assert token_masks(KEY, VIDEOS, 10, 10).visible.shape == (6, 0)
    for wrong in (-1, 11):
        with pytest.raises(ValueError, match="number of tokens"):
            token_masks(KEY, VIDEOS, 10, wrong)
    with pytest.raises(ValueError, match="number of tokens"):
        block_masks(KEY, VIDEOS, GRID, 257)


@pytest.mark.parametrize("name", ["block", "cube"])
def test_block_masks_have_exactly_the_count(name):
    np.testing.assert_array_equal(draw(name).sum(axis=1), 100)
    counts = jnp.array([0, 4, 64, 100, 101, 256], jnp.int32)
    spec = BlockSpec(duration=(1, 4)) if name == "cube" else BlockSpec()
    mask = np.asarray(jax.jit(lambda counts: block_masks(KEY, VIDEOS, GRID, counts, spec))(counts))
    assert mask.sum(axis=1).tolist() == counts.tolist()


def test_blocks_without_a_duration_are_tubes_and_those_with_one_end():
    mask = draw("block").reshape(6, 4, 64)
    np.testing.assert_array_equal(mask, np.broadcast_to(mask[:, :1], mask.shape))
    cubes = draw("cube").reshape(6, 4, 64)
    assert (cubes != cubes[:, :1]).any()


def test_one_block_is_a_rectangle():
    spec = BlockSpec(area=(0.25, 0.25), aspect=(1.0, 1.0), duration=(2, 2), blocks=1)
    masks = compiled(lambda key, videos: block_masks(key, videos, GRID, 2 * 16, spec), np.arange(40))
    for mask in masks.reshape(40, *GRID):
        t, h, w = np.nonzero(mask)
        assert [np.ptp(axis) + 1 for axis in (t, h, w)] == [2, 4, 4]


def test_blocks_are_whole_where_single_tokens_are_not():
    """Neighbors of masked tokens are masked far more often than chance."""
    mask = compiled(lambda key, videos: block_masks(key, videos, (1, 14, 14), 98), np.arange(200)).reshape(200, 14, 14)
    assert (mask[:, 1:] & mask[:, :-1]).mean() > 1.5 * 0.25


def test_context_and_targets():
    split = draw("multi", np.arange(200))
    assert split.context.shape == (200, int(0.24 * 392))
    assert split.targets.shape == split.weights.shape == (200, 196)
    assert split.weights.min() == 1  # enough of both
    for context, targets in zip(split.context, split.targets, strict=True):
        assert not set(context) & set(targets)
        assert (np.diff(context) > 0).all()
        assert (np.diff(targets) > 0).all()


def naive_union(rng, h, w, blocks, area, aspect):
    """The rules of V-JEPA in plain loops: bool (h, w), True where a target is."""
    ratio, size = rng.uniform(*aspect), int(h * w * area)
    rows, columns = min(round((size * ratio) ** 0.5), h), min(round((size / ratio) ** 0.5), w)
    union = np.zeros((h, w), bool)
    for _ in range(blocks):
        top, left = rng.integers(h - rows + 1), rng.integers(w - columns + 1)
        union[top : top + rows, left : left + columns] = True
    return union


@pytest.mark.parametrize(("blocks", "area"), [(8, 0.15), (2, 0.7)])
def test_tokens_are_targets_as_often_as_by_the_rules(blocks, area):
    """With all but one token kept, the targets of weight 1 and the context tell the union: compared with loops per place."""
    options = {"blocks": blocks, "area": area, "context": 1 / 64, "targets": 63 / 64, "tries": 1}
    split = compiled(lambda key, videos: multi_block_masks(key, videos, (1, 8, 8), **options), np.arange(3000))
    ours = np.zeros((3000, 64))
    np.put_along_axis(ours, split.targets, split.weights, axis=1)
    rng = np.random.default_rng(0)
    theirs = np.stack([naive_union(rng, 8, 8, blocks, area, (0.75, 1.5)).ravel() for _ in range(3000)])
    full = theirs.all(axis=1)  # one of whose tokens is the context
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0) - full.mean() / 64, atol=0.05)
    assert abs(ours.mean() - (theirs.mean() - full.mean() / 64)) < 0.01


def test_too_small_a_union_is_filled_up_with_weight_0():
    def made(**options):
        return compiled(lambda key, videos: multi_block_masks(key, videos, (1, 8, 8), **options), VIDEOS)

    split = made(blocks=1, area=0.1, context=0.1, targets=0.5)
    assert split.targets.shape == (6, 32)
    assert ((split.weights.sum(axis=1) > 3) & (split.weights.sum(axis=1) < 10)).all()
    split = made(blocks=9, area=1.0, context=0.2, targets=0.7)
    assert split.weights.all()
    assert split.context.shape == (6, 12)  # of the union, as nothing else is there
    with pytest.raises(ValueError, match="together at most all 64"):
        made(blocks=1, area=0.1, context=0.5, targets=0.6)
