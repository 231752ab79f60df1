"""The grain pipeline: records -> views -> batches, for one host of many.

A training batch is a pure function of the seed and the step. Whatever the number of hosts, worker processes or threads,
and wherever a run resumes, step 1000 sees the same clips, so no iterator state is ever saved. Grain's `MapDataset`
gives this: each element draws from its own generator, seeded by its global position.

Training and evaluation differ in what they do about a bad video, one of which a view cannot be read: training shows another
in its place and counts it, evaluation marks it as not valid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import grain
import numpy as np

from wt_jax.data.boxes import LEAST_AREA, check_box_view, crop_boxes, find_boxes
from wt_jax.data.feature_store import check_feature_view, choose_rows, open_clip_features
from wt_jax.data.optical_flow import encode_motion
from wt_jax.data.records import TIME, Record, VideoList
from wt_jax.data.sampling import centered_start, extent, fits, frame_indices, random_windows, spread_windows
from wt_jax.data.video.audio import voiced_fraction
from wt_jax.data.video.cache import VideoCache
from wt_jax.data.video.decode import some_at_once
from wt_jax.data.video.reader import Readable, Reader, find_video
from wt_jax.data.video.yuv420 import Crop, Planes, crop_planes
from wt_jax.data.views import check_crops, crop_frame, crop_geometry, draw_crop
from wt_jax.data.workers.pool import iterate
from wt_jax.data.workers.shared_memory import empty
from wt_jax.errors import VideoError
from wt_jax.specs import GEOMETRY, AudioView, BoxView, Choice, ClipView, FeatureView, View, batch_arrays

_TRIES = 16
_NUMBERS = {"label", "video", "failed"}


def train_batches(
    videos: VideoList,
    views: Mapping[str, View],
    *,
    seed: int,
    batch_size: int,
    start_step: int = 0,
    num_steps: int | None = None,
    host: int = 0,
    num_hosts: int = 1,
    workers: int = 0,
    threads: int = 2,
    cache_gib: float = 0.0,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this host's part of the training batches; each epoch shows every video once, in a new order.

    A mixture keeps the shares of its lists in every stretch of the stream, and goes through each list epoch by epoch.

    Args:
      videos: what to show.
      views: the views to make of each video, all clips of it from one decoding pass.
      seed: with the step, decides everything about a batch.
      batch_size: clips in the global batch; host p gets the p-th of num_hosts equal stretches, so that the hosts' parts, one
        behind the other, are the batch that one host would see.
      start_step: the step of the first batch.
      num_steps: how many batches to yield; None: without end.
      host: index of this host, in [0, num_hosts).
      num_hosts: hosts that share the global batch.
      workers: worker processes; 0 works in threads of this process.
      threads: batches under way at once, per process; with 0 each batch is made when it is asked for.
      cache_gib: GiB of decoded frames that each process that reads keeps, see `VideoCache`; it changes no batch.

    Yields:
      The arrays of each view, see `wt_jax.specs.batch_arrays`, [b, ...] with b = batch_size // num_hosts: of a clip uint8
      [b, num_frames, size, size, 3]. And int32 [b] each: "label"; "video", the index of the record that is shown; "failed",
      the index of the record that should have been shown and could not be read, or -1.

    Raises:
      ValueError: the batch cannot be shared evenly by the hosts, there is no video, or the views are not as `check_views` says.
      SourceError: stored features or boxes cannot be read, or are not those that a view asks for.
      VideoError: 16 videos in a row could not be read.
      WorkerError: worker processes died again and again.
    """
    if not len(videos):
        raise ValueError("train_batches needs at least one video")
    check_views(videos, views)
    share = _share(batch_size, host, num_hosts)
    elements = _order(videos, seed).random_map(_with_state)
    stop = None if num_steps is None else (start_step + num_steps) * batch_size
    shares = elements[:stop].batch(share, batch_fn=_TrainBatch(videos, dict(views), VideoCache(cache_gib)))
    return iterate(shares[start_step * num_hosts + host :: num_hosts], workers, threads)


