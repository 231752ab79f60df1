"""Log-mel spectrograms of sound on the device: pure, jittable, the same for every clip wherever it is in the batch.

Power of a Hann-windowed Fourier transform in triangular bands of equal width on HTK's mel scale, 2595 log10(1 + f / 700), from
0 to half the rate; log(x + 1e-6), and standardized per clip.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from wt_jax.specs import AudioView

_FLOOR = 1e-6  # added to the power in a band: -60 dB of a tone at full scale


def log_mel(samples: Array, view: AudioView) -> Array:
    """The spectrogram of a view's samples.

    Args:
      samples: (B, view.samples) int16.
      view: rate, bands, hop and span.

    Returns:
      (B, view.columns, bands) float32, of mean 0 and variance 1 over each clip; all 0 for silence. Column i covers samples
      i * hop to i * hop + span.
    """
    span, hop = round(view.span * view.rate), round(view.hop * view.rate)
    at = hop * np.arange(view.columns)[:, None] + np.arange(span)
    columns = samples.astype(jnp.float32)[:, at] / 32768.0 * np.hanning(span + 1)[None, None, :-1].astype(np.float32)
    size = _transform_size(view)
    spectrum = jnp.fft.rfft(columns, size)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    # Not in the halved precision that accelerators take by default: the logarithm would show it.
    energy = jnp.matmul(power, mel_filters(view.rate, size, view.bands), precision="highest")
    bands = jnp.log1p(energy / (span * _FLOOR))  # log(x + floor) but for a constant, which is taken out: 0 for silence
    centered = bands - jnp.mean(bands, axis=(1, 2), keepdims=True)
    return centered / (jnp.sqrt(jnp.mean(jnp.square(centered), axis=(1, 2), keepdims=True)) + 1e-5)


def mel_filters(rate: int, size: int, bands: int) -> np.ndarray:
    """(size // 2 + 1, bands) float32: triangles over the bins of a transform, each from its neighbors' peaks to its own, 1.

    A band that is narrower than a bin may hold none, and is then 0 throughout: choose fewer bands or a longer span.
    """
    edges = 700.0 * (10.0 ** (np.linspace(0.0, 2595.0 * np.log10(1.0 + rate / 1400.0), bands + 2) / 2595.0) - 1.0)
    bins = np.arange(size // 2 + 1)[:, None] * rate / size
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def _transform_size(view: AudioView) -> int:
    """The power of two from the span on."""
    return 1 << (round(view.span * view.rate) - 1).bit_length()
