"""Reads chosen frames of a video file; the only module that knows about containers, codecs and time stamps.

A frame has one number, its place in presentation order, and that number always means the same picture: whether it is
reached by a seek or by decoding everything before it. Frames are never invented: what cannot be decoded is an error.
What odd videos give:

* A variable frame rate: the frames that are stored, at the times that are stored.
* A rotation in the file is applied. A pixel aspect ratio is not: pixels are taken as square.
* More than 8 bits are scaled to 8, gray becomes RGB, alpha is dropped, the fields of an interlaced picture stay woven.
* Any size, odd ones too; a size that changes within a video is an error.
* One frame, or fewer than a clip has: a video like others; sampling loops it.
* A truncated or damaged file: the frames that are left, an error for those that are asked for and are not.
* Zero bytes, no video, audio only (a cover picture is no video), no permission, a folder: an error.
* A wrong extension: the content tells the format. A name may hold any bytes that the file system takes.
* A file that is replaced: what is open is read to its end; the next opening looks anew, by size and time of change.

Built on PyAV (https://pyav.basswood-io.com), one thread per call, because the pipeline is parallel over videos.
"""

from __future__ import annotations

import io
import os
import statistics
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import compress, count, filterfalse, islice
from operator import attrgetter, itemgetter, not_, sub

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from wt_jax.data.video.yuv420 import Planes, planes_of
from wt_jax.errors import VideoError
from wt_jax.kernels import use_native