def eval_batches(
    videos: VideoList,
    view: ClipView,
    *,
    windows: int,
    batch_size: int,
    crops: int = 1,
    host: int = 0,
    num_hosts: int = 1,
    workers: int = 0,
    threads: int = 2,
    start: int = 0,
    pieces: int = 1,
    sound: AudioView | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this host's part of the evaluation batches: over all hosts each video once, in the order of the list.

    Args:
      videos: what to show.
      view: a view without randomness.
      windows: clips per video, spread evenly from its start to its end; 1 where records have a time, on which it is centered.
      batch_size: videos in the global batch; host p gets the p-th of num_hosts equal stretches.
      crops: squares per window, 1 or 3, see `views.check_crops`; those of a window follow each other.
      host: index of this host, in [0, num_hosts).
      num_hosts: hosts that share the global batch.
      workers: worker processes; 0 works in threads of this process.
      threads: batches under way at once, per process.
      start: the first batch of videos to yield.
      pieces: each batch of videos comes as so many batches, one after the other, of windows / pieces windows each: a bound of
        the memory that many windows take.
      sound: the sound of each window, to be read too; None: none is.

    Yields:
      "clip" uint8 [b, windows * crops, num_frames, size, size, 3], with b = batch_size // num_hosts; "geometry" float32
      [b, windows * crops, 7], how each was cut, see `wt_jax.specs.GEOMETRY`; "time" float32 [b, windows, 2], when the first
      and the last frame of each window appear, in seconds from the video's first frame (the last before the first where a
      short video is looped); "label" and "video" int32 [b]; "valid" bool [b]; with `sound` "sound" int16
      [b, windows, samples]. All hosts see the same number of batches: the
      last is padded with video and label -1 and valid False. A video that cannot be decoded has zeros and valid False.

    Raises:
      ValueError: the view is random or cannot have that many crops, there are several windows of a record with a time, the
        batch cannot be shared evenly by the hosts, or the windows cannot by the pieces.
    """
    if windows % pieces:
        raise ValueError(f"{windows} windows cannot be cut into {pieces} equal pieces")
    if view.crop == "random" or view.flip_probability:
        raise ValueError("eval_batches needs a view without randomness: crop 'center' or 'resize', flip_probability 0")
    check_crops(view.crop, crops)
    if TIME in videos.columns and windows > 1:
        raise ValueError(f"windows must be 1 where records have a time, got {windows}")
    share = _share(batch_size, host, num_hosts)
    padded = -(-len(videos) // batch_size) * batch_size
    clips = _EvalClips(videos, view, windows, crops, pieces, batch_size, sound)
    elements = grain.MapDataset.range(padded * pieces).map(clips)
    if start * batch_size >= padded:
        return iter(())
    return iterate(elements.batch(share)[start * pieces * num_hosts + host :: num_hosts], workers, threads)


def check_views(videos: VideoList, views: Mapping[str, View]) -> None:
    """Checks that the pipeline can yield these views of these videos.

    Raises:
      ValueError: a view has a reserved name, or one with a dot; boxes have no recorded clip in their window, or several; or
        boxes are asked for where records have no time.
      TypeError: a view is of an unknown kind.
      SourceError: stored features or boxes cannot be read, or are not those that a view asks for.
    """
    for name, view in views.items():
        if name in _NUMBERS or "." in name:
            raise ValueError(f"a view must not be called {name!r}: batches use {sorted(_NUMBERS)}, and VIEW.ARRAY")
        if type(view) not in VIEW_READERS:
            raise TypeError(f"view {name!r}: {type(view).__name__} is not one of {[kind.__name__ for kind in VIEW_READERS]}")
        if isinstance(view, FeatureView):
            check_feature_view(name, view)
        if isinstance(view, BoxView):
            recorded = [other for other in views.values() if _is_recorded(other, view.window)]
            if len(recorded) != 1:
                raise ValueError(
                    f"boxes {name!r} need one clip with record=True in window {view.window!r}, got {len(recorded)}"
                )
            if TIME not in videos.columns:
                raise ValueError(f"boxes {name!r} need a list with a column {TIME!r}, the seconds of the key frames")
            check_box_view(name, view)


def describe_failure(record: Record, views: Mapping[str, View] | None = None) -> str:
    """Why a record could not be read, in one line, found out by reading it again.

    With `views` these are read too, for which a video may be bad that can be decoded.
    """
    try:
        if views is None or any(isinstance(view, _TIMED) for view in views.values()):
            video = find_video(record.path)
            with video.open() as reader:
                listed = reader.info.num_frames
            lost = listed - video.check().num_frames
            if lost:
                return f"{record.path}: {lost} of {listed} frames cannot be decoded"
        if views:
            arrays = {name: np.empty(shape, dtype) for name, (shape, dtype) in batch_arrays(views).items()}
            read_views(record, views, np.random.default_rng(0), arrays)
    except VideoError as error:
        return str(error)
    return f"{record.path}: it can be decoded now; the failure was passing, or the file has changed"


def _with_state(index: int, rng: np.random.Generator) -> tuple[int, Mapping[str, Any]]:
    """The place of a video and the state of its element's generator, which grain uses again for other elements."""
    return index, rng.bit_generator.state


