"""Blur and color against plain references."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wt_jax.augment.color_blur import blur_matrix, color_blur


def test_it_blurs_then_maps_colors():
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (2, 3, 16, 16, 3), dtype=np.uint8)
    sigma = np.array([1e-3, 1.5], np.float32)
    of_pixel, of_mean = (rng.normal(0, 0.3, (2, 3, 3)).astype(np.float32) for _ in range(2))
    found = jax.jit(color_blur)(clips, sigma, of_pixel, of_mean)
    scaled = clips / 255.0
    matrices = [np.asarray(blur_matrix(jnp.float32(s), 16), np.float64) for s in sigma]
    blurred = np.stack([np.einsum("ih,thwc,jw->tijc", m, clip, m) for m, clip in zip(matrices, scaled, strict=True)])
    mean = scaled.mean((1, 2, 3))
    mapped = np.einsum("bcd,bthwd->bthwc", of_pixel, blurred) + np.einsum("bcd,bd->bc", of_mean, mean)[:, None, None, None]
    np.testing.assert_allclose(found, mapped.clip(0, 1), atol=1e-5)


def test_blur_equals_opencv_away_from_the_border():
    sigma, size = 1.3, 32
    frame = np.random.default_rng(0).random((size, size)).astype(np.float32)
    matrix = np.asarray(blur_matrix(jnp.float32(sigma), size))
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)
    expected = cv2.GaussianBlur(frame, (21, 21), sigma)
    np.testing.assert_allclose((matrix @ frame @ matrix.T)[10:-10, 10:-10], expected[10:-10, 10:-10], atol=1e-5)


@pytest.mark.parametrize("sigma", [1e-3, 0.1, 1.0, 2.0, 5.0])
def test_blur_has_no_denormal_weights(sigma):
    matrix = np.asarray(jax.jit(blur_matrix, static_argnums=1)(jnp.float32(sigma), 112))
    assert matrix.min() >= np.finfo(np.float32).tiny
    assert sigma > 1e-3 or np.abs(matrix - np.eye(112)).max() < 1e-7  # no blur at all