# Codecs with packets that show no picture (vp8: hidden references; mpeg4: "not coded" frames). Only decoding tells.
_HIDDEN_PACKETS = ("mpeg4", "vp8")
# Frames that must lie between two wanted ones before a seek costs less than decoding them.
_WORTH_A_SEEK = 6
# Decoders that leave out what nothing refers to, exactly: FFmpeg's H.264 decoder goes by nal_ref_idc.
_SKIPPING = ("h264",)
# Of H.264 in MP4 the header tells all that reading needs. By default libavformat would open a decoder of its own for a first
# picture and parse each packet, which takes a small video as long as some ten of its pictures do.
_BRIEF = {"codec_whitelist": "none", "probesize": "32", "fflags": "noparse+nofillin"}
_BRIEF_CODECS = ("h264",)
# Not having seen pictures, the decoder must hold back as many as the standard allows, lest one comes out too early.
_BRIEF_DECODER = {"strict": "1"}
_KEPT_BYTES = 4 << 20  # of packets, from looking at a file to reading frames of it
_LOOKED_AT = 16  # packets at once
# What is asked of a packet, by one call: a small video takes as long to be asked about as some of its pictures to decode.
_FACTS = attrgetter("size", "is_corrupt", "pts", "dts", "is_keyframe", "is_discard")
_KNOWN_VIDEOS = 4096
# A title that is not UTF-8 must not make a video unreadable. PyAV 19 has no such setting any more.
TOLERANT = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """What is in a video file.

    Attributes:
      pts: int64 [n], presentation times of the frames, strictly increasing, in units of `time_base`.
      end: the time at which the last frame ends, in units of `time_base`.
      time_base: seconds per unit.
      keyframes: int64 [k], increasing times of the frames where decoding can start. Empty when the time stamps do not
        identify the frames (B-frames in AVI, for one): then frames are counted from the start of the file.
      width: width in pixels as stored, before any rotation.
      height: height in pixels as stored, before any rotation.
    """

    pts: np.ndarray
    end: int
    time_base: Fraction
    keyframes: np.ndarray
    width: int
    height: int

    @property
    def num_frames(self) -> int:
        """Number of frames that can be asked for."""
        return len(self.pts)

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last."""
        return (self.end - int(self.pts[0])) * self.time_base


def probe(source: str | bytes) -> VideoInfo:
    """Lists the frames of a video from its packets, decoding only where packets do not tell.

    What the header declares is not believed: a file that declares 444 frames and holds 68 has 68. Results for files
    are remembered per process, until size or modification time change.

    Args:
      source: a path, or the content of a video file.

    Raises:
      VideoError: the file is missing, is no video, has no video stream, or holds no frame.
    """
    known = None if isinstance(source, bytes) else _known.get(_version(source))
    if known is not None:
        return known
    with open_reader(source) as reader:
        return reader.info


def decode(source: str | bytes, indices: Sequence[int] | np.ndarray, info: VideoInfo | None = None) -> np.ndarray:
    """Decodes frames in one pass over the file, from keyframe to keyframe where frames between are not asked for.

    Args:
      source: a path, or the content of a video file.
      indices: integers [n] in [0, info.num_frames), places in presentation order; any order, repeats allowed.
      info: result of `probe` for this source, where it is at hand.

    Returns:
      uint8 [n, height, width, 3], RGB, upright: a rotation stored in the file is applied.

    Raises:
      VideoError: one of the frames cannot be decoded.
      IndexError: an index is out of range.
    """
    wanted, order = np.unique(np.asarray(indices, np.int64), return_inverse=True)
    with open_reader(source, info) as reader:
        frames = dict(reader.frames(wanted))
    return np.stack([frames[index] for index in wanted[order].tolist()])


def check(source: str | bytes) -> VideoInfo:
    """Decodes each frame once, keeping none.

    Raises:
      VideoError: as `decode` would for the first frame that cannot be decoded.
    """
    info = probe(source)
    with _opened(source) as (container, stream):
        found = {_index(info, place, frame) for place, frame in enumerate(_decoded(container, stream))}
    missing = sorted(set(range(info.num_frames)) - found)
    if missing:
        raise VideoError(f"{_name(source)}: {len(missing)} of {info.num_frames} frames cannot be decoded, first: {missing[0]}")
    return info


def read_all(source: str | bytes, info: VideoInfo | None = None) -> Iterator[np.ndarray]:
    """Decodes each frame once, in order, holding one at a time: uint8 [height, width, 3], RGB, upright.

    Raises:
      VideoError: a frame cannot be decoded, or the frames differ in size.
    """
    info = probe(source) if info is None else info
    due, shape = 0, None
    with _opened(source) as (container, stream):
        for place, frame in enumerate(_decoded(container, stream)):
            index = _index(info, place, frame)
            if index is None or index < due:
                continue
            if index > due:
                break
            image = np.rot90(frame.to_ndarray(format="rgb24", threads=1), round(frame.rotation / 90))
            if image.shape != (shape or image.shape):
                raise VideoError(f"{_name(source)}: the frame size changes within the video")
            yield image
            due, shape = due + 1, image.shape
    if due < info.num_frames:
        raise VideoError(f"{_name(source)}: frame {due} of {info.num_frames} cannot be decoded")


def describe(source: str | bytes) -> tuple[str, int]:
    """The name of the codec, and the rotation in degrees, counterclockwise, by which the first frame is shown.

    Raises:
      VideoError: no frame can be decoded.
    """
    with _opened(source) as (container, stream):
        frame = next(_decoded(container, stream), None)
        if frame is None:
            raise VideoError(f"{_name(source)}: no frame can be decoded")
        return stream.codec_context.name, round(frame.rotation)


class Reader:
    """A video that is open, and what is in it (`info`): looked at and read through one handle. `open_reader` makes it."""

    def __init__(
        self,
        source: str | bytes,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        info: VideoInfo | None,
        version: tuple[str, int, int] | None,
    ):
        self._source, self._container, self._stream, self._version = source, container, stream, version
        self._packets: list[av.Packet] = []  # All of a small video, where it has just been looked at.
        self._starts: dict[int, int] = {}  # By the times of keyframes, their places among these.
        self.info = info or self._look()
        self._read_through = info is None and not self._packets
        self._rgb = VideoReformatter()  # One for all frames: making its tables takes longer than using them.

    def frames(self, indices: np.ndarray, planes: bool = False) -> Iterator[tuple[int, np.ndarray | Planes]]:
        """Yields the wanted frames one at a time, in no promised order, each once; none is kept.

        Args:
          indices: integers [n] in [0, info.num_frames), increasing.
          planes: whether a frame may come as the planes that the decoder gives, where it is upright and 8-bit 4:2:0, and the
            native kernels are wanted (`wt_jax.kernels.use_native`).

        Yields:
          An index, and the frame as `decode` gives it: uint8 [height, width, 3]; or its planes.

        Raises:
          VideoError: one of the frames cannot be decoded, or they differ in size. Some may have been yielded by then.
          IndexError: an index is out of range.
        """
        wanted, info = np.asarray(indices, np.int64), self.info
        if not len(wanted) or wanted[0] < 0 or wanted[-1] >= info.num_frames:
            raise IndexError(f"{_name(self._source)}: frames {wanted.tolist()} of a video with {info.num_frames} frames")
        shape, left, planes = None, set(wanted.tolist()), planes and use_native()
        for index, frame in self._decoded(wanted, left):
            left.remove(index)
            picture = (planes_of(frame) if planes else None) or self._picture(frame)
            if picture.shape != (shape or picture.shape):
                raise VideoError(f"{_name(self._source)}: the frame size changes within the video")
            shape = picture.shape
            yield index, picture
        if left:
            raise VideoError(f"{_name(self._source)}: frame {min(left)} of {info.num_frames} cannot be decoded")

    def _look(self) -> VideoInfo:
        """What is in the video, from all its packets. Those of a small one are kept: they need not be read again."""
        packets, facts, kept = _demuxed(self._container, self._stream), [], []
        left = _KEPT_BYTES if _is_brief(self._container) else 0
        while left > 0 and (more := list(map(_FACTS, _added(kept, packets)))):
            facts += more
            left -= sum(map(itemgetter(0), more))
        if left > 0:
            _, _, times, _, is_key, _ = zip(*facts, strict=True)
            self._packets, self._starts = kept, dict(zip(compress(times, is_key), compress(count(), is_key), strict=True))
        else:
            kept.clear()
            facts += map(_FACTS, packets)
        whole = filterfalse(itemgetter(1), filter(itemgetter(0), facts))
        return _list_frames(self._source, self._container, self._stream, list(whole))

    @contextmanager
    def _unread(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        """The video, opened anew where it has been read through: demuxers learn by that, and then seek elsewhere in damaged
        files; but what a file gives must not depend on what was read before. A file that was replaced stays open.
        """
        if not self._read_through or not _is_still(self._source, self._version):
            yield self._container, self._stream
        else:
            with _opened(self._source) as opened:
                yield opened

    def _packets_from(self, start: int, container: av.container.InputContainer, stream: av.VideoStream) -> Iterable[av.Packet]:
        """The packets from the keyframe of that time on, for an empty decoder."""
        if start in self._starts:
            stream.codec_context.flush_buffers()
            return self._packets[self._starts[start] :]
        container.seek(start, stream=stream)  # To the first keyframe too, for the same reason.
        return _demuxed(container, stream)

    def _decoded(self, wanted: np.ndarray, left: set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """The wanted frames that can be decoded: by the quick way, then what is left by the sure one, where any is.

        Who reads them takes each from `left`.
        """
        if self.info.keyframes.size:
            with suppress(av.error.FFmpegError, VideoError), self._unread() as (container, stream):
                for start, run in _runs(self.info, wanted):
                    packets = self._packets_from(start, container, stream)
                    yield from self._quickly(run, packets, stream.codec_context)
        if left:  # The time stamps do not identify the frames, or a seek failed or overshot, as in some containers.
            with _opened(self._source) as (container, stream):
                for place, frame in enumerate(_decoded(container, stream)):
                    index = _index(self.info, place, frame)
                    if index in left:
                        yield index, frame
                    if not left or (index is not None and index > wanted[-1]):
                        return

    def _quickly(
        self, wanted: np.ndarray, packets: Iterable[av.Packet], codec: av.VideoCodecContext
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Wanted frames of these packets. H.264 pictures that nothing refers to are left out where they are not wanted.

        Once the packets of all wanted frames are in, the decoder is emptied rather than fed until the last one comes out.
        """
        left = dict(zip(self.info.pts[wanted].tolist(), wanted.tolist(), strict=True))
        due, skips, skipped = set(left), codec.name in _SKIPPING, False
        codec.skip_frame = "DEFAULT"
        for packet in packets:
            time = packet.pts
            if skips and (time not in due) != skipped:  # Setting it takes a while.
                skipped = not skipped
                codec.skip_frame = "NONREF" if skipped else "DEFAULT"
            frames = _frames_of(packet)
            due.discard(time)
            if not due and packet.size:
                frames = [*frames, *_frames_of(None, codec)]
            for frame in frames:
                time = frame.pts
                if time in left and not frame.is_corrupt:
                    yield left.pop(time), frame
            if not due or not left:
                break

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        """The frame as upright RGB, uint8 [height, width, 3]; a view of memory of its own."""
        plane = self._rgb.reformat(frame, format="rgb24", threads=1).planes[0]
        picture = np.ndarray((plane.height, plane.width, 3), np.uint8, plane, strides=(plane.line_size, 3, 1))
        turns = round(frame.rotation / 90)
        return np.rot90(picture, turns) if turns else picture


