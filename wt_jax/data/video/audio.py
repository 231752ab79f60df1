"""Reads a stretch of a video's audio track: mono, resampled, and placed by presentation time.

The place is exact to a sample, or to the unit of the container's time stamps where that is coarser (a millisecond in Matroska).
What is read depends on the file and the stretch alone. Decoders of compressed audio need some packets before the first whose
output is right, so decoding begins half a second early, and what it gives of that time is dropped. Where the track has no
samples (before its start, after its end, in a gap), they are 0; frames of which the time stamp says that they follow each
other but for the rounding of its unit are joined without a seam.

Built on PyAV (https://pyav.basswood-io.com) like `wt_jax.data.video.decode`; FFmpeg's resampler, whose delay is compensated.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
import av.container
import av.error
import numpy as np

from wt_jax.data.video.decode import TOLERANT
from wt_jax.errors import VideoError

_EARLY = Fraction(1, 2)  # seconds; MP3's reservoir reaches back a quarter, Opus asks for 80 ms
_MARGIN = Fraction(1, 50)  # seconds around the stretch, for the resampler's filter
_TICKS = 2  # of the time base, by which the time stamp of a frame that follows another may be off


def read_audio(source: str | bytes, start: Fraction, count: int, rate: int) -> np.ndarray:
    """Samples of the first audio track of a video.

    Args:
      source: a path, or the content of a video file.
      start: presentation time of the first sample, in seconds, as the container counts.
      count: number of samples, 1 or more.
      rate: samples per second; the track is resampled to it.

    Returns:
      int16 [count], the mean of the channels.

    Raises:
      VideoError: there is no such file, it has no audio track, or the track cannot be decoded.
    """
    name = f"video of {len(source)} bytes" if isinstance(source, bytes) else source
    with _opened(source, name) as (container, stream):
        own = stream.codec_context.sample_rate
        if not own:
            raise VideoError(f"{name}: the sample rate of its audio track is unknown")
        # Whole numbers of samples at both rates, so that the resampled grid begins at `start` or half a sample off.
        period = own // math.gcd(own, rate)
        early = math.ceil(_MARGIN * own / period) * period
        first = round(start * own) - early
        length = math.ceil(Fraction(count * own, rate)) + 2 * early
        samples = np.zeros(length, np.float32)
        container.seek(_before(Fraction(first, own), stream), stream=stream)
        if not _fill(samples, first, own, _frames(container, stream)):
            # The seek led behind the stretch, as in some containers without an index.
            with _opened(source, name) as (container, stream):
                samples[:] = 0
                _fill(samples, first, own, _frames(container, stream), whole=True)
    samples = _resampled(samples, own, rate)[early * rate // own :][:count]
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def voiced_fraction(samples: np.ndarray, rate: int, level: float) -> float:
    """The fraction of whole hundredths of a second whose root mean square is above a level.

    Args:
      samples: int16 [count].
      rate: samples per second.
      level: decibels relative to full scale, a square wave of the largest amplitude.
    """
    length = max(1, rate // 100)
    parts = samples[: max(len(samples) // length, 1) * length].reshape(-1, min(length, len(samples))) / 32768.0
    return float(np.mean(np.mean(np.square(parts), axis=1) > 10.0 ** (level / 10)))


@contextmanager
def _opened(source: str | bytes, name: str) -> Iterator[tuple[av.container.InputContainer, av.AudioStream]]:
    """The open container and its first audio track; whatever goes wrong inside becomes a VideoError."""
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}", **TOLERANT) as container:
            streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
            if not streams:
                raise VideoError(f"{name}: it has no audio track that can be decoded")
            streams[0].codec_context.thread_count = 1
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise VideoError(f"{name}: {error.strerror}") from error


def _before(time: Fraction, stream: av.AudioStream) -> int:
    """Where decoding begins for what is heard from `time` on, in the stream's time base."""
    base = stream.time_base or Fraction(1, stream.rate)
    return max(int((time - _EARLY) / base), stream.start_time or 0)


def _fill(samples: np.ndarray, first: int, rate: int, frames: Iterator[av.AudioFrame], whole: bool = False) -> bool:
    """Writes what the frames have of samples `first` to `first + len(samples)` of the track.

    Returns False, where the frames are not the `whole` track, if they begin too late to know that nothing is missing.
    """
    planar: av.AudioResampler | None = None
    expected: int | None = None
    for frame in frames:
        base = frame.time_base or Fraction(1, rate)
        at = (expected or 0) if frame.pts is None else round(frame.pts * base * rate)
        if expected is None:
            if at > max(first, 0) and not whole:
                return False
        elif abs(at - expected) <= _TICKS * base * rate + 1:
            at = expected
        expected = at + frame.samples
        if expected > first:
            planar = planar or av.AudioResampler(format="fltp", layout=frame.layout)
            _place(samples, at - first, np.concatenate([part.to_ndarray() for part in planar.resample(frame)], axis=1))
        if expected >= first + len(samples):
            break
    return True


def _frames(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """The track's frames, all of one rate; a damaged packet yields none, and decoding goes on behind it."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            continue
        for frame in frames:
            if frame.sample_rate != stream.codec_context.sample_rate:
                raise VideoError(f"{container.name.removeprefix('file:')}: the sample rate of its audio track changes")
            yield frame


def _place(samples: np.ndarray, at: int, channels: np.ndarray) -> None:
    """Writes the mean of the channels (C, n) from sample `at` on, as far as it lies within."""
    start, end = max(at, 0), min(at + channels.shape[1], len(samples))
    if start < end:
        samples[start:end] = channels[:, start - at : end - at].mean(axis=0)


def _resampled(samples: np.ndarray, own: int, rate: int) -> np.ndarray:
    if own == rate:
        return samples
    frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = own, 0, Fraction(1, own)
    resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
    return np.concatenate([part.to_ndarray()[0] for each in (frame, None) for part in resampler.resample(each)])
