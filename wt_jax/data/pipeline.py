"""The grain pipeline: records -> views -> batches, for one host of many.

A training batch is a pure function of the seed and the step. Whatever the number of hosts, worker processes or threads,
and wherever a run resumes, step 1000 sees the same clips, so no iterator state is ever saved. Grain's `MapDataset`
gives this: each element draws from its own generator, seeded by its global position.

Training and evaluation differ in what they do about a video that cannot be decoded: training shows another in its place
and says so, evaluation marks it as not valid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import grain
import numpy as np

from wt_jax.data.optical_flow import encode_motion
from wt_jax.data.records import Record, VideoList
from wt_jax.data.sampling import random_windows, spread_windows
from wt_jax.data.video.reader import Reader, find_video, open_video
from wt_jax.data.video.yuv420 import Crop, Planes, crop_planes
from wt_jax.data.views import check_crops, crop_frame, draw_crop
from wt_jax.data.workers.pool import iterate
from wt_jax.data.workers.shared_memory import empty
from wt_jax.errors import VideoError
from wt_jax.specs import ClipView

_TRIES = 16
_TOGETHER_BYTES = 2 << 20  # of frames as RGB
_NUMBERS = {"label", "video", "failed"}


def train_batches(
    videos: VideoList,
    views: Mapping[str, ClipView],
    *,
    seed: int,
    batch_size: int,
    start_step: int = 0,
    num_steps: int | None = None,
    host: int = 0,
    num_hosts: int = 1,
    workers: int = 0,
    threads: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this host's part of the training batches; each epoch shows every video once, in a new order.

    A mixture keeps the shares of its lists in every stretch of the stream, and goes through each list epoch by epoch.

    Args:
      videos: what to show.
      views: the views to make of each video, all from one decoding pass.
      seed: with the step, decides everything about a batch.
      batch_size: clips in the global batch; host p gets the p-th of num_hosts equal stretches, so that the hosts' parts, one
        behind the other, are the batch that one host would see.
      start_step: the step of the first batch.
      num_steps: how many batches to yield; None: without end.
      host: index of this host, in [0, num_hosts).
      num_hosts: hosts that share the global batch.
      workers: worker processes; 0 works in threads of this process.
      threads: batches under way at once, per process; with 0 each batch is made when it is asked for.

    Yields:
      For each view, uint8 [b, num_frames, size, size, 3], with b = batch_size // num_hosts; and int32 [b] each:
      "label"; "video", the index of the record that is shown; "failed", the index of the record that should have been
      shown and could not be decoded, or -1.

    Raises:
      ValueError: the batch cannot be shared evenly by the hosts, there is no video, or a view has a reserved name.
      VideoError: 16 videos in a row could not be decoded.
      WorkerError: worker processes died again and again.
    """
    if not len(videos):
        raise ValueError("train_batches needs at least one video")
    if taken := _NUMBERS & views.keys():
        raise ValueError(f"a view must not be called {taken.pop()!r}: batches use the names {sorted(_NUMBERS)}")
    share = _share(batch_size, host, num_hosts)
    elements = _order(videos, seed).random_map(_with_state)
    stop = None if num_steps is None else (start_step + num_steps) * batch_size
    shares = elements[:stop].batch(share, batch_fn=_TrainBatch(videos, dict(views)))
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
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this host's part of the evaluation batches: over all hosts each video once, in the order of the list.

    Args:
      videos: what to show.
      view: a view without randomness.
      windows: clips per video, spread evenly from its start to its end.
      batch_size: videos in the global batch; host p gets the p-th of num_hosts equal stretches.
      crops: squares per window, 1 or 3, see `views.check_crops`; those of a window follow each other.
      host: index of this host, in [0, num_hosts).
      num_hosts: hosts that share the global batch.
      workers: worker processes; 0 works in threads of this process.
      threads: batches under way at once, per process.
      start: the first batch to yield.

    Yields:
      "clip" uint8 [b, windows * crops, num_frames, size, size, 3], with b = batch_size // num_hosts; "time" float32
      [b, windows, 2], when the first and the last frame of each window appear, in seconds from the video's first frame (the
      last before the first where a short video is looped); "label" and "video" int32 [b]; "valid" bool [b]. All hosts see
      the same number of batches: the last is padded with video and label -1 and valid False. A video that cannot be
      decoded has zeros and valid False.

    Raises:
      ValueError: the view is random or cannot have that many crops, or the batch cannot be shared evenly by the hosts.
    """
    if view.crop == "random" or view.flip_probability:
        raise ValueError("eval_batches needs a view without randomness: crop 'center' or 'resize', flip_probability 0")
    check_crops(view, crops)
    share = _share(batch_size, host, num_hosts)
    padded = -(-len(videos) // batch_size) * batch_size
    elements = grain.MapDataset.range(padded).map(_EvalClips(videos, view, windows, crops))
    if start * batch_size >= padded:
        return iter(())
    return iterate(elements.batch(share)[start * num_hosts + host :: num_hosts], workers, threads)


def describe_failure(record: Record) -> str:
    """Why a record could not be decoded, in one line, found out by reading it again."""
    try:
        find_video(record.path).check()
    except VideoError as error:
        return str(error)
    return f"{record.path}: it can be decoded now; the failure was passing, or the file has changed"


def _with_state(index: int, rng: np.random.Generator) -> tuple[int, Mapping[str, Any]]:
    """The place of a video and the state of its element's generator, which grain uses again for other elements."""
    return index, rng.bit_generator.state