class _TrainBatch:
    """Makes a batch of training elements, each array written where it stays; a class, because it travels to workers."""

    def __init__(self, videos: VideoList, views: dict[str, View], cache: VideoCache):
        self.videos = videos
        self.views = views
        self.cache = cache
        self.arrays = batch_arrays(views)

    def __call__(self, elements: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, np.ndarray]:
        count, rng, shown = len(elements), np.random.Generator(np.random.Philox(0)), []
        arrays = {name: empty((count, *shape), dtype) for name, (shape, dtype) in self.arrays.items()}
        for place, (index, state) in enumerate(elements):
            rng.bit_generator.state = state
            shown.append(self._show(index, rng, {name: array[place, ...] for name, array in arrays.items()}))
        numbers = zip(("label", "video", "failed"), np.array(shown, np.int32).T, strict=True)
        return arrays | {name: values.copy() for name, values in numbers}

    def _show(self, index: int, rng: np.random.Generator, out: dict[str, np.ndarray]) -> tuple[int, int, int]:
        """Fills in the views of a video, or of another in its place; returns label, index, and index of what failed."""
        failed = -1
        for _ in range(_TRIES):
            record = self.videos[index]
            try:
                read_views(record, self.views, rng, out, self.cache.find)
            except VideoError as error:
                last = str(error)  # not the error: it holds this frame, and the frame it, until a collection
                failed = record.index if failed < 0 else failed
                index = int(rng.integers(len(self.videos)))
            else:
                return record.label, record.index, failed
        raise VideoError(f"{_TRIES} videos in a row could not be decoded; last: {last}")


@dataclass(frozen=True)
class _Shown:
    """A video whose views are being read.

    Attributes:
      record: which one.
      views: all its views, a `Choice` replaced by the view that was drawn.
      rng: where draws come from.
      out: the arrays to write to, by the names of the batch.
      video, reader: the video, open; None where no view needs it.
      windows: of each view with a place in time the indices of its frames.
    """

    record: Record
    views: Mapping[str, View]
    rng: np.random.Generator
    out: dict[str, np.ndarray]
    video: Readable | None = None
    reader: Reader | None = None
    windows: Mapping[str, np.ndarray] | None = None


