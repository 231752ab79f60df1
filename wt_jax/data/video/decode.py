"""Reads chosen frames of a video file; the only module that knows about containers, codecs and time stamps.

A frame has one number, its place in presentation order, and that number always means the same picture: whether it is
reached by a seek or by decoding everything before it. Frames are never invented: what cannot be decoded is an error.
What odd videos give:

* A variable frame rate: the frames that are stored, at the times that are stored.
* A packet is not taken for a picture: fields that come in packets of their own are woven, packets that show nothing are
  no frames. Where packets cannot tell, the file is decoded once.
* A keyframe is one when the decoder agrees; otherwise decoding starts further back.
* A rotation or a mirroring in the file is applied. A pixel aspect ratio is not: pixels are taken as square.
* Time stamps that start anew within a file, as in transport streams that were put together: the frames follow each other.
* More than 8 bits are scaled to 8, gray becomes RGB, alpha is dropped, the fields of an interlaced picture stay woven.
* Any size, odd ones too; a size that changes within a video is an error.
* One frame, or fewer than a clip has: a video like others; sampling loops it.
* A truncated or damaged file: the frames that are left, an error for those that are asked for and are not. A video of which
  more than `MAX_LOST_FRACTION` cannot be decoded is broken.
* Zero bytes, no video, audio only (a cover picture is no video), no permission, a folder: an error.
* A wrong extension: the content tells the format. A name may hold any bytes that the file system takes.
* A file that is replaced: what is open is read to its end; the next opening looks anew, by size and time of change.

Built on PyAV (https://pyav.basswood-io.com), one thread per call, because the pipeline is parallel over videos.
"""

from __future__ import annotations

import functools
import io
import math
import os
import statistics
import threading
import zlib
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain, compress, count, filterfalse, islice
from operator import attrgetter, itemgetter, not_, sub
from typing import Any, TypeVar

import av
import av.container
import av.error
import av.logging
import av.stream
import av.video
import numpy as np
from av.video.reformatter import VideoReformatter

from wt_jax.data.video.yuv420 import Planes, planes_of
from wt_jax.errors import VideoError
from wt_jax.kernels import use_native

_T = TypeVar("_T")

