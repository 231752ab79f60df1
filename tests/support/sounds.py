"""Writes videos with a known audio track: silence, and from a known sample on a tone."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_FORMATS = {"aac": "fltp", "pcm_s16le": "s16", "flac": "s16", "libmp3lame": "fltp", "libopus": "flt"}


def tone(times: np.ndarray, onset: float, pitch: float = 1000.0) -> np.ndarray:
    """The track at these times in seconds, in [-0.5, 0.5]."""
    return np.where(times >= onset, 0.5 * np.sin(2 * np.pi * pitch * (times - onset)), 0.0)


def write_sounding(
    path: Path,
    onset: float,
    *,
    seconds: float = 3.0,
    rate: int = 16000,
    codec: str = "aac",
    layout: str = "mono",
    fps: int = 25,
    pitch: float = 1000.0,
) -> str:
    """A video of 32 x 32 pixels, frame i a gray of 10 + 3 i, and a track whose tone begins at `onset`; the path as text.

    In stereo the right channel is silent and the left one twice as loud.
    """
    samples = tone(np.arange(round(seconds * rate)) / rate, onset, pitch).astype(np.float32)
    channels = np.stack([samples] if layout == "mono" else [2 * samples, 0 * samples])
    form = _FORMATS[codec]
    if form == "s16":
        channels = np.rint(channels * 32767).astype(np.int16)
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=fps, options={"g": "8"}), container.add_stream(codec, rate=rate)
        video.width = video.height = 32
        video.pix_fmt, video.codec_context.thread_count, audio.layout = "yuv420p", 1, layout
        for index in range(round(seconds * fps)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 10 + 3 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for start in range(0, channels.shape[1], 1024):
            part = channels[:, start : start + 1024]
            part = part if form.endswith("p") else part.T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format=form, layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return str(path)