def read_views(
    record: Record,
    views: Mapping[str, View],
    rng: np.random.Generator,
    out: dict[str, np.ndarray],
    find: Callable[[str], Readable] = find_video,
) -> None:
    """Reads the views of one video, which is opened once, and only where a view needs it.

    Args:
      record: the video.
      views: what to read; see `check_views`.
      rng: where all draws come from: first the variants, then the windows, then what each kind draws.
      out: the arrays of `wt_jax.specs.batch_arrays`, written to.
      find: opens nothing yet: the video of a name.

    Raises:
      VideoError: one of the views cannot be read.
    """
    asked = views
    views = {name: _draw(name, view, rng, out) if type(view) is Choice else view for name, view in asked.items()}
    readers: dict[Callable, dict[str, Any]] = {}
    for name, view in views.items():
        readers.setdefault(VIEW_READERS[type(view)], {})[name] = view
    timed: dict[str, Any] = {name: view for name, view in views.items() if isinstance(view, _TIMED)}
    video = find(record.path) if timed else None
    with video.open() if video else nullcontext() as reader:
        if reader is not None:
            _check_length(record, reader, asked)
        windows = random_windows(reader.info, timed, rng, _time_of(record, reader)) if reader else None
        shown = _Shown(record, views, rng, out, video, reader, windows)
        for read in _ORDER:
            if read in readers:
                read(shown, readers[read])


def _clips_of(view: View) -> Sequence[ClipView]:
    """The clips that a view may be."""
    return view.views if isinstance(view, Choice) else (view,) if isinstance(view, ClipView) else ()


def _draw(name: str, view: Choice, rng: np.random.Generator, out: dict[str, np.ndarray]) -> ClipView:
    """The variant of a view that is shown."""
    chosen = int(rng.integers(len(view.views)))
    out[f"{name}.choice"][...] = chosen
    return view.views[chosen]


def _check_length(record: Record, reader: Reader, views: Mapping[str, View]) -> None:
    """Raises VideoError where the video is too short for one of the clips that a view may be, and that does not loop."""
    for name, view in views.items():
        for clip in _clips_of(view):
            if not clip.loop and not fits(reader.info, clip):
                raise VideoError(f"{record.path}: its {reader.info.num_frames} frames are too few for view {name!r}")


def _time_of(record: Record, reader: Reader) -> float | None:
    """The time of a record, which must lie within its video."""
    if record.time is not None and record.time > reader.info.duration:
        raise VideoError(f"{record.path}: its time {record.time} s is behind its end, at {float(reader.info.duration):.2f} s")
    return record.time


def _is_recorded(view: View, window: str) -> bool:
    """Whether a view is a clip of this window whose geometry is known."""
    return isinstance(view, ClipView | Choice) and view.window == window and "geometry" in view.arrays


def _read_clips(shown: _Shown, views: Mapping[str, ClipView]) -> None:
    assert shown.reader is not None
    assert shown.windows is not None
    crop_clips(shown.reader, {name: shown.windows[name] for name in views}, views, shown.rng, out=shown.out)


def _read_audio(shown: _Shown, views: Mapping[str, AudioView]) -> None:
    assert shown.reader is not None
    assert shown.windows is not None
    assert shown.video is not None
    info = shown.reader.info
    for name, view in views.items():
        start = int(info.pts[shown.windows[name][0]]) * info.time_base
        samples = shown.video.audio(start, view.samples, view.rate)
        shown.out[name][:], shown.out[f"{name}.voiced"][...] = samples, voiced_fraction(samples, view.rate, view.voice_level)


def _read_boxes(shown: _Shown, views: Mapping[str, BoxView]) -> None:
    for name, view in views.items():
        clip = next(other for other, spec in shown.views.items() if _is_recorded(spec, view.window))
        boxes, labels = find_boxes(shown.record, view)
        boxes, part = crop_boxes(boxes, shown.out[f"{clip}.geometry"])
        kept = np.flatnonzero(part >= LEAST_AREA)[: view.most]
        for array, rows in ((shown.out[name], boxes), (shown.out[f"{name}.labels"], labels)):
            array[: len(kept)], array[len(kept) :] = rows[kept], 0
        shown.out[f"{name}.valid"][:] = np.arange(view.most) < len(kept)


def _read_features(shown: _Shown, views: Mapping[str, FeatureView]) -> None:
    for name, view in views.items():
        stored = open_clip_features(view.store)
        row = stored.rows.get(shown.record.path)
        if row is None:
            raise VideoError(f"{shown.record.path}: {view.store} has no features of it")
        chosen = choose_rows(view, stored.clips.shape[1], shown.rng)
        shown.out[name][:] = stored.clips[row][chosen]
        shown.out[f"{name}.geometry"][:] = stored.geometry[row][chosen]