# The fraction of the frames of a sound video that may be damaged.
MAX_LOST_FRACTION = 0.05
# Of the codecs in wide use, those with a picture in each packet, unless fields have packets of their own. It is a short cut:
# of any other codec (MPEG-4 with frames that are "not coded", VP8 with hidden references) decoding tells which are pictures.
_PICTURE_PER_PACKET = ("h264", "hevc", "mpeg2video", "vp9", "av1")
_INTRA_ONLY, _LOSSY, _FIELDS = 1 << 0, 1 << 1, 1 << 4  # AV_CODEC_PROP_*
_RESTARTS = 1 << 9  # AVFMT_TS_DISCONT: a format in which time stamps may start anew
_TRIED_PACKETS = 12
_COMPARED = 64  # keyframes that are compared, of a codec whose decoder does not tell
# Seconds before the wanted time to seek to, one after the other, until a seek does not land late.
_EARLIER = (0, 1, 4, 16, 64)
_NO_TYPE, _TYPE_I = 0, 1  # AV_PICTURE_TYPE_*: of a codec that does not have the types, and of a picture that refers to none
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
# Decoders that neither conceal damage nor mark it leave in a damaged picture what was in the buffer before.
_STRICT_DECODER = {"err_detect": "explode"}
_DAMAGE = (av.error.InvalidDataError, av.error.ExternalError, av.error.ArgumentError)  # what decoders return for damaged data
_SMALL_BYTES = 2 << 20  # of frames as RGB that are processed together
_KEPT_BYTES = 4 << 20  # of packets, from looking at a file to reading frames of it
_LOOKED_AT = 16  # packets at once
# What is asked of a packet, by one call: a small video takes as long to be asked about as some of its pictures to decode.
_FACTS = attrgetter("size", "is_corrupt", "pts", "dts", "is_keyframe", "is_discard")
_KNOWN_VIDEOS = 4096
# A title that is not UTF-8 must not make a video unreadable. PyAV 19 has no such setting any more.
TOLERANT: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}


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
      anchors: where time stamps start anew within the file: by the times of keyframes, the byte in the file, and what is
        added to the time stamps that are stored from there on. Else empty.
    """

    pts: np.ndarray
    end: int
    time_base: Fraction
    keyframes: np.ndarray
    width: int
    height: int
    anchors: Mapping[int, tuple[int, int]] = field(default_factory=dict)

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
        frames: dict[int, Any] = dict(reader.frames(wanted))
    return np.stack([frames[index] for index in wanted[order].tolist()])


def check(source: str | bytes) -> VideoInfo:
    """Decodes each frame once, keeping none.

    Returns:
      As `probe`, without the frames that cannot be decoded: those that `read_all` yields.

    Raises:
      VideoError: the video is broken: more than `MAX_LOST_FRACTION` of its frames cannot be decoded, or they differ in size.
    """
    info = probe(source)
    found = [index for index, _ in _sound_frames(source, info)]
    return info if len(found) == info.num_frames else replace(info, pts=info.pts[found])


def read_all(source: str | bytes, info: VideoInfo | None = None) -> Iterator[np.ndarray]:
    """Decodes each frame once, in order, holding one at a time: uint8 [height, width, 3], RGB, upright.

    Frames that cannot be decoded are left out.

    Raises:
      VideoError: as for `check`; some frames may have been yielded by then.
    """
    for _, frame in _sound_frames(source, probe(source) if info is None else info):
        yield _upright(frame.to_ndarray(format="rgb24", threads=1), orientation_of(frame))


def _sound_frames(source: str | bytes, info: VideoInfo) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames of one full pass, in order, each with its index: the one judge of whether a video is sound.

    Raises:
      VideoError: see `check`.
    """
    due, lost, shape = 0, [], None
    with _opened(source) as (container, stream):
        for place, frame in enumerate(_decoded(container, stream)):
            index = _index(info, place, frame)
            if index is None or not due <= index < info.num_frames:
                continue
            if (frame.height, frame.width) != (shape or (frame.height, frame.width)):
                raise VideoError(f"{_name(source)}: the frame size changes within the video")
            shape = frame.height, frame.width
            lost += range(due, index)
            due = index + 1
            yield index, frame
    lost += range(due, info.num_frames)
    whole = lost and lost[-1] == info.num_frames - 1 and len(lost) == 1  # The last one may have been cut off.
    if not whole and len(lost) > MAX_LOST_FRACTION * info.num_frames:
        raise VideoError(f"{_name(source)}: {len(lost)} of {info.num_frames} frames cannot be decoded, first: {lost[0]}")


def describe(source: str | bytes) -> tuple[str, int]:
    """The name of the codec, and the rotation in degrees, counterclockwise, by which the first frame is shown.

    A picture that is mirrored is mirrored left to right before it is turned.

    Raises:
      VideoError: no frame can be decoded.
    """
    with _opened(source) as (container, stream):
        frame = next(_decoded(container, stream), None)
        if frame is None:
            raise VideoError(f"{_name(source)}: no frame can be decoded")
        return stream.codec_context.name, 90 * orientation_of(frame)[0]