class _TrainBatch:
    """Makes a batch of training elements, each frame written where it stays; a class, because it travels to workers."""

    def __init__(self, videos: VideoList, views: dict[str, ClipView]):
        self.videos = videos
        self.views = views

    def __call__(self, elements: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, np.ndarray]:
        count, rng, shown = len(elements), np.random.Generator(np.random.Philox(0)), []
        clips = {name: empty((count, view.num_frames, view.size, view.size, 3)) for name, view in self.views.items()}
        for place, (index, state) in enumerate(elements):
            rng.bit_generator.state = state
            shown.append(self._show(index, rng, {name: clips[name][place] for name in clips}))
        numbers = zip(("label", "video", "failed"), np.array(shown, np.int32).T, strict=True)
        return clips | {name: values.copy() for name, values in numbers}

    def _show(self, index: int, rng: np.random.Generator, clips: dict[str, np.ndarray]) -> tuple[int, int, int]:
        """Fills in the views of a video, or of another in its place; returns label, index, and index of what failed."""
        failed = -1
        for _ in range(_TRIES):
            record = self.videos[index]
            try:
                with open_video(record.path) as reader:
                    crop_clips(reader, random_windows(reader.info, self.views, rng), self.views, rng, out=clips)
            except VideoError as error:
                last = str(error)  # not the error: it holds this frame, and the frame it, until a collection
                failed = record.index if failed < 0 else failed
                index = int(rng.integers(len(self.videos)))
            else:
                return record.label, record.index, failed
        raise VideoError(f"{_TRIES} videos in a row could not be decoded; last: {last}")


class _EvalClips:
    """Makes one evaluation element; a class, because it travels to worker processes."""

    def __init__(self, videos: VideoList, view: ClipView, windows: int, crops: int):
        self.videos = videos
        self.view = view
        self.windows = windows
        self.crops = crops

    def __call__(self, index: int) -> dict[str, np.ndarray]:
        size = self.view.size
        clip = np.zeros((self.windows * self.crops, self.view.num_frames, size, size, 3), np.uint8)
        time = np.zeros((self.windows, 2), np.float32)
        label, video, valid = -1, -1, False
        if index < len(self.videos):
            record = self.videos[index]
            label, video = record.label, record.index
            try:
                clip, time = self._clips(record)
                valid = True
            except VideoError:
                pass  # Named by the main process, which sees that a video is not valid.
        return {
            "clip": clip,
            "time": time,
            "label": np.int32(label),
            "video": np.int32(video),
            "valid": np.bool_(valid),
        }

    def _clips(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """The clips of a video, and when they begin and end."""
        halves = {"middle": 1} if self.crops == 1 else {"first": 0, "middle": 1, "last": 2}
        with open_video(record.path) as reader:
            info = reader.info
            frames = np.stack(spread_windows(info, self.view, self.windows))
            views = dict.fromkeys(halves, self.view)
            clips = crop_clips(reader, dict.fromkeys(halves, frames.ravel()), views, None, halves)
        time = (info.pts[frames[:, [0, -1]]] - info.pts[0]) * float(info.time_base)
        # Windows first, then the crops of each.
        crops = np.stack([clip.reshape(*frames.shape, *clip.shape[1:]) for clip in clips.values()], axis=1)
        return crops.reshape(-1, *crops.shape[2:]), time.astype(np.float32)


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
      For each view, uint8 [T, size, size, 3].

    Raises:
      VideoError: a frame cannot be decoded.
    """
    clips = out or {name: np.empty((len(frames[name]), view.size, view.size, 3), np.uint8) for name, view in views.items()}
    indices = {name: numbers.tolist() for name, numbers in frames.items()}
    wanted = np.array(sorted(set().union(*indices.values())))
    cuts: dict[str, Crop] = {}
    for pictures in _some_at_once(reader.frames(wanted, planes=True)):
        if not cuts:
            size = next(iter(pictures.values())).shape[:2]
            cuts = {name: draw_crop(*size, view, rng, halves[name] if halves else 1) for name, view in views.items()}
        for name, cut in cuts.items():
            places = zip(indices[name], range(len(clips[name])), strict=True)
            _cut_pictures([(pictures[index], place) for index, place in places if index in pictures], cut, clips[name])
    for name, view in views.items():
        if view.content != "rgb":
            clips[name][:] = encode_motion(clips[name], view.content)
    return clips


def _some_at_once(pictures: Iterator[tuple[int, np.ndarray | Planes]]) -> Iterator[dict[int, np.ndarray | Planes]]:
    """Small frames many at once: the decoder and what cuts are quicker where they find themselves in the processor's caches."""
    for index, first in pictures:
        room = max(_TOGETHER_BYTES // math.prod(first.shape), 1)
        yield {index: first} | dict(islice(pictures, room - 1))


def _cut_pictures(shown: Sequence[tuple[np.ndarray | Planes, int]], cut: Crop, clip: np.ndarray) -> None:
    """Cuts each picture to its place in the clip."""
    planes = [each for each in shown if type(each[0]) is Planes]
    if planes:
        crop_planes(*zip(*planes, strict=True), cut, clip)
    if len(planes) < len(shown):
        for picture, place in shown:
            if type(picture) is not Planes:
                crop_frame(picture, cut, clip[place])


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
