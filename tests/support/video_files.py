"""Writes tiny video files whose frames are known: frame i is a flat gray of value 10 + 3 i."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

MOST_FRAMES = 80


def write_video(
    path: Path,
    num_frames: int,
    *,
    codec: str = "libx264",
    rate: int = 25,
    pts: Sequence[int] | None = None,
    height: int = 32,
    width: int = 48,
    rotation: int = 0,
    options: Mapping[str, str] | None = None,
    marked: bool = False,
    pixels: str = "",
) -> str:
    """Encodes num_frames <= 80 frames with a keyframe at least every 8; returns the path as text.

    `pts` are presentation times in units of 1 / rate; `marked` paints the top left quarter white.
    """
    assert num_frames <= MOST_FRAMES
    pixels = pixels or {"png": "rgb24", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    encoder = {"g": "8"} | ({"bf": "2", "qp": "4"} if codec == "libx264" else {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=encoder | dict(options or {}))
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        stream.bit_rate = 4_000_000  # Plenty: the grays have to survive.
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(num_frames):
            image = np.full((height, width, 3), 10 + 3 * index, np.uint8)
            if marked:
                image[: height // 2, : width // 2] = 255
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            # Without both of these each frame would get time 0.
            frame.pts, frame.time_base = index if pts is None else pts[index], Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def remux(source: Path, target: Path, *, shift: int = 0, options: Mapping[str, str] | None = None) -> str:
    """Copies the packets to another file, `shift` frames earlier; an MP4 hides what starts before 0 by an edit list."""
    with av.open(str(source)) as container, av.open(str(target), "w", options=dict(options or {})) as copy:
        stream = container.streams.video[0]
        twin = copy.add_stream_from_template(stream)
        ticks = round(shift / stream.average_rate / stream.time_base)
        for packet in container.demux(stream):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - ticks, packet.dts - ticks, twin
                copy.mux(packet)
    return str(target)


def write_audio(path: Path) -> str:
    """A tenth of a second of silence, without a video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def frame_numbers(frames: np.ndarray) -> list[int]:
    """Which frames these are: [..., T, H, W, 3] pixels of a file of this module -> T numbers per clip, flattened."""
    grays = frames.astype(np.float64).mean(axis=(-3, -2, -1)).ravel()
    return [round(gray) for gray in (grays - 10) / 3]