# What reads each kind of view, all views of the kind at once; in this order, as boxes follow the clips' crops.
VIEW_READERS: Mapping[type, Callable[[_Shown, Mapping[str, Any]], None]] = {
    ClipView: _read_clips,
    Choice: _read_clips,
    AudioView: _read_audio,
    BoxView: _read_boxes,
    FeatureView: _read_features,
}
_ORDER = tuple(dict.fromkeys(VIEW_READERS.values()))
_TIMED = (ClipView, Choice, AudioView)  # kinds that begin at a moment of the video, for which it is opened


@dataclass(frozen=True)
class _EvalClips:
    """Makes one evaluation element, as the arguments of `eval_batches` say; a class, because it travels to worker processes."""

    videos: VideoList
    view: ClipView
    windows: int
    crops: int
    pieces: int
    batch_size: int
    sound: AudioView | None

    def __call__(self, element: int) -> dict[str, Any]:
        batch, place = divmod(element, self.batch_size)
        index, piece = batch // self.pieces * self.batch_size + place, batch % self.pieces
        size, windows = self.view.size, self.windows // self.pieces
        clip = np.zeros((windows * self.crops, self.view.num_frames, size, size, 3), np.uint8)
        geometry = np.zeros((windows * self.crops, len(GEOMETRY)), np.float32)
        time = np.zeros((windows, 2), np.float32)
        sound = None if self.sound is None else np.zeros((windows, self.sound.samples), np.int16)
        label, video, valid = -1, -1, False
        if index < len(self.videos):
            record = self.videos[index]
            label, video = record.label, record.index
            try:
                clip, geometry, time = self._clips(record, slice(piece * windows, (piece + 1) * windows), sound)
                valid = True
            except VideoError:
                pass  # Named by the main process, which sees that a video is not valid.
        return {
            "clip": clip,
            "geometry": geometry,
            "time": time,
            "label": np.int32(label),
            "video": np.int32(video),
            "valid": np.bool_(valid),
            **({} if sound is None else {"sound": sound}),
        }

    def _clips(self, record: Record, part: slice, sound: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The clips of these windows of a video, how they were cut, and when they begin and end; `sound` is written to."""
        halves = {"middle": 1} if self.crops == 1 else {"first": 0, "middle": 1, "last": 2}
        views = dict.fromkeys(halves, replace(self.view, record=True))
        video = find_video(record.path)
        with video.open() as reader:
            info = reader.info
            frames = np.stack(self._windows(record, reader)[part])
            if sound is not None and self.sound is not None:
                for samples, first in zip(sound, frames.min(axis=1).tolist(), strict=True):
                    samples[:] = video.audio(int(info.pts[first]) * info.time_base, self.sound.samples, self.sound.rate)
            read = crop_clips(reader, dict.fromkeys(halves, frames.ravel()), views, None, halves)
        time = (info.pts[frames[:, [0, -1]]] - info.pts[0]) * float(info.time_base)
        # Windows first, then the crops of each.
        clips = np.stack([read[name].reshape(*frames.shape, *read[name].shape[1:]) for name in halves], axis=1)
        geometry = np.stack([np.tile(read[f"{name}.geometry"], (len(frames), 1)) for name in halves], axis=1)
        geometry[..., -2:] = np.array([extent(info, window) for window in frames])[:, None]
        return clips.reshape(-1, *clips.shape[2:]), geometry.reshape(-1, len(GEOMETRY)), time.astype(np.float32)

    def _windows(self, record: Record, reader: Reader) -> list[np.ndarray]:
        """The frames of each window."""
        time = _time_of(record, reader)
        if time is None:
            return spread_windows(reader.info, self.view, self.windows)
        return [frame_indices(reader.info, self.view, centered_start(reader.info, self.view, time))]


def crop_clips(
    reader: Reader,
    frames: Mapping[str, np.ndarray],
    views: Mapping[str, ClipView],
    rng: np.random.Generator | None,
    halves: Mapping[str, int] | None = None,
    out: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Reads frames of a video once and cuts each view from them, a few at a time, so that few full frames are kept.

    Args:
      reader: the open video.
      frames: for each view, the indices [T] of its frames, in any order.
      views: the views, whose crops and flips are drawn one after the other.
      rng: where the draws come from; None is allowed for views without randomness.
      halves: where the square of a view lies, see `views.draw_crop`; None: in the middle.
      out: the arrays to write to; None: new ones.

    Returns:
      For each view, uint8 [T, size, size, 3]; and where `record` is set float32 [7] as VIEW.geometry.

    Raises:
      VideoError: a frame cannot be decoded.
    """
    clips = out or _arrays_of(frames, views)
    indices = {name: numbers.tolist() for name, numbers in frames.items()}
    for name, numbers in indices.items():
        if len(numbers) != len(clips[name]):
            raise ValueError(f"view {name!r}: {len(numbers)} frames for a clip of {len(clips[name])}")
    wanted = np.array(sorted(set().union(*indices.values())))
    cuts: dict[str, Crop] = {}
    for pictures in some_at_once(reader.frames(wanted, planes=True), lambda picture: math.prod(picture.shape)):
        if not cuts:
            height, width = size = next(iter(pictures.values())).shape[:2]
            cuts = {name: draw_crop(height, width, view, rng, halves[name] if halves else 1) for name, view in views.items()}
            for name, view in views.items():
                if view.record:
                    clips[f"{name}.geometry"][:] = *crop_geometry(cuts[name], *size), *extent(reader.info, frames[name])
        for name, cut in cuts.items():
            _cut_pictures(pictures, indices[name], cut, clips[name])
    for name, view in views.items():
        if view.content != "rgb":
            clips[name][:] = encode_motion(clips[name], view.content)
    return clips


def _arrays_of(frames: Mapping[str, np.ndarray], views: Mapping[str, ClipView]) -> dict[str, np.ndarray]:
    """Arrays for clips of as many frames, which need not be those of the views."""
    clips = {name: np.empty((len(frames[name]), view.size, view.size, 3), np.uint8) for name, view in views.items()}
    recorded = [name for name, view in views.items() if view.record]
    return clips | {f"{name}.geometry": np.empty(len(GEOMETRY), np.float32) for name in recorded}


def _cut_pictures(pictures: Mapping[int, np.ndarray | Planes], indices: Sequence[int], cut: Crop, clip: np.ndarray) -> None:
    """Crops those of the pictures, by index, that the clip shows, each to where it is in the clip."""
    shown = {slot: pictures[index] for slot, index in enumerate(indices) if index in pictures}
    planes = {slot: picture for slot, picture in shown.items() if isinstance(picture, Planes)}
    if planes:
        crop_planes(list(planes.values()), list(planes), cut, clip)
    for slot, picture in shown.items():
        if not isinstance(picture, Planes):
            crop_frame(picture, cut, clip[slot])


def _order(videos: VideoList, seed: int) -> grain.MapDataset:
    """The places of the videos in the order of showing, without end: a function of the seed alone."""
    if not videos.parts:
        return grain.MapDataset.range(len(videos)).seed(seed).shuffle().repeat()
    lists, start = [], 0
    for place, (count, _) in enumerate(videos.parts):
        lists.append(grain.MapDataset.range(start, start + count).seed(seed + place).shuffle().repeat())
        start += count
    return grain.MapDataset.mix(lists, [weight for _, weight in videos.parts]).seed(seed)


def _share(batch_size: int, host: int, num_hosts: int) -> int:
    """Elements of the global batch that belong to each host."""
    if batch_size < 1 or batch_size % num_hosts:
        raise ValueError(f"batch_size {batch_size} cannot be shared evenly by {num_hosts} hosts")
    if not 0 <= host < num_hosts:
        raise ValueError(f"host {host} is not in [0, {num_hosts})")
    return batch_size // num_hosts
