"""Cutting clips from a decoder's planes: against NumPy, against RGB from FFmpeg, and on real videos."""

import numba
import numpy as np
import pytest
from av import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from wt_jax.data.video.yuv420 import Crop, crop_planes, planes_of
from wt_jax.data.views import crop_frame
from wt_jax.kernels.compiled import compiled


def picture(height: int, width: int, seed: int = 0, smooth: bool = False, format: str = "yuv420p") -> VideoFrame:
    """A picture of random planes; lines of their own length."""
    frame, rng = VideoFrame(width, height, format), np.random.default_rng(seed)
    for place, plane in enumerate(frame.planes):
        rows, columns = (height, width) if not place else (-(-height // 2), -(-width // 2))
        values = np.zeros((plane.height, plane.line_size), np.uint8)
        values[:rows, :columns] = rng.integers(60, 180) if smooth else rng.integers(0, 256, (rows, columns))
        if smooth:
            values[:rows, :columns] += np.add.outer(np.arange(rows), np.arange(columns)).astype(np.uint8) // 4 % 40
        plane.update(values.tobytes())
    return frame


def arrays(frame: VideoFrame) -> list[np.ndarray]:
    found = []
    for place, plane in enumerate(frame.planes):
        rows, columns = (frame.height, frame.width) if not place else (-(-frame.height // 2), -(-frame.width // 2))
        found.append(np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:rows, :columns].astype(np.float64))
    return found


def between(plane: np.ndarray, at: np.ndarray, axis: int, low: float, high: float) -> np.ndarray:
    """Linear interpolation at places, in samples from the first one's center, no farther out than these two."""
    at = np.clip(at, low, high)
    first = np.minimum(np.floor(at).astype(int), plane.shape[axis] - 1)
    second = np.minimum(first + 1, plane.shape[axis] - 1)
    by = (at - first).reshape([-1, 1] if axis == 0 else [1, -1])
    return np.take(plane, first, axis) * (1 - by) + np.take(plane, second, axis) * by


def naive(frame: VideoFrame, cut: Crop, size: int, shares=(0.299, 0.114), full_range: bool = False) -> np.ndarray:
    """What is said of `crop_planes`, without halving."""
    luma, blue, red = arrays(frame)
    centers = (np.arange(size) + 0.5) / size
    pixel = (cut.top + centers * cut.rows - 0.5, cut.left + centers * cut.columns - 0.5)
    ends = ((cut.top, cut.top + cut.rows - 1), (cut.left, cut.left + cut.columns - 1))
    y, b, r = luma, blue, red
    for axis in (0, 1):
        low, high = ends[axis]
        y = between(y, pixel[axis], axis, low, high)
        b, r = (between(plane, (pixel[axis] - 0.5) / 2, axis, low // 2, high // 2) for plane in (b, r))
    rgb = in_rgb(y, b, r, shares, full_range)
    return rgb[:, ::-1] if cut.flip else rgb


def in_rgb(y: np.ndarray, b: np.ndarray, r: np.ndarray, shares=(0.299, 0.114), full_range: bool = False) -> np.ndarray:
    """By the definition of luma as a weighted sum of the colors, solved for them."""
    if not full_range:
        y, b, r = (y - 16) * 255 / 219, (b - 128) * 255 / 224 + 128, (r - 128) * 255 / 224 + 128
    red, blue = y + (r - 128) * 2 * (1 - shares[0]), y + (b - 128) * 2 * (1 - shares[1])
    green = (y - shares[0] * red - shares[1] * blue) / (1 - sum(shares))
    return np.clip(np.stack([red, green, blue], -1), 0, 255)


def in_whole_numbers(frame: VideoFrame, cut: Crop, size: int) -> np.ndarray:
    """What the kernel computes, one operation after the other; BT.601, levels 16 to 235, no halving."""

    def steps(begin: float, covered: float, count: int) -> tuple[np.ndarray, np.ndarray]:
        middle = np.clip(begin + (np.arange(size) + 0.5) * (covered / size) - 0.5, 0, count - 1)
        first = np.minimum(middle.astype(int), max(count - 2, 0))
        return first, ((middle - first) * 256 + 0.5).astype(int)

    def resized(plane: np.ndarray, top: float, left: float, rows: float, columns: float) -> np.ndarray:
        at, by = steps(left, columns, plane.shape[1])
        plane = 256 * plane[:, at] + (plane[:, np.minimum(at + 1, plane.shape[1] - 1)] - plane[:, at]) * by
        at, by = steps(top, rows, len(plane))
        by = (256 * by - (by >> 8))[:, None]
        return (plane[at] * (65535 - by) >> 16) + (plane[np.minimum(at + 1, len(plane) - 1)] * by >> 16)

    luma, blue, red = (plane.astype(int) for plane in arrays(frame))
    top, left, rows, columns, flip = cut
    y = resized(luma[top : top + rows, left : left + columns], 0, 0, rows, columns)
    low = slice(top // 2, (top + rows + 1) // 2), slice(left // 2, (left + columns + 1) // 2)
    b, r = (resized(plane[low], top % 2 / 2, left % 2 / 2, rows / 2, columns / 2) - 32768 for plane in (blue, red))
    chroma = 8192 * 255 / 224
    factors = [1.402, 1.772 * 0.114 / 0.587, 1.402 * 0.299 / 0.587, 1.772]
    red_in_red, blue_in_green, red_in_green, blue_in_blue = (round(factor * chroma) for factor in factors)
    y = (y * round(8192 * 255 / 219) >> 16) - round(32 * (16 * 255 / 219 - 0.5))
    less = (b * blue_in_green >> 16) + (r * red_in_green >> 16)
    rgb = np.stack([y + (r * red_in_red >> 16), y - less, y + (b * blue_in_blue >> 16)], -1)
    return np.clip(rgb >> 5, 0, 255)[:, :: -1 if flip else 1]


CUTS = [
    (96, 96, Crop(0, 0, 96, 96, False), 64),
    (96, 96, Crop(11, 20, 71, 53, True), 64),
    (97, 83, Crop(20, 5, 77, 78, False), 50),
    (97, 83, Crop(0, 0, 97, 83, True), 112),
    (40, 60, Crop(39, 59, 1, 1, False), 8),
    (40, 60, Crop(3, 7, 2, 50, True), 6),
    (33, 31, Crop(1, 1, 31, 29, False), 17),
    (31, 500, Crop(0, 1, 31, 499, False), 16),
    (30, 26, Crop(3, 2, 25, 24, True), 20),
    (128, 160, Crop(0, 0, 111, 160, False), 56),
]


@pytest.mark.parametrize(("height", "width", "cut", "size"), CUTS)
def test_equals_linear_interpolation_of_each_plane(height, width, cut, size):
    frames = [picture(height, width, seed) for seed in range(3)]
    clip = np.zeros((5, size, size, 3), np.uint8)
    crop_planes([planes_of(frame) for frame in frames], [3, 0, 1], cut, clip)
    for place, frame in zip([3, 0, 1], frames, strict=True):
        # Weights are 256ths; the interpolation across is exact, and each level is rounded once.
        assert np.abs(clip[place] - naive(frame, cut, size)).max() <= 2.5
        np.testing.assert_array_equal(clip[place], in_whole_numbers(frame, cut, size))
    assert not clip[[2, 4]].any()


def slope(sign: int) -> VideoFrame:
    """Planes that rise, or fall, evenly."""
    frame = VideoFrame(340, 300, "yuv420p")
    for place, plane in enumerate(frame.planes):
        step = 2 if place else 1
        down, across = np.arange(plane.height) * step + (step - 1) / 2, np.arange(plane.line_size) * step + (step - 1) / 2
        rise = np.add.outer(down - 150, 0.5 * (across - 170)) * [0.4, 0.2, -0.3][place]
        plane.update(np.round(128 + sign * rise).astype(np.uint8).tobytes())
    return frame


@pytest.mark.parametrize(("top", "left"), [(0, 0), (1, 0), (7, 13), (12, 31)])
@pytest.mark.parametrize(("rows", "size"), [(64, 32), (130, 32), (129, 30), (260, 30)])
def test_a_large_crop_is_halved_first(top, left, rows, size):
    kept, times = rows, 0
    while kept >= 2 * size:
        kept, times = kept // 2, times + 1
    columns = rows + 5
    # An odd last row or column is left out at each halving.
    covered = Crop(top, left, kept << times, (columns >> times) << times, False)
    differences = []
    for sign in (1, -1):
        frame, clip = slope(sign), np.zeros((1, size, size, 3), np.uint8)
        crop_planes([planes_of(frame)], [0], Crop(top, left, rows, columns, False), clip)
        difference = (clip[0] - naive(frame, covered, size))[2:-2, 2:-2]  # halves of the edges end elsewhere
        assert np.abs(difference).max() <= 4
        differences.append(difference.mean((0, 1)))
    # Halving rounds up, in both; what is at another place errs one way, then the other. A pixel is 0.2 to 0.5 levels.
    assert np.abs(differences[0] - differences[1]).max() / 2 < 0.1


@pytest.mark.parametrize(
    ("top", "left", "rows", "columns", "size"), [(11, 20, 71, 53, 50), (3, 6, 90, 81, 20), (80, 79, 16, 17, 8)]
)
def test_what_is_mirrored_is_the_same_from_the_right(top, left, rows, columns, size):
    frame, clip = planes_of(picture(96, 96)), np.zeros((2, size, size, 3), np.uint8)
    for place in range(2):
        crop_planes([frame], [place], Crop(top, left, rows, columns, bool(place)), clip)
    np.testing.assert_array_equal(clip[0], clip[1, :, ::-1])


def test_a_halved_crop_of_noise_is_its_mean():
    frame, clip = picture(256, 256), np.zeros((1, 32, 32, 3), np.uint8)
    crop_planes([planes_of(frame)], [0], Crop(0, 0, 256, 256, False), clip)
    means = [plane.reshape(32, len(plane) // 32, 32, -1).mean((1, 3)) for plane in arrays(frame)]
    assert np.abs(clip[0] - in_rgb(*means)).max() <= 5  # three halvings round three times


SPACES = {
    int(Colorspace.ITU709): (0.2126, 0.0722),
    int(Colorspace.ITU601): (0.299, 0.114),
    2: (0.299, 0.114),
    9: (0.2627, 0.0593),
}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("levels", [ColorRange.UNSPECIFIED, ColorRange.MPEG, ColorRange.JPEG])
@pytest.mark.parametrize("format", ["yuv420p", "yuvj420p"])
def test_colors_are_those_of_the_standards_and_of_ffmpeg(space, levels, format):
    frame, cut, clip = (
        picture(64, 64, 3, smooth=True, format=format),
        Crop(0, 0, 64, 64, False),
        np.zeros((1, 64, 64, 3), np.uint8),
    )
    frame.colorspace, frame.color_range = space, int(levels)
    crop_planes([planes_of(frame)], [0], cut, clip)
    full_range = format == "yuvj420p" or levels == ColorRange.JPEG
    assert np.abs(clip[0] - naive(frame, cut, 64, SPACES[space], full_range)).max() <= 1.5
    assert np.abs(clip[0] - frame.to_ndarray(format="rgb24").astype(float)).max() <= 4  # which rounds down


def test_other_pictures_are_no_planes():
    for format in ("yuv422p", "yuv444p", "yuv420p10le", "rgb24", "gray", "nv12"):
        assert planes_of(VideoFrame(32, 32, format)) is None
    unknown = picture(32, 32)
    unknown.colorspace = 4  # FCC
    assert planes_of(unknown) is None


def test_it_is_close_to_resizing_rgb():
    frame, size = picture(120, 160, 5, smooth=True), 100
    expected, clip = np.zeros((size, size, 3), np.uint8), np.zeros((1, size, size, 3), np.uint8)
    for cut in (Crop(3, 9, 110, 130, False), Crop(10, 20, 60, 51, True)):
        crop_frame(frame.to_ndarray(format="rgb24"), cut, expected)
        crop_planes([planes_of(frame)], [0], cut, clip)
        assert np.abs(clip[0].astype(float) - expected).mean() < 2


@pytest.mark.parametrize(
    "cut", [Crop(-1, 0, 8, 8, False), Crop(0, -1, 8, 8, False), Crop(9, 0, 8, 8, False), Crop(0, 5, 8, 8, False)]
)
def test_a_crop_outside_of_the_picture_is_refused(cut):
    with pytest.raises(ValueError, match="is not within a picture of 16 x 12"):
        crop_planes([planes_of(picture(16, 12))], [0], cut, np.zeros((1, 4, 4, 3), np.uint8))


@pytest.mark.parametrize("place", [-1, 2])
def test_a_place_outside_of_the_clip_is_refused(place):
    with pytest.raises(ValueError, match="are not within a clip of 2 frames"):
        crop_planes([planes_of(picture(16, 16))] * 2, [0, place], Crop(0, 0, 8, 8, False), np.zeros((2, 4, 4, 3), np.uint8))


def test_code_is_compiled_anew_where_it_cannot_be_kept(monkeypatch):
    def without_a_folder(*arguments, cache: bool, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(*arguments, **options)

    monkeypatch.setattr("wt_jax.kernels.compiled.njit", without_a_folder)
    assert compiled("i8(i8)")(lambda x: x + 1)(2) == 3
