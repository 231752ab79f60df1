"""The grain pipeline: records -> views -> batches, for one host of many.

A training batch is a pure function of the seed and the step. Whatever the number of hosts, worker processes or threads,
and wherever a run resumes, step 1000 sees the same clips, so no iterator state is ever saved. Grain's `MapDataset`
gives this: each element draws from its own generator, seeded by its global position.

Training and evaluation differ in what they do about a video that cannot be decoded: training shows another in its place
and says so, evaluation marks it as not valid.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping

import grain
import numpy as np
from absl import flags

from wt_jax.data.decode import VideoError, check, decode, probe
from wt_jax.data.sampling import random_windows, spread_windows
from wt_jax.data.sources import Record, VideoList
from wt_jax.data.views import ViewSpec, apply_view, check_crops, spread_crops

_TRIES = 16
_NUMBERS = {"label", "video", "failed"}


def train_batches(
    videos: VideoList,
    views: Mapping[str, ViewSpec],
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

    Args:
      videos: what to show.
      views: the views to make of each video, all from one decoding pass.
      seed: with the step, decides everything about a batch.
      batch_size: clips in the global batch; host p gets the elements p, p + num_hosts, ...
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
    """
    if not len(videos):
        raise ValueError("train_batches needs at least one video")
    if taken := _NUMBERS & views.keys():
        raise ValueError(f"a view must not be called {taken.pop()!r}: batches use the names {sorted(_NUMBERS)}")
    share = _share(batch_size, host, num_hosts)
    load = _TrainClip(videos, dict(views))
    elements = grain.MapDataset.range(len(videos)).seed(seed).shuffle().repeat().random_map(load)
    stop = None if num_steps is None else (start_step + num_steps) * batch_size
    return _iterate(elements[start_step * batch_size + host : stop : num_hosts].batch(share), workers, threads)


def eval_batches(
    videos: VideoList,
    view: ViewSpec,
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
      batch_size: videos in the global batch; host p gets the elements p, p + num_hosts, ...
      crops: squares per window, 1 or 3, see `views.spread_crops`; those of a window follow each other.
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
    first = start * batch_size + host
    if first >= padded:
        return iter(())
    return _iterate(elements[first::num_hosts].batch(share), workers, threads)


def describe_failure(record: Record) -> str:
    """Why a record could not be decoded, in one line, found out by reading it again."""
    try:
        check(record.path)
    except VideoError as error:
        return str(error)
    return f"{record.path}: it can be decoded now; the failure was passing, or the file has changed"


class _TrainClip:
    """Makes one training element; a class, because it travels to worker processes."""

    def __init__(self, videos: VideoList, views: dict[str, ViewSpec]):
        self.videos = videos
        self.views = views

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        failed = -1
        for _ in range(_TRIES):
            record = self.videos[index]
            try:
                clips = self._views(record, rng)
            except VideoError as error:
                last = error
                failed = record.index if failed < 0 else failed
                index = int(rng.integers(len(self.videos)))
            else:
                numbers = {"label": record.label, "video": record.index, "failed": failed}
                return clips | {name: np.int32(value) for name, value in numbers.items()}
        raise VideoError(f"{_TRIES} videos in a row could not be decoded; last: {last}")

    def _views(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        info = probe(record.path)
        windows = random_windows(info, self.views, rng)
        wanted = np.unique(np.concatenate(list(windows.values())))
        frames = decode(record.path, wanted, info)
        return {
            name: apply_view(frames[np.searchsorted(wanted, windows[name])], view, rng) for name, view in self.views.items()
        }


class _EvalClips:
    """Makes one evaluation element; a class, because it travels to worker processes."""

    def __init__(self, videos: VideoList, view: ViewSpec, windows: int, crops: int):
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
        info = probe(record.path)
        frames = np.stack(spread_windows(info, self.view, self.windows))
        wanted, order = np.unique(frames, return_inverse=True)
        crops = spread_crops(decode(record.path, wanted, info), self.view, self.crops)
        time = (info.pts[frames[:, [0, -1]]] - info.pts[0]) * float(info.time_base)
        clips = [crops[:, places] for places in order.reshape(self.windows, -1)]
        return np.concatenate(clips), time.astype(np.float32)


def _share(batch_size: int, host: int, num_hosts: int) -> int:
    """Elements of the global batch that belong to each host."""
    if batch_size < 1 or batch_size % num_hosts:
        raise ValueError(f"batch_size {batch_size} cannot be shared evenly by {num_hosts} hosts")
    if not 0 <= host < num_hosts:
        raise ValueError(f"host {host} is not in [0, {num_hosts})")
    return batch_size // num_hosts


def _iterate(batches: grain.MapDataset, workers: int, threads: int) -> Iterator[dict[str, np.ndarray]]:
    """Reads batches ahead. Only whole batches are handed out to workers, so their content knows nothing of workers."""
    dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain reads absl flags on its way to a worker.
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
    return iter(dataset)


def _start_worker(worker: int, num_workers: int) -> None:
    """Keeps JAX, which grain imports, off the accelerator of the main process."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
