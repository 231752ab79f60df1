"""Writes small videos of many formats with the faults of other people's files: a moving texture, no two frames alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 25
HEIGHT, WIDTH = 64, 96
GROUP = 8  # frames from one keyframe to the next

# Codecs -> their pixels and options, and the containers that hold them.
CODECS: Mapping[str, tuple[str, Mapping[str, str], Sequence[str]]] = {
    "libx264": ("yuv420p", {"bf": "2", "qp": "20"}, ("mp4", "mov", "mkv", "ts", "avi", "nut", "flv", "m4v")),
    "libx265": ("yuv420p", {"x265-params": f"keyint={GROUP}:bframes=2:log-level=none"}, ("mp4", "mkv", "ts", "nut")),
    "mpeg4": ("yuv420p", {"bf": "0"}, ("mp4", "mkv", "avi", "ts", "nut", "3gp")),
    "mpeg2video": ("yuv420p", {"bf": "2"}, ("ts", "mpg", "mkv", "mp4", "avi", "nut", "mxf")),
    "mpeg1video": ("yuv420p", {"bf": "2"}, ("mpg", "ts", "mkv", "avi")),
    "libvpx": ("yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "12"}, ("webm", "mkv", "avi", "nut")),
    "libvpx-vp9": ("yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "12"}, ("webm", "mp4", "mkv")),
    "libsvtav1": ("yuv420p", {"preset": "12", "svtav1-params": "lp=1"}, ("webm", "mp4", "mkv")),
    "flv": ("yuv420p", {}, ("flv", "avi", "mkv")),
    "h263p": ("yuv420p", {}, ("avi", "mkv", "3gp")),
    "msmpeg4": ("yuv420p", {}, ("avi", "asf")),
    "wmv2": ("yuv420p", {}, ("asf", "wmv", "avi")),
    "mjpeg": ("yuvj420p", {}, ("avi", "mov", "mkv", "mp4")),
    "ffv1": ("yuv420p", {}, ("mkv", "avi", "nut")),
    "png": ("rgb24", {}, ("mov", "mkv", "avi")),
    "qtrle": ("rgb24", {}, ("mov", "mkv")),
    "cinepak": ("rgb24", {}, ("avi", "mov")),
    "flashsv": ("bgr24", {}, ("flv",)),
    "msvideo1": ("rgb555le", {}, ("avi",)),
    "svq1": ("yuv410p", {}, ("mov",)),
    "huffyuv": ("yuv422p", {}, ("avi", "mkv")),
}


def texture(index: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Frame `index`, uint8 [height, width, 3]: a texture that moves two pixels to the right from frame to frame."""
    noise = np.random.default_rng(0).integers(30, 226, (height // 4 + 1, width, 3)).astype(np.uint8)
    picture = np.kron(noise, np.ones((4, 4, 1), np.uint8))
    return np.ascontiguousarray(np.roll(picture, 2 * index, axis=1)[:height, :width])


def encode(
    path: Path, codec: str, count: int = 24, *, sizes: Sequence[tuple[int, int]] = ((HEIGHT, WIDTH),), **more: str
) -> str:
    """Writes `count` frames of each of the sizes, which follow each other, with a keyframe at every `GROUP`th."""
    pixels, options, _ = CODECS[codec]
    with av.open(str(path), "w") as container:
        place, stream = 0, None
        for height, width in sizes:
            encoder = av.CodecContext.create(codec, "w")
            encoder.height, encoder.width, encoder.pix_fmt = height, width, pixels
            encoder.time_base, encoder.framerate = Fraction(1, RATE), Fraction(RATE)
            encoder.gop_size, encoder.bit_rate, encoder.thread_count = GROUP, 2_000_000, 1
            encoder.options = {"strict": "-2"} | dict(options) | more
            if stream is None:
                stream = container.add_stream(codec, rate=RATE, options=dict(encoder.options))
                stream.height, stream.width, stream.pix_fmt = height, width, pixels
                stream.codec_context.gop_size, stream.bit_rate = GROUP, 2_000_000
                stream.codec_context.thread_count = 1
                encoder = stream.codec_context
            start = place
            packets: list[av.Packet] = []
            for _ in range(count):
                frame = av.VideoFrame.from_ndarray(texture(place, height, width), format="rgb24").reformat(format=pixels)
                frame.pts, frame.time_base = place, Fraction(1, RATE)
                packets += encoder.encode(frame)
                place += 1
            packets += encoder.encode(None)
            for packet in packets:
                packet.stream = stream
                container.mux(packet)
            assert place > start
    return str(path)


def copy(source: str, target: Path, *, keys: str = "true", count: int | None = None, skip: int = 0) -> str:
    """Copies the packets of a video to another file, with key frame flags that are true, on all, or on every third."""
    with av.open(source) as container, av.open(str(target), "w") as other:
        stream = container.streams.video[0]
        twin = other.add_stream_from_template(stream)
        for number, packet in enumerate(container.demux(stream)):
            if packet.size and number >= skip and (count is None or number < count):
                packet.is_keyframe = packet.is_keyframe or keys == "all" or (keys == "third" and number % 3 == 0)
                packet.stream = twin
                other.mux(packet)
    return str(target)


def plain_pass(path: str) -> Iterator[tuple[int | None, np.ndarray]]:
    """Times and pictures of a pass over the whole file with PyAV alone; damaged pictures are left out."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "NONE", 1
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:
                packet = None
            if packet is None:
                break
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                if not frame.is_corrupt:
                    yield frame.pts, frame.to_ndarray(format="rgb24")


def mirror(path: str, turns: int, mirrored: bool) -> str:
    """Makes an MP4 file be shown turned by quarters counterclockwise, after it is mirrored left to right or not."""
    content = bytearray(Path(path).read_bytes())
    start = content.index(b"tkhd") + 4 + 40  # of version 0
    columns = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), turns)  # of images of unit vectors; y points down
    across, down = (-columns[0] if mirrored else columns[0]), columns[1]
    values = [across[0], across[1], 0, down[0], down[1], 0, 0, 0]
    matrix = np.array([*(value << 16 for value in values), 1 << 30], ">i4").tobytes()
    assert content[start : start + 36] == np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    content[start : start + 36] = matrix
    Path(path).write_bytes(content)
    return path