def orientation_of(frame: av.VideoFrame) -> tuple[int, bool]:
    """How a frame is shown: quarter turns counterclockwise, 0 to 3, and whether it is mirrored left to right before.

    From the display matrix (a, b; c, d), which takes a pixel at (x, y), y downwards, to (a x + c y, b x + d y).
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(data, np.int32, 5).tolist()
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return round(math.atan2(-b, a) / (math.pi / 2)) % 4, mirrored


def _upright(picture: np.ndarray, orientation: tuple[int, bool]) -> np.ndarray:
    """A view of a picture [height, width, 3] as it is shown."""
    turns, mirrored = orientation
    picture = picture[:, ::-1] if mirrored else picture
    return np.rot90(picture, turns) if turns else picture


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
        self._angle: float | None = None  # of the frame that `_orientation` is of
        self._orientation = 0, False

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
        shape, left, planes, upright = None, set(wanted.tolist()), planes and use_native(), self._orientation == (0, False)
        batches = some_at_once(self._decoded(wanted, left), lambda frame: 3 * frame.width * frame.height)
        for index, frame in chain.from_iterable(map(dict.items, batches)):
            if frame.rotation != self._angle:  # What it means takes long to ask of each frame.
                self._angle, self._orientation = frame.rotation, orientation_of(frame)
                upright = self._orientation == (0, False)
            picture = (planes_of(frame) if planes and upright else None) or self._picture(frame)
            if picture.shape != (shape or picture.shape):
                raise VideoError(f"{_name(self._source)}: the frame size changes within the video")
            shape = picture.shape
            yield index, picture
        if left:
            raise VideoError(f"{_name(self._source)}: frame {min(left)} of {info.num_frames} cannot be decoded")

    def _look(self) -> VideoInfo:
        """What is in the video, from all its packets. Those of a small one are kept: they need not be read again."""
        facts, kept, restarts = [], [], []
        packets = _demuxed(self._container, self._stream, restarts=restarts)
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
        return _list_frames(self._source, self._container, self._stream, list(whole), bool(restarts))

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
        """The packets from the keyframe of that time on, for an empty decoder; none where the container does not find it.

        A demuxer may land behind the time that was asked for, as it seeks by times of decoding or by those of another
        stream: the packets show where it is, and the next seek goes further back.
        """
        if start in self._starts:
            stream.codec_context.flush_buffers()
            return self._packets[self._starts[start] :]
        if self.info.anchors:
            if start not in self.info.anchors:
                return ()
            byte, shift = self.info.anchors[start]
            container.seek(byte, stream=stream, unsupported_byte_offset=True)
            return _found(_demuxed(container, stream, shift), start)
        for seconds in _EARLIER:
            container.seek(start - int(seconds / self.info.time_base), stream=stream)  # To the first keyframe too, to empty it.
            packets = _found(_demuxed(container, stream), start)
            if packets:
                return packets
        return ()

    def _decoded(self, wanted: np.ndarray, left: set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """The wanted frames that can be decoded: by the quick way, then what is left by the sure one, where any is.

        Each is removed from `left`.
        """
        if self.info.keyframes.size:
            with suppress(av.error.FFmpegError, VideoError), self._unread() as (container, stream):
                for key, run in _runs(self.info, wanted):
                    yield from self._run(key, run, left, container, stream)
        if left:  # The time stamps do not identify the frames, or the container does not find a keyframe.
            with _opened(self._source) as (container, stream):
                for place, frame in enumerate(_decoded(container, stream)):
                    index = _index(self.info, place, frame)
                    if index in left:
                        left.remove(index)
                        yield index, frame
                    if not left or (index is not None and index > wanted[-1]):
                        return

    def _run(
        self,
        key: int,
        wanted: np.ndarray,
        left: set[int],
        container: av.container.InputContainer,
        stream: av.VideoStream,
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Wanted frames from a keyframe on, or from further and further back while the decoder finds it to be none."""
        back, codec = 0, stream.codec_context
        skips = codec.name in _SKIPPING
        while True:
            start = int(self.info.keyframes[max(key - back, 0)])
            sound = yield from self._quickly(wanted, left, self._packets_from(start, container, stream), codec, start, skips)
            if sound or (sound is False and back >= key):
                return
            if sound is None:
                skips, wanted = False, np.array([index for index in wanted.tolist() if index in left], np.int64)
                if not len(wanted):
                    return
            else:
                back = 2 * back + 1

    def _quickly(
        self,
        wanted: np.ndarray,
        left: set[int],
        packets: Iterable[av.Packet],
        codec: av.VideoCodecContext,
        start: int,
        skips: bool,
    ) -> Generator[tuple[int, av.VideoFrame], None, bool | None]:
        """Wanted frames of these packets. With `skips` pictures that nothing refers to are left out where they are not wanted.

        Once the packets of all wanted frames are in, the decoder is emptied rather than fed until the last one comes out.

        Returns:
          Whether there was a keyframe for the decoder too, at `start` or behind it, before the first wanted frame. Without
          one nothing is yielded: pictures may refer to what was not decoded. None where a picture is damaged and others were
          left out, as damage may be concealed by parts of those.
        """
        indices = dict(zip(self.info.pts[wanted].tolist(), wanted.tolist(), strict=True))
        first = int(self.info.pts[wanted[0]])
        due, skipped, sound = set(indices), False, False
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
                if not sound and time is not None:
                    sound = time <= first and _is_keyframe(frame, time == start)
                    if time >= first and not sound:
                        return False
                if frame.is_corrupt:
                    if skips:
                        return None
                elif time in indices:
                    index = indices.pop(time)
                    left.remove(index)
                    yield index, frame
            if not due or not indices:
                break
        return sound

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        """The frame as upright RGB, uint8 [height, width, 3]; a view of memory of its own."""
        plane = self._rgb.reformat(frame, format="rgb24", threads=1).planes[0]
        buffer: Any = plane  # PyAV does not declare that its planes are buffers
        picture = np.ndarray((plane.height, plane.width, 3), np.uint8, buffer, strides=(plane.line_size, 3, 1))
        return _upright(picture, self._orientation)


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
        same = before is None or isinstance(source, bytes) or before == _version(source)
        reader = Reader(source, container, stream, known if same else None, before)
        if before is not None and same and known is None:
            _remember(before, reader.info)
        yield reader


