"""log_mel: against an explicit Fourier transform, a click in its column, a tone in its band, silence."""

import jax
import numpy as np
import pytest

from wt_jax.augment.log_mel import log_mel, mel_filters
from wt_jax.specs import AudioView

VIEW = AudioView(seconds=0.25, rate=8000, bands=20, hop=0.010, span=0.025)


def spectrogram(samples, view=VIEW):
    with jax.numpy_dtype_promotion("strict"):
        return np.asarray(jax.jit(log_mel, static_argnums=1)(np.asarray(samples, np.int16), view))


def reference(samples, view):
    """Column by column: window, sums of sines and cosines, bands by a loop, float64."""
    span, hop = round(view.span * view.rate), round(view.hop * view.rate)
    size, highest = 256, 2595 * np.log10(1 + view.rate / 2 / 700)
    edges = [700 * (10 ** (highest * i / (view.bands + 1) / 2595) - 1) for i in range(view.bands + 2)]
    out = np.zeros((len(samples), view.columns, view.bands))
    for row, clip in enumerate(samples):
        for column in range(view.columns):
            part = clip[column * hop : column * hop + span] / 32768
            part = part * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(span) / span))
            for k in range(size // 2 + 1):
                turn = 2 * np.pi * k * np.arange(span) / size
                power = np.sum(part * np.cos(turn)) ** 2 + np.sum(part * np.sin(turn)) ** 2
                f = k * view.rate / size
                for band in range(view.bands):
                    low, peak, high = edges[band : band + 3]
                    weight = (f - low) / (peak - low) if f <= peak else (high - f) / (high - peak)
                    out[row, column, band] += max(weight, 0) * power / span
    out = np.log(out + 1e-6)
    return (out - out.mean(axis=(1, 2), keepdims=True)) / (out.std(axis=(1, 2), keepdims=True) + 1e-5)


def test_agrees_with_an_explicit_transform():
    rng = np.random.default_rng(0)
    times = np.arange(VIEW.samples) / VIEW.rate
    noise = rng.normal(0, 3000, VIEW.samples)
    samples = np.stack([noise, 20000 * np.sin(2 * np.pi * 700 * times)]).astype(np.int16)
    ours = spectrogram(samples)
    assert ours.shape == (2, VIEW.columns, 20)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, reference(samples, VIEW), atol=2e-3)


def test_a_click_appears_in_its_columns_alone():
    samples = np.zeros((1, VIEW.samples), np.int16)
    samples[0, 1000] = 30000  # at 125 ms: columns of 25 ms every 10 ms that hold it, 11 and 12, and with its edge 10
    loud = spectrogram(samples)[0].mean(axis=1)
    quiet = np.sort(loud)[0]
    assert set(np.flatnonzero(loud > quiet + 0.1)) <= {10, 11, 12}
    assert {11, 12} <= set(np.flatnonzero(loud > quiet + 0.1))


@pytest.mark.parametrize("pitch", [300, 1000, 3000])
def test_a_tone_appears_in_its_band(pitch):
    times = np.arange(VIEW.samples) / VIEW.rate
    bands = spectrogram(20000 * np.sin(2 * np.pi * pitch * times)[None])[0].mean(axis=0)
    expected = 21 * np.log10(1 + pitch / 700) / np.log10(1 + 4000 / 700) - 1
    assert abs(bands.argmax() - expected) < 1


def test_silence_is_nothing_and_loudness_is_taken_out():
    assert not spectrogram(np.zeros((1, VIEW.samples))).any()
    noise = np.random.default_rng(0).normal(0, 1, VIEW.samples)
    loud, quiet = spectrogram(np.stack([8000 * noise, 4000 * noise]))
    np.testing.assert_allclose(loud, quiet, atol=0.01)
    np.testing.assert_allclose([loud.mean(), loud.std()], [0, 1], atol=1e-3)


def test_filters_cover_every_frequency_but_the_ends():
    filters = mel_filters(16000, 512, 64)
    assert filters.shape == (257, 64)
    assert filters.min() >= 0
    assert filters.max() <= 1
    assert (filters.sum(axis=0) > 0).all()
    peaks = filters.argmax(axis=0)
    np.testing.assert_allclose(filters.sum(axis=1)[peaks[0] + 1 : peaks[-1]], 1, rtol=1e-5)
