"""Targets and losses of masked models: loops in float64, limits and invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wt_jax.losses.masked import hog_targets, latent_loss, normalize_tokens, pixel_targets, reconstruction_loss

TUBELET = (2, 4, 4)
CLIPS = np.random.default_rng(0).uniform(size=(2, 4, 8, 8, 3)).astype(np.float32)


def boxes(clips):
    """Each tubelet of each clip, (b, n, 2, 4, 4, 3)."""
    count, frames, height, width, _ = clips.shape
    rows = [
        [
            clip[t : t + 2, y : y + 4, x : x + 4]
            for t in range(0, frames, 2)
            for y in range(0, height, 4)
            for x in range(0, width, 4)
        ]
        for clip in clips.astype(np.float64)
    ]
    return np.asarray(rows)


@pytest.mark.parametrize(("normalize", "first"), [("color", False), ("token", True), ("", False)])
def test_pixels_by_loops(normalize, first):
    found = np.asarray(pixel_targets(CLIPS, TUBELET, normalize=normalize, first=first))
    for clip, row in zip(boxes(CLIPS), found, strict=True):
        for box, target in zip(clip, row, strict=True):
            pixels = (box[:1] if first else box).reshape(-1, 3)
            if normalize == "color":
                pixels = np.stack([(c - c.mean()) / (c.std(ddof=1) + 1e-6) for c in pixels.T], axis=1)
            if normalize == "token":
                pixels = (pixels - pixels.mean()) / np.sqrt(pixels.var(ddof=1) + 1e-6)
            np.testing.assert_allclose(target, pixels.ravel(), atol=2e-5)


def test_flat_tokens_are_zero_and_brightness_and_contrast_of_a_color_change_nothing():
    flat = np.broadcast_to(np.float32([0.2, 0.5, 0.9]), CLIPS.shape)
    assert np.abs(pixel_targets(flat, TUBELET)).max() < 0.5  # what rounding leaves, over 1e-6
    changed = CLIPS * np.float32([0.5, 0.3, 0.8]) + np.float32([0.1, 0.2, 0.0])
    np.testing.assert_allclose(pixel_targets(changed, TUBELET), pixel_targets(CLIPS, TUBELET), atol=1e-4)


def naive_hog(frame, cell, bins):
    """Loops over pixels, colors and cells of one frame (H, W, 3): (H / cell, W / cell, 3, bins)."""
    height, width, _ = frame.shape
    padded = np.pad(frame.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode="reflect")
    cells = np.zeros((height // cell, width // cell, 3, bins))
    for y in range(height):
        for x in range(width):
            for c in range(3):
                p = padded[y : y + 3, x : x + 3, c]
                along = p[0, 0] + 2 * p[1, 0] + p[2, 0] - p[0, 2] - 2 * p[1, 2] - p[2, 2]
                down = p[0, 0] + 2 * p[0, 1] + p[0, 2] - p[2, 0] - 2 * p[2, 1] - p[2, 2]
                number = int(np.floor(np.arctan2(along, down) / np.pi * bins)) % bins
                cells[y // cell, x // cell, c, number] += np.hypot(along, down)
    return cells / np.maximum(np.linalg.norm(cells, axis=-1, keepdims=True), 1e-12)


def test_gradients_by_loops_and_their_invariants():
    found = np.asarray(hog_targets(CLIPS, TUBELET, cell=2)).reshape(2, 2, 2, 2, 2, 2, 27)
    for b, t in np.ndindex(2, 2):
        expected = naive_hog(CLIPS[b, 2 * t], 2, 9).reshape(2, 2, 2, 2, 27).transpose(0, 2, 1, 3, 4)
        np.testing.assert_allclose(found[b, t], expected, atol=1e-4)
    assert not np.any(hog_targets(np.full(CLIPS.shape, 0.25, np.float32), TUBELET, cell=2))
    np.testing.assert_allclose(hog_targets(0.5 * CLIPS + 0.25, TUBELET, cell=2), hog_targets(CLIPS, TUBELET, cell=2), atol=1e-3)
    turned = np.asarray(hog_targets(CLIPS[:, :, ::-1, ::-1], TUBELET, cell=2)).reshape(2, 2, 2, 2, 2, 2, 27)
    np.testing.assert_allclose(turned, found[:, :, ::-1, ::-1, ::-1, ::-1], atol=1e-3)


def test_perfect_predictions_cost_nothing_and_errors_are_their_mean_square():
    rng = np.random.default_rng(1)
    predicted, target = (rng.normal(size=(2, 3, 4)).astype(np.float32) for _ in range(2))
    assert not np.any(reconstruction_loss(target, target))
    np.testing.assert_allclose(reconstruction_loss(predicted, target), ((predicted - target) ** 2).mean(axis=(1, 2)), rtol=1e-5)
    assert not np.any(jax.grad(lambda t: reconstruction_loss(predicted, t).sum())(target))


def test_latent_loss_by_loops():
    rng = np.random.default_rng(2)
    predicted, tokens = (rng.normal(size=(3, 4, 5)).astype(np.float32) for _ in range(2))
    weights = np.float32([[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
    target = np.asarray(normalize_tokens(tokens))
    wide = tokens.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(target, expected, atol=1e-5)
    found = latent_loss(predicted, target, weights)
    for b in range(3):
        errors = [np.abs(predicted[b, n] - expected[b, n]).mean() for n in range(4) if weights[b, n]]
        assert float(found[b]) == pytest.approx(np.mean(errors) if errors else 0.0, abs=1e-5)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(latent_loss(predicted[:, order], target[:, order], weights[:, order]), found, rtol=1e-6)
    assert not np.any(latent_loss(target, target, weights))
    # One factor of all of the teacher's channels changes nothing.
    np.testing.assert_allclose(normalize_tokens(3.0 * tokens), target, atol=1e-4)
    assert not np.any(jnp.isnan(found))