@contextmanager
def open_reader(source: str | bytes, info: VideoInfo | None = None) -> Iterator[Reader]:
    """Opens a video once, to look at it and to read frames one at a time.

    Args:
      source: a path, or the content of a video file.
      info: result of `probe` for this source, where it is at hand. For files it is remembered anyway.

    Raises:
      VideoError: as `probe`; what goes wrong while the video is open becomes one as well.
    """
    before = None if info or isinstance(source, bytes) else _version(source)
    known = info or _known.get(before)
    with _opened(source, brief=True) as (container, stream):
        # A file may be replaced at any moment: what is remembered is of the file that is open, or not believed.
        same = before is None or before == _version(source)
        reader = Reader(source, container, stream, known if same else None, before)
        if before is not None and same and known is None:
            _remember(before, reader.info)
        yield reader


# What is in files, by path, size and time of change; the oldest is forgotten first.
_known: dict[tuple[str, int, int] | None, VideoInfo] = {}
_lock = threading.Lock()


def _version(path: str) -> tuple[str, int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte.
        raise VideoError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return path, status.st_size, status.st_mtime_ns


def _is_still(source: str | bytes, version: tuple[str, int, int] | None) -> bool:
    try:
        return isinstance(source, bytes) or _version(source) == version
    except VideoError:
        return False


def _remember(version: tuple[str, int, int], info: VideoInfo) -> None:
    with _lock:
        _known[version] = info
        if len(_known) > _KNOWN_VIDEOS:
            del _known[next(iter(_known))]


def forget() -> None:
    """Forgets what is in files, so that each is looked at anew."""
    with _lock:
        _known.clear()


def _list_frames(
    source: str | bytes,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    packets: Sequence[tuple],
) -> VideoInfo:
    """What is in a video, from the `_FACTS` of its packets where these tell."""
    codec, time_base, rate = stream.codec_context, stream.time_base, stream.average_rate
    name, width, height = codec.name, codec.width, codec.height
    guessed = container.format.name == "avi"  # AVI stores no presentation times: those of B-frames are guesses.
    _, _, pts, dts, is_key, is_discarded = zip(*packets, strict=True) if packets else ((),) * 6
    keyframes = list(compress(pts, is_key))
    timed = bool(keyframes) and None not in pts and (pts == dts or not guessed)
    if timed:
        times = sorted(compress(pts, map(not_, is_discarded)))  # An edit list may discard some.
        # What is shown before the first keyframe refers to frames that are not in the file.
        times = times[bisect_left(times, keyframes[0]) :]
    if not timed or name in _HIDDEN_PACKETS or len(set(times)) < len(times):
        with _opened(source) as (container, stream):
            times = [frame.pts for frame in _decoded(container, stream)]
        known = None not in times and len(set(times)) == len(times)
        timed = timed and known and times == sorted(times)
        if not known:
            step = max(1 / (rate * time_base), 1) if rate else 1
            times = [round(place * step) for place in range(len(times))]
    if not times:
        raise VideoError(f"{_name(source)}: it has a video stream without a single frame")
    times.sort()
    steps = list(map(sub, times[1:], times))
    last = int(statistics.median(steps)) if steps else round(1 / (rate * time_base)) if rate else 1
    return VideoInfo(
        pts=np.array(times, np.int64),
        end=times[-1] + max(last, 1),
        time_base=time_base,
        keyframes=np.array(sorted(keyframes) if timed else [], np.int64),
        width=width,
        height=height,
    )


def _runs(info: VideoInfo, wanted: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Wanted frames, increasing, as runs to read on end, each with the time of the keyframe to start at."""
    # Nothing between neighbors is worth a seek: most of what is wanted, and quicker found out than where to seek.
    gaps = wanted[1:] - wanted[:-1]
    on_end = not len(gaps) or gaps.max() <= _WORTH_A_SEEK
    last_key = np.searchsorted(info.keyframes, info.pts[wanted[:1] if on_end else wanted], side="right") - 1
    keys = info.keyframes[np.maximum(last_key, 0)]
    if on_end:
        return [(int(keys[0]), wanted)]
    skipped = np.searchsorted(info.pts, keys[1:]) - wanted[:-1]
    cuts = np.flatnonzero(skipped > _WORTH_A_SEEK) + 1
    return list(zip([int(keys[0]), *keys[cuts].tolist()], np.split(wanted, cuts), strict=True))


def _index(info: VideoInfo, place: int, frame: av.VideoFrame) -> int | None:
    """The index of a decoded frame, None if it is damaged or not among the frames that were probed."""
    if frame.is_corrupt:
        return None
    if not info.keyframes.size:
        return place
    index = None if frame.pts is None else int(np.searchsorted(info.pts, frame.pts))
    return index if index is not None and index < len(info.pts) and info.pts[index] == frame.pts else None


def _demuxed(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The stream's packets, then an empty one. PyAV's own iterator loses 150 bytes when it is dropped rather than closed."""
    with closing(container.demux(stream)) as packets:
        yield from packets


def _added(kept: list[av.Packet], packets: Iterator[av.Packet]) -> list[av.Packet]:
    """Adds some packets to those that are kept, and names them."""
    start = len(kept)
    kept += islice(packets, _LOOKED_AT)
    return kept[start:]


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Frames in presentation order; a damaged packet yields none, and decoding goes on behind it."""
    for packet in _demuxed(container, stream):
        yield from _frames_of(packet)


def _frames_of(packet: av.Packet | None, codec: av.VideoCodecContext | None = None) -> list[av.VideoFrame]:
    """What the decoder hands out for a packet, nothing if that is damaged; for None, with its codec, what it still holds."""
    try:
        return codec.decode(None) if packet is None else packet.decode()
    except av.error.InvalidDataError:
        return []


@contextmanager
def _opened(source: str | bytes, brief: bool = False) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The open container and its first real video stream; whatever goes wrong inside becomes a VideoError.

    With `brief` no picture is looked at where the header tells enough; the decoder may then hold frames back for longer.
    """
    try:
        with _open(source, brief) as container:
            picture = av.stream.Disposition.attached_pic  # The cover of an audio file is no video.
            streams = [stream for stream in container.streams.video if not stream.disposition & picture]
            if not streams:
                raise VideoError(f"{_name(source)}: it has no video stream")
            if streams[0].codec_context is None:
                raise VideoError(f"{_name(source)}: there is no decoder for its video")
            streams[0].thread_type = "NONE"
            streams[0].thread_count = 1
            if _is_brief(container):
                streams[0].codec_context.options = _BRIEF_DECODER
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise VideoError(f"{_name(source)}: {error.strerror}") from error


def _open(source: str | bytes, brief: bool) -> av.container.InputContainer:
    def opened(**options) -> av.container.InputContainer:
        # "file:" keeps a colon in a name from being read as a protocol.
        target = io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
        return av.open(target, **options, **TOLERANT)

    if brief and _is_mp4(source):
        with suppress(av.error.FFmpegError):
            container = opened(format="mov", container_options=_BRIEF)
            if all(stream.codec_context and stream.codec_context.name in _BRIEF_CODECS for stream in container.streams.video):
                return container
            container.close()
    return opened()


def _is_mp4(source: str | bytes) -> bool:
    if isinstance(source, bytes):
        return source[4:8] == b"ftyp"
    try:
        with open(source, "rb", buffering=0) as file:
            return file.read(8)[4:] == b"ftyp"
    except (OSError, ValueError):
        return False  # Opening it as a video tells the cause.


def _is_brief(container: av.container.InputContainer) -> bool:
    return bool(container.container_options)


def _name(source: str | bytes) -> str:
    return f"video of {len(source)} bytes" if isinstance(source, bytes) else source
