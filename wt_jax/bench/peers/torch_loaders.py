"""The same clips by a PyTorch `DataLoader`, with torchcodec, decord or PyAV, as a competent user would write it.

Each video is opened once and asked for the union of its wanted frames in one call; worker processes with one decoding
thread each; crop and flip drawn by the very functions of `wt_jax.data.views`, and RGB frames resized by OpenCV as there. Our
own pipeline cuts 4:2:0 video from its planes instead.
torchcodec seeks by `seek_mode="approximate"`, which does not read all packets first and is exact for files of constant rate,
as those measured here; NHWC output avoids a transposition. decord is asked by `get_batch`, once. PyAV seeks to the keyframe
and converts wanted frames only.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # of an extra
from torch.utils.data import DataLoader, Dataset  # pyright: ignore[reportMissingImports]  # of an extra

from wt_jax.data.sampling import random_windows
from wt_jax.data.video.decode import VideoInfo
from wt_jax.data.views import crop_frame, draw_crop
from wt_jax.specs import ClipView

# From a path and a choice of frames, given the number of frames and the rate: the frames [n, H, W, 3] in the order chosen.
Reader = Callable[[str, Callable[[int, Fraction], np.ndarray]], np.ndarray]


def read_torchcodec(path: str, choose: Callable[[int, Fraction], np.ndarray]) -> np.ndarray:
    """One `VideoDecoder` and one batch."""
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]  # of an extra

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="approximate")
    wanted = choose(len(decoder), Fraction(decoder.metadata.average_fps).limit_denominator(1001))
    return decoder.get_frames_at(wanted.tolist()).data.numpy()


def read_decord(path: str, choose: Callable[[int, Fraction], np.ndarray]) -> np.ndarray:
    """One `VideoReader` and one batch."""
    import decord  # pyright: ignore[reportMissingImports]  # of an extra

    reader = decord.VideoReader(path, num_threads=1)
    wanted = choose(len(reader), Fraction(reader.get_avg_fps()).limit_denominator(1001))
    return reader.get_batch(wanted.tolist()).asnumpy()


def read_pyav(path: str, choose: Callable[[int, Fraction], np.ndarray]) -> np.ndarray:
    """Seeks to the keyframe before the first wanted frame, and again where the next lies more than two seconds ahead."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        rate, base = stream.average_rate, stream.time_base
        assert rate is not None
        assert base is not None
        wanted = choose(stream.frames, rate)
        first, unit = stream.start_time or 0, 1 / (rate * base)
        frames: dict[int, np.ndarray] = {}
        cuts = np.flatnonzero(np.diff(wanted) > 2 * rate) + 1
        for run in np.split(wanted, cuts):
            container.seek(int(first + run[0] * unit), stream=stream)
            left = set(run.tolist())
            for frame in container.decode(stream):
                index = round(((frame.pts or 0) - first) / unit)
                if index in left:
                    frames[index] = frame.to_ndarray(format="rgb24")
                    left.remove(index)
                if not left:
                    break
        return np.stack([frames[index] for index in wanted.tolist()])


READERS: Mapping[str, Reader] = {"torchcodec": read_torchcodec, "decord": read_decord, "PyAV": read_pyav}


class _Clips(Dataset):
    """Item i is a random clip set of video i modulo their number, drawn from (seed, i)."""

    def __init__(self, paths: Sequence[str], views: Mapping[str, ClipView], reader: str, seed: int, count: int):
        self.paths, self.views, self.reader, self.seed, self.count = list(paths), dict(views), reader, seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, item))
        windows: dict[str, np.ndarray] = {}
        chosen: list[np.ndarray] = []

        def choose(count: int, rate: Fraction) -> np.ndarray:
            info = VideoInfo(np.arange(count), count, 1 / rate, np.array([0]), 0, 0)
            windows.update(random_windows(info, self.views, rng))
            chosen.append(np.unique(np.concatenate(list(windows.values()))))
            return chosen[0]

        frames = READERS[self.reader](self.paths[item % len(self.paths)], choose)
        clips = {}
        for name, view in self.views.items():
            height, width = frames.shape[1:3]
            cut = draw_crop(height, width, view, rng)
            clip = np.empty((view.num_frames, view.size, view.size, 3), np.uint8)
            for target, place in zip(clip, np.searchsorted(chosen[0], windows[name]), strict=True):
                crop_frame(frames[place], cut, target)
            clips[name] = torch.from_numpy(clip)
        return clips


def torch_batches(
    paths: Sequence[str], views: Mapping[str, ClipView], reader: str, *, batch_size: int, workers: int, seed: int, steps: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Yields `steps` batches: for each view uint8 [batch_size, num_frames, size, size, 3]. `reader` is a key of `READERS`."""
    clips = _Clips(paths, views, reader, seed, steps * batch_size)
    options = {"prefetch_factor": 2} if workers else {}
    order = np.random.default_rng(seed).permutation(len(clips)).tolist()
    return iter(DataLoader(clips, batch_size, sampler=order, num_workers=workers, **options))
