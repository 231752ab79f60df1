"""The cache of decoded videos: it changes no batch, decodes what it keeps once, and stays within its size."""

import shutil
from collections.abc import Callable

import numpy as np
import pytest
from support.batches import VIEWS, digest
from support.sounds import write_sounding
from support.video_files import write_video
from test_yuv420 import picture

from wt_jax.data.pipeline import read_views, train_batches
from wt_jax.data.records import Record, VideoList
from wt_jax.data.video.cache import VideoCache
from wt_jax.data.video.reader import find_video
from wt_jax.data.video.yuv420 import Crop, Planes, compact, crop_planes, planes_of
from wt_jax.errors import VideoError
from wt_jax.specs import AudioView, batch_arrays

ODD = 33, 47


@pytest.fixture
def videos(tmp_path):
    """Six videos, one of them of odd height and width, one with sound; and one that cannot be decoded."""
    paths = [write_video(tmp_path / f"{number}.mp4", 20 + number) for number in range(4)]
    paths += [write_video(tmp_path / "odd.mkv", 20, height=ODD[0], width=ODD[1], codec="ffv1")]
    paths += [write_sounding(tmp_path / "tone.mp4", 0.5, seconds=1.0, codec="aac"), str(tmp_path / "text.mp4")]
    (tmp_path / "text.mp4").write_text("no video")
    return VideoList(tuple(paths), np.zeros(len(paths), np.int32), ("a",))


def epochs(videos: VideoList, gib: float, workers: int = 0):
    return train_batches(videos, VIEWS, seed=3, batch_size=7, num_steps=4, workers=workers, threads=1, cache_gib=gib)


@pytest.mark.parametrize("gib", [1.0, 200e3 / 2**30])
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_those_without_a_cache(videos, gib, workers):
    assert [digest(batch) for batch in epochs(videos, gib, workers)] == [digest(batch) for batch in epochs(videos, 0.0)]


def test_sound_is_read_from_the_file_of_a_kept_video(videos):
    sounding = VideoList(videos.paths[5:6], videos.labels[5:6], videos.classes)
    views = {"query": VIEWS["query"], "sound": AudioView(VIEWS["query"].window, seconds=0.25)}
    plain, kept = (
        list(train_batches(sounding, views, seed=0, batch_size=1, num_steps=3, threads=0, cache_gib=gib)) for gib in (0.0, 1.0)
    )
    assert [digest(batch) for batch in plain] == [digest(batch) for batch in kept]
    assert any(batch["sound"].any() for batch in plain)


def test_a_kept_video_needs_its_file_no_more(videos, tmp_path):
    sound = VideoList(videos.paths[:6], videos.labels[:6], videos.classes)
    expected = [digest(batch) for batch in train_batches(sound, VIEWS, seed=0, batch_size=6, num_steps=3, threads=0)]
    batches = train_batches(sound, VIEWS, seed=0, batch_size=6, num_steps=3, threads=0, cache_gib=1.0)
    found = [digest(next(batches))]
    for path in sound.paths:
        shutil.move(path, tmp_path / "away")
    assert found + [digest(batch) for batch in batches] == expected


def test_it_keeps_the_first_videos_that_fit(videos):
    with VideoCache(1.0).find(videos.paths[0]).open() as reader:
        size = 3 * reader.info.width * reader.info.height * reader.info.num_frames  # as RGB, what is reserved meanwhile
    cache = VideoCache((size + 1) / 2**30)
    for path in [*videos.paths[:4]] * 2:
        with cache.find(path).open() as reader:
            dict(reader.frames(np.arange(3), planes=True))
    assert list(cache._kept) == [videos.paths[0]]
    assert 0 < size - cache._room < size  # planes take half of RGB


@pytest.mark.parametrize("place", [0.1, 0.2, 0.3, 0.4, 0.5])
def test_a_damaged_video_is_read_as_without_a_cache(tmp_path, place):
    path = tmp_path / "cut.mp4"
    write_video(path, 60)
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    content[start : start + 400] = bytes(400)
    path.write_bytes(content)

    def read(find: Callable) -> list[str]:
        rng, found = np.random.default_rng(0), []
        for _ in range(12):
            out = {name: np.zeros(shape, dtype) for name, (shape, dtype) in batch_arrays(VIEWS).items()}
            try:
                read_views(Record(0, str(path), 0), VIEWS, rng, out, find)
                found.append(digest(out))
            except VideoError as error:
                found.append(str(error))
        return found

    expected = read(find_video)
    assert len(set(expected)) > 1
    assert read(VideoCache(1.0).find) == expected


def test_an_absent_video_is_named(tmp_path):
    cache = VideoCache(1.0)
    for _ in range(2):
        with pytest.raises(VideoError, match=r"absent\.mp4"), cache.find(str(tmp_path / "absent.mp4")).open():
            pass


def test_frames_without_padding_are_cut_alike():
    rng = np.random.default_rng(0)
    for seed, (height, width) in enumerate([(32, 32), ODD, (1, 1), (90, 150)]):
        frame = picture(height, width, seed)
        planes = planes_of(frame)
        assert planes is not None
        small = compact(planes)
        assert sum(np.asarray(plane).nbytes for plane in small.planes) == height * width + 2 * -(-height // 2) * -(-width // 2)
        for _ in range(4):
            top, left = int(rng.integers(height)), int(rng.integers(width))
            rows, columns = int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1))
            cut = Crop(top, left, rows, columns, bool(rng.integers(2)))
            np.testing.assert_array_equal(cut_of(planes, cut), cut_of(small, cut))


def cut_of(planes: Planes, cut: Crop) -> np.ndarray:
    clip = np.zeros((1, 16, 16, 3), np.uint8)
    crop_planes([planes], [0], cut, clip)
    return clip