def some_at_once(frames: Iterator[tuple[int, _T]], size: Callable[[_T], int]) -> Iterator[dict[int, _T]]:
    """Frames by their indices, small ones several at once: decoding and processing find themselves in the processor's caches.

    `size` returns the bytes of a frame as RGB.
    """
    for index, first in frames:
        count = max(_SMALL_BYTES // size(first), 1)
        yield {index: first} | dict(islice(frames, count - 1))


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
    restarts: bool,
) -> VideoInfo:
    """What is in a video, from the `_FACTS` of its packets where these tell."""
    codec, time_base, rate = stream.codec_context, stream.time_base, stream.average_rate
    if time_base is None:
        raise VideoError(f"{_name(source)}: its video stream has no time base")
    width, height = codec.width, codec.height
    guessed = container.format.name == "avi"  # AVI stores no presentation times: those of B-frames are guesses.
    _, _, pts, dts, is_key, is_discarded = zip(*packets, strict=True) if packets else ((),) * 6
    keyframes = sorted(set(compress(pts, is_key))) if None not in pts else []
    timed = bool(keyframes) and (pts == dts or not guessed)
    if timed:
        times = sorted(compress(pts, map(not_, is_discarded)))  # An edit list may discard some.
        # What is shown before the first keyframe refers to frames that are not in the file.
        times = times[bisect_left(times, keyframes[0]) :]
    if not timed or len(set(times)) < len(times) or not _are_pictures(source, container, codec, keyframes):
        found, keyframes, lost = _decoded_times(source, keyframes if timed else [], time_base)
        times = [time for time in found if time is not None]
        if len(times) < len(found) or len(set(times)) < len(times):
            step = max(1 / (rate * time_base), 1) if rate else 1
            times, keyframes = [round(place * step) for place in range(len(found))], []
        else:
            keyframes = keyframes if times == sorted(times) else []
            times = sorted({*times, *lost})
    if not times:
        raise VideoError(f"{_name(source)}: it has a video stream without a single frame")
    steps = list(map(sub, times[1:], times))
    last = int(statistics.median(steps)) if steps else round(1 / (rate * time_base)) if rate else 1
    return VideoInfo(
        pts=np.array(times, np.int64),
        end=times[-1] + max(last, 1),
        time_base=time_base,
        keyframes=np.array(keyframes, np.int64),
        width=width,
        height=height,
        anchors=_anchors(source) if restarts and keyframes else {},
    )


