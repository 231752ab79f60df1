"""warp: the identity is exact, sampling agrees with loops, and nothing outside the view is ever shown."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wt_jax.augment.warp import (
    AFFINE,
    PERSPECTIVES,
    AffineRange,
    affine_matrices,
    draw_affine,
    draw_perspective,
    perspective_matrices,
    warp,
)

RANGE, SIZE, VIEW = AffineRange(), 10, 18
KEY = jax.random.key(0)


def clips(count=3, frames=2, side=VIEW, seed=0):
    return np.random.default_rng(seed).random((count, frames, side, side, 3), np.float32)


def warped(frames, matrices, size=SIZE):
    with jax.numpy_dtype_promotion("strict"):
        return np.asarray(jax.jit(warp, static_argnums=2)(frames, matrices, size))


def loops(frames, matrices, size):
    """Four neighbors of each point, in plain Python."""
    height, width = frames.shape[2:4]
    out = np.zeros((len(frames), frames.shape[1], size, size, 3))
    for b, matrix in enumerate(np.asarray(matrices, np.float64)):
        for i in range(size):
            for j in range(size):
                x, y, z = matrix @ [j - (size - 1) / 2, i - (size - 1) / 2, 1.0]
                x, y = x / z + (width - 1) / 2, y / z + (height - 1) / 2
                left, top = math.floor(x), math.floor(y)
                for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    weight = (1 - abs(y - top - dy)) * (1 - abs(x - left - dx))
                    out[b, :, i, j] += weight * frames[b, :, min(top + dy, height - 1), min(left + dx, width - 1)]
    return out


def test_no_change_is_the_middle_square_exactly():
    frames = clips()
    matrices = affine_matrices(jnp.zeros((3, 5)), RANGE, SIZE)
    np.testing.assert_array_equal(warped(frames, matrices), frames[:, :, 4:14, 4:14])
    np.testing.assert_array_equal(warped(frames, matrices, VIEW), frames)


def test_sampling_agrees_with_loops():
    frames = clips(4)
    affine = affine_matrices(draw_affine(KEY, jnp.arange(4), RANGE), RANGE, SIZE)
    np.testing.assert_allclose(warped(frames, affine), loops(frames, affine, SIZE), atol=1e-5)
    perspective = perspective_matrices(jnp.array([1, 2, 3, 4]), VIEW, SIZE)
    np.testing.assert_allclose(warped(frames, perspective), loops(frames, perspective, SIZE), atol=1e-4)


def test_a_warp_and_its_inverse_return_the_center():
    side = 64
    at = np.linspace(0, 3, side, dtype=np.float32)
    smooth = np.broadcast_to((np.sin(at)[:, None] * np.cos(at))[None, None, :, :, None], (2, 1, side, side, 3))
    matrices = affine_matrices(draw_affine(KEY, jnp.arange(2), RANGE), RANGE, 48)
    there = warped(smooth, matrices, 48)
    back = warped(there, jnp.linalg.inv(matrices), 16)
    np.testing.assert_allclose(back, smooth[:, :, 24:40, 24:40], atol=1e-2)


def test_what_is_drawn_is_uniform_and_depends_on_the_video_alone():
    draws = np.asarray(draw_affine(KEY, jnp.arange(2000), RANGE))
    assert draws.shape == (2000, len(AFFINE))
    assert np.abs(draws).max() <= 1
    np.testing.assert_allclose(draws.mean(axis=0), 0, atol=0.06)
    np.testing.assert_allclose(draws.var(axis=0), 1 / 3, atol=0.03)
    assert np.abs(np.corrcoef(draws, rowvar=False) - np.eye(5)).max() < 0.1
    np.testing.assert_array_equal(np.asarray(draw_affine(KEY, jnp.array([7, 3]), RANGE)), draws[[7, 3]])
    kinds = np.asarray(draw_perspective(KEY, jnp.arange(2000)))
    assert np.abs(np.bincount(kinds, minlength=5) - 400).max() < 5 * math.sqrt(400 * 0.8)


def test_each_draw_changes_what_it_is_named_for():
    def matrix(**draw):
        values = [[draw.get(name, 0.0) for name in AFFINE]]
        return np.asarray(affine_matrices(jnp.array(values), RANGE, SIZE))[0]

    turned = matrix(angle=1.0)
    np.testing.assert_allclose(turned[0, 0], math.cos(math.radians(20)), rtol=1e-6)
    np.testing.assert_allclose(turned[:2, :2] @ turned[:2, :2].T, np.eye(2), atol=1e-6)
    np.testing.assert_allclose(matrix(log_scale=-1.0)[:2, :2], np.eye(2) / 1.2, rtol=1e-6)
    np.testing.assert_allclose(matrix(shear=1.0)[:2, :2], [[1, 0.1], [0, 1]], rtol=1e-6)
    np.testing.assert_allclose(matrix(shift_x=1.0, shift_y=-1.0)[:, 2], [0.5, -0.5, 1], rtol=1e-6)


def test_nothing_outside_the_view_is_shown():
    """For the whole range, the corners of all combinations and 2,000 draws among them."""
    size, view = 56, 101  # 1.8 times
    RANGE.check(size, view)
    extremes = np.array(np.meshgrid(*[[-1.0, 1.0]] * 5)).reshape(5, -1).T.astype(np.float32)
    draws = np.concatenate([extremes, np.asarray(draw_affine(KEY, jnp.arange(2000), RANGE))])
    matrices = np.asarray(affine_matrices(jnp.asarray(draws), RANGE, size))
    half = (size - 1) / 2
    corners = np.array([[x, y, 1] for x in (-half, half) for y in (-half, half)]).T
    reached = np.abs((matrices @ corners)[:, :2]).max()
    assert reached <= RANGE.reach(size) + 1e-3
    assert reached > 0.97 * RANGE.reach(size)
    with pytest.raises(ValueError, match=r"take a view of \d+ pixels or more"):
        RANGE.check(size, round(1.6 * size))


def test_perspectives_show_the_whole_far_side_and_no_border():
    half, far = (SIZE - 1) / 2, (VIEW - 1) / 2
    matrices = np.asarray(perspective_matrices(jnp.arange(5), VIEW, SIZE), np.float64)
    corners = np.array([[x, y, 1] for y in (-half, half) for x in (-half, half)]).T
    shown = matrices @ corners
    shown = shown[:, :2] / shown[:, 2:]
    assert np.abs(shown).max() <= far + 1e-4
    left, right, up, down = (shown[PERSPECTIVES.index(name)] for name in PERSPECTIVES[1:])
    np.testing.assert_allclose(left[1], [-far, -0.6 * far, far, 0.6 * far], atol=1e-4)
    np.testing.assert_allclose(right[1], [-0.6 * far, -far, 0.6 * far, far], atol=1e-4)
    np.testing.assert_allclose(up[0], [-far, far, -0.6 * far, 0.6 * far], atol=1e-4)
    np.testing.assert_allclose(down[0], [-0.6 * far, 0.6 * far, -far, far], atol=1e-4)
    none = np.asarray(perspective_matrices(jnp.array([0]), VIEW, VIEW))
    np.testing.assert_allclose(none[0], np.eye(3), atol=1e-6)


def test_left_and_right_are_mirror_images():
    frames = clips(1)
    left, right, up, down = (warped(frames, perspective_matrices(jnp.array([kind]), VIEW, SIZE)) for kind in (1, 2, 3, 4))
    mirrored = warped(frames[:, :, :, ::-1], perspective_matrices(jnp.array([2]), VIEW, SIZE))[:, :, :, ::-1]
    np.testing.assert_allclose(left, mirrored, atol=1e-4)
    turned = warped(frames[:, :, ::-1], perspective_matrices(jnp.array([4]), VIEW, SIZE))[:, :, ::-1]
    np.testing.assert_allclose(up, turned, atol=1e-4)
    assert np.abs(left - right).max() > 0.1
    assert np.abs(up - down).max() > 0.1