def _are_pictures(
    source: str | bytes, container: av.container.InputContainer, codec: av.VideoCodecContext, keyframes: Sequence[int]
) -> bool:
    """Whether each packet of a video is a picture of its own; False where that is not sure."""
    properties = codec.codec.properties
    if properties & _INTRA_ONLY or _is_brief(container):
        return True
    if codec.name not in _PICTURE_PER_PACKET:
        return False
    if not properties & _FIELDS or (codec.name == "h264" and has_no_fields(codec.extradata)):
        return True
    if codec.name == "h264":
        return False  # Each picture may be one or two packets.
    return all(_try_packets(source, keyframes[place]) for place in {0, len(keyframes) // 2})


def _try_packets(source: str | bytes, start: int) -> bool:
    """Whether some packets from the keyframe of that time on give as many pictures."""
    with _opened(source) as (container, stream):
        container.seek(start, stream=stream)
        packets = [packet for packet in islice(_demuxed(container, stream), _TRIED_PACKETS) if packet.size]
        frames = [frame for packet in packets for frame in _frames_of(packet)] + _frames_of(None, stream.codec_context)
        # What precedes the first picture that was shown may refer to what precedes the seek.
        first = frames[0].pts if frames else None
        shown = [packet for packet in packets if first is not None and packet.pts is not None and packet.pts >= first]
        return len(frames) >= len(shown)


def _decoded_times(
    source: str | bytes, flagged: Sequence[int], time_base: Fraction
) -> tuple[list[int | None], list[int], list[int]]:
    """The times of all pictures in the order of a full pass, those of flagged keyframes that are keyframes, and those of
    packets that the decoder refuses: pictures that are lost.
    """
    times, keyframes, lost, damaged, unknown, flags = [], [], [], set(), {}, set(flagged)
    with _opened(source) as (container, stream):
        complaints = _complaints if _is_strict(stream.codec_context) else nullcontext
        for packet in _demuxed(container, stream):
            with complaints() as logged:
                try:
                    frames = packet.decode()
                except _DAMAGE:
                    frames = []
                    lost += [] if packet.pts is None else [packet.pts]
            if packet.is_corrupt or logged:
                damaged.add(packet.pts)
            for frame in frames:
                if frame.pts in damaged:
                    continue
                times.append(frame.pts)
                if frame.pts in flags and frame.pict_type == _NO_TYPE and len(unknown) < _COMPARED:
                    unknown[frame.pts] = _checksum(frame)
                elif frame.pts in flags and _is_keyframe(frame):
                    keyframes.append(frame.pts)
    if not unknown:
        return times, keyframes, lost
    # The decoder does not tell. What can be decoded alone, and is the same picture then, is a keyframe.
    info = VideoInfo(np.array(flagged), flagged[-1] + 1, time_base, np.array(flagged), 0, 0)
    for time, checksum in unknown.items():
        with suppress(VideoError), _opened(source) as (container, stream):
            packets = Reader(source, container, stream, info, None)._packets_from(time, container, stream)
            packet = next(iter(packets), None)
            frames = [*_frames_of(packet), *_frames_of(None, stream.codec_context)] if packet else []
            if [(frame.pts, _checksum(frame)) for frame in frames] == [(time, checksum)]:
                keyframes.append(time)
    return times, keyframes, lost


def _checksum(frame: av.VideoFrame) -> int:
    return zlib.crc32(np.ascontiguousarray(frame.to_ndarray(format="rgb24", threads=1)).data)


def _is_keyframe(frame: av.VideoFrame, at_flag: bool = False) -> bool:
    """Whether the decoder takes a frame for one where decoding can start. Codecs without types of pictures leave that to the
    flags, which `_decoded_times` has compared.
    """
    if frame.is_corrupt:
        return False
    return frame.key_frame if frame.pict_type == _TYPE_I else at_flag and frame.pict_type == _NO_TYPE


def _anchors(source: str | bytes) -> dict[int, tuple[int, int]]:
    """See `VideoInfo`."""
    anchors, restarts = {}, []
    with _opened(source) as (container, stream):
        for packet in _demuxed(container, stream, restarts=restarts):
            if packet.is_keyframe and packet.pos is not None:
                anchors[packet.pts] = packet.pos, restarts[-1] if restarts else 0
    return anchors


def has_no_fields(extradata: bytes | None) -> bool:
    """Whether the sequence parameters of H.264 (ITU-T H.264, 7.3.2.1.1) say that each picture is a whole frame."""
    return bool(extradata) and _frames_only(extradata)


@functools.lru_cache(maxsize=1024)
def _frames_only(extradata: bytes) -> bool:
    # In MP4 the units have a length before them, elsewhere a start code.
    units = [extradata[8:]] if extradata[0] == 1 else extradata.split(b"\0\0\1")[1:]
    parameters = [unit for unit in units if unit and unit[0] & 31 == 7]
    try:
        return bool(parameters) and all(map(_sps_has_frames_only, parameters))
    except ValueError:  # It ends too early.
        return False


def _sps_has_frames_only(unit: bytes) -> bool:
    bits = "".join(f"{byte:08b}" for byte in unit.replace(b"\0\0\3", b"\0\0"))
    place = 32  # behind the type of the unit, the profile, its constraints and the level

    def number() -> int:  # Exp-Golomb
        nonlocal place
        zeros = bits.index("1", place) - place
        place += 2 * zeros + 1
        return int(bits[place - zeros - 1 : place], 2) - 1

    def signed() -> int:
        value = number()
        return (value + 1) // 2 if value % 2 else -(value // 2)

    number()
    if unit[1] in (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135):
        chroma = number()
        place += chroma == 3
        number()
        number()
        place += 1
        scaled = bits[place] == "1"
        place += 1
        for matrix in range(scaled * (12 if chroma == 3 else 8)):
            place += 1
            last = following = 8
            for _ in range(bits[place - 1] == "1" and (16 if matrix < 6 else 64)):
                following = (last + signed()) % 256 if following else 0
                last = following or last
                if not following:
                    break
    number()
    order = number()
    if order == 0:
        number()
    elif order == 1:
        place += 1
        number()
        number()
        for _ in range(number()):
            number()
    number()
    place += 1
    number()
    number()
    if place >= len(bits):
        raise ValueError("no parameters")
    return bits[place] == "1"


def _runs(info: VideoInfo, wanted: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Wanted frames, increasing, as runs to read on end, each with the number of the keyframe to start at."""
    if len(info.keyframes) == 1:
        return [(0, wanted)]
    # Nothing between neighbors is worth a seek: most of what is wanted, and quicker found out than where to seek.
    gaps = wanted[1:] - wanted[:-1]
    on_end = not len(gaps) or gaps.max() <= _WORTH_A_SEEK
    keys = np.searchsorted(info.keyframes, info.pts[wanted[:1] if on_end else wanted], side="right") - 1
    keys = np.maximum(keys, 0)
    if on_end:
        return [(int(keys[0]), wanted)]
    skipped = np.searchsorted(info.pts, info.keyframes[keys[1:]]) - wanted[:-1]
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


def _demuxed(
    container: av.container.InputContainer, stream: av.VideoStream, shift: int = 0, restarts: list[int] | None = None
) -> Iterator[av.Packet]:
    """The stream's packets, then an empty one. PyAV's own iterator loses 150 bytes when it is dropped rather than closed.

    Where the format lets time stamps start anew, those behind are moved so that they go on: by `shift` and what is added to
    `restarts`. An error of the demuxer behind good packets is the end of the stream.
    """
    discontinuous, last, good = container.format.flags & _RESTARTS, None, False
    with closing(container.demux(stream)) as packets:  # pyright: ignore[reportArgumentType]  # it is a generator
        try:
            for packet in packets:
                if discontinuous and packet.dts is not None:
                    if last is not None and packet.dts + shift < last[0]:
                        shift = max(last) + max(packet.duration or 0, 1) - packet.dts
                        if restarts is not None:
                            restarts.append(shift)
                    if shift:
                        packet.dts += shift
                        packet.pts = None if packet.pts is None else packet.pts + shift
                    last = packet.dts, max(packet.dts if packet.pts is None else packet.pts, last[1] if last else packet.dts)
                good = good or bool(packet.size)
                yield packet
                if good and not discontinuous:
                    break
            else:
                return
            yield from packets  # No code runs between these, which is 1.5 % of the time of small videos.
        except av.error.FFmpegError as error:
            if not good or isinstance(error, OSError):  # What the system reports is no end.
                raise
            end = av.Packet()
            end.stream = stream
            yield end


def _found(packets: Iterator[av.Packet], start: int) -> Iterable[av.Packet]:
    """The packets from the keyframe of that time on; none where they begin behind it."""
    for packet in packets:
        if packet.pts == start and packet.is_keyframe:
            return chain([packet], packets)
        if not packet.size or (packet.dts is not None and packet.dts > start):
            break
    return ()


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
        if packet is not None:
            return packet.decode()
        return codec.decode(None) if codec else []
    except _DAMAGE:
        return []


def _is_strict(codec: av.VideoCodecContext) -> bool:
    """Whether damage makes a picture worthless: where no other refers to it, or each bit counts."""
    return bool(codec.codec.properties & _INTRA_ONLY) or not codec.codec.properties & _LOSSY


@contextmanager
def _complaints() -> Iterator[list]:
    """What decoders log as errors, in this thread. Some hand out damaged pictures and only log it."""
    with _logging, av.logging.Capture(local=True) as logged:
        before = av.logging.get_level()
        av.logging.set_level(av.logging.ERROR)
        try:
            yield logged
        finally:
            av.logging.set_level(before)


_logging = threading.Lock()


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
            elif _is_strict(streams[0].codec_context):
                streams[0].codec_context.options = _STRICT_DECODER
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise VideoError(f"{_name(source)}: {error.strerror}") from error


def _open(source: str | bytes, brief: bool) -> av.container.InputContainer:
    def opened(**options: Any) -> av.container.InputContainer:
        # "file:" keeps a colon in a name from being read as a protocol.
        target = io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
        return av.open(target, **options, **TOLERANT)

    if brief and _is_mp4(source):
        with suppress(av.error.FFmpegError):
            container = opened(format="mov", container_options=_BRIEF)
            codecs = [stream.codec_context for stream in container.streams.video]
            if all(codec and codec.name in _BRIEF_CODECS and has_no_fields(codec.extradata) for codec in codecs):
                return container
            container.close()
    return opened()


def _is_mp4(source: str | bytes) -> bool:
    if isinstance(source, bytes):
        return source[4:8] == b"ftyp"
    try:
        file = os.open(source, os.O_RDONLY | os.O_CLOEXEC)  # A file object costs small videos 0.3 % of their time.
        try:
            return os.read(file, 8)[4:] == b"ftyp"
        finally:
            os.close(file)
    except (OSError, ValueError):
        return False  # Opening it as a video tells the cause.


def _is_brief(container: av.container.InputContainer) -> bool:
    return bool(container.container_options)


def _name(source: str | bytes) -> str:
    return f"video of {len(source)} bytes" if isinstance(source, bytes) else source
