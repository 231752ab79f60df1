"""views: specifications are checked, and one draw serves the whole clip."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from wt_jax.data.views import apply_view, check_crops
from wt_jax.specs import ClipView, PixelSpec


def still(num_frames=5, height=60, width=90):
    """A clip of one textured picture."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return np.repeat(image[None], num_frames, axis=0)


@pytest.mark.parametrize("crop", ["random", "center", "resize"])
@pytest.mark.parametrize("size", [16, 60, 128])
def test_a_still_clip_stays_still(crop, size):
    view = ClipView(crop=crop, size=size, flip_probability=0.5)
    for seed in range(8):
        clip = apply_view(still(), view, np.random.default_rng(seed))
        assert clip.shape == (5, size, size, 3)
        assert clip.dtype == np.uint8
        assert (clip == clip[0]).all()


def test_center_takes_the_middle_square_and_resize_the_whole():
    frames = still(1, 60, 90)
    center = apply_view(frames, ClipView(crop="center", size=60), None)
    np.testing.assert_array_equal(center[0], frames[0, :, 15:75])
    ramp = np.broadcast_to(np.arange(90, dtype=np.uint8)[None, None, :, None], (1, 60, 90, 3))
    whole = apply_view(ramp, ClipView(crop="resize", size=30), None)
    np.testing.assert_allclose(whole[0, 0, :, 0], np.arange(1, 90, 3), atol=1)  # each the mean of three columns, rounded twice


@pytest.mark.parametrize("period", [2, 4])
def test_fine_detail_turns_gray_and_not_into_patterns(period):
    """Stripes as fine as pixels allow, made four to nine times smaller: sampling points would show them as broad bands."""
    for side in (64, 100, 143):
        stripes = (np.arange(side) // (period // 2) % 2 * 255).astype(np.uint8)
        frames = np.broadcast_to(stripes[None, None, :, None], (1, side, side, 3))
        small = apply_view(np.ascontiguousarray(frames), ClipView(crop="center", size=side // (2 * period)), None)
        assert np.abs(small[0, :, :-1].astype(int) - 128).max() <= 1


def test_halving_takes_means_of_four():
    frames = still(1, 64, 64)
    blocks = frames[0].reshape(32, 2, 32, 2, 3).astype(int).sum(axis=(1, 3))
    np.testing.assert_array_equal(apply_view(frames, ClipView(crop="center", size=32), None)[0], (blocks + 2) // 4)


@pytest.mark.parametrize(("height", "width"), [(60, 91), (91, 60), (60, 60), (60, 240)])
def test_three_crops_are_the_ends_and_the_middle_of_the_longer_side(height, width):
    frames = still(2, height, width)
    crops = [apply_view(frames, ClipView(crop="center", size=60), None, half) for half in (0, 1, 2)]
    for crop, start in zip(crops, (0, (max(height, width) - 60) // 2, max(height, width) - 60), strict=True):
        square = frames[:, :, start : start + 60] if width > height else frames[:, start : start + 60]
        np.testing.assert_array_equal(crop, square)
    np.testing.assert_array_equal(crops[1], apply_view(frames, ClipView(crop="center", size=60), None))


def test_crops_that_cannot_be():
    with pytest.raises(ValueError, match="must be 'center' for 3 test crops, got 'resize'"):
        check_crops("resize", 3)
    with pytest.raises(ValueError, match=r"crops must be one of \(1, 3\), got 2"):
        check_crops("center", 2)


def test_flip():
    view = ClipView(crop="center", size=60)
    plain = apply_view(still(), view, None)
    flipped = apply_view(still(), ClipView(crop="center", size=60, flip_probability=1.0), np.random.default_rng(0))
    np.testing.assert_array_equal(flipped, plain[:, :, ::-1])


def test_random_crops_keep_to_area_and_aspect():
    """Two ramps tell the box: their spread in the crop is its width and height."""
    rows, columns = np.meshgrid(np.arange(200), np.arange(240), indexing="ij")
    frames = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)[None]
    view = ClipView(size=32, area=(0.3, 0.5), aspect=(0.8, 1.25))
    for seed in range(50):
        clip = apply_view(frames, view, np.random.default_rng(seed))[0].astype(float)
        height = (clip[-1, 0, 0] - clip[0, 0, 0]) * 32 / 31
        width = (clip[0, -1, 1] - clip[0, 0, 1]) * 32 / 31
        assert 0.28 < height * width / (200 * 240) < 0.52
        assert 0.77 < width / height < 1.3


@pytest.mark.parametrize(
    ("height", "width", "box"),
    # As torchvision's RandomResizedCrop.get_params: width round(4 * 4 / 3) = 5, height round(9 / (3 / 4)) = 12.
    [(4, 400, np.s_[:, 197:202]), (400, 9, np.s_[194:206, :])],
)
def test_no_random_box_fits_into_a_ribbon(height, width, box):
    frames = np.random.default_rng(1).integers(0, 256, (2, height, width, 3), np.uint8)
    clip = apply_view(frames, ClipView(size=8, area=(0.9, 1.0)), np.random.default_rng(0))
    whole = ClipView(size=8, crop="resize")
    np.testing.assert_array_equal(clip, apply_view(np.ascontiguousarray(frames[:, *box]), whole, None))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window", ""),
        ("num_frames", 0),
        ("stride", 0),
        ("stride", float("inf")),
        ("unit", "minutes"),
        ("size", 0),
        ("crop", "left"),
        ("area", (0.0, 1.0)),
        ("area", (0.5, 1.5)),
        ("aspect", (2.0, 1.0)),
        ("flip_probability", 1.1),
    ],
)
def test_view_fields_are_checked(field, value):
    with pytest.raises(ValueError, match=field):
        ClipView(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("jitter_probability", -0.1),
        ("gray_probability", 2),
        ("blur_probability", 1.5),
        ("brightness", -1),
        ("contrast", -1),
        ("saturation", -1),
        ("hue", 0.6),
        ("blur_sigma", (0.0, 2.0)),
    ],
)
def test_pixel_fields_are_checked(field, value):
    with pytest.raises(ValueError, match=field):
        PixelSpec(**{field: value})


def moving(shift, num_frames=4, size=48):
    """A smooth texture that moves right by `shift` pixels a frame."""
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (size, 2 * size, 3)).astype(np.uint8), (0, 0), 2)
    return np.stack([image[:, size // 2 - shift * t : size // 2 - shift * t + size] for t in range(num_frames)])


def test_flow_tells_direction_and_length_and_knows_of_flips():
    plain = ClipView(crop="resize", size=48, content="flow")
    clip = apply_view(moving(3), plain, None)
    assert clip.shape == (4, 48, 48, 3)
    assert clip.dtype == np.uint8
    # 3 pixels of a reach of 48 / 8 = 6: half way.
    np.testing.assert_allclose(np.median(clip, axis=(1, 2)), [[128 + 63.5, 128, 127.5]] * 4, atol=3)
    mirrored = apply_view(moving(3), replace(plain, flip_probability=1.0), np.random.default_rng(0))
    np.testing.assert_allclose(np.median(mirrored, axis=(1, 2)), [[128 - 63.5, 128, 127.5]] * 4, atol=3)
    np.testing.assert_array_equal(clip[3], clip[2])  # the last frame has no next one


def test_edges_stand_where_the_motion_changes():
    frames = moving(0, size=64)
    for t in range(4):  # a square moves over a still ground
        frames[t, 20:44, 10 + 4 * t : 34 + 4 * t] = moving(0, 1, 64)[0, :24, :24][::-1]
    edges = apply_view(frames, ClipView(crop="resize", size=64, content="flow_edges"), None)[0].astype(float)
    assert (edges == edges[..., :1]).all()
    border = np.zeros((64, 64), bool)
    border[14:50, 4:44] = True
    border[28:36, 18:30] = False  # the inside of the square moves as one
    assert edges[border].mean() > 4 * max(edges[:, 52:].mean(), edges[28:36, 20:28].mean())


@pytest.mark.parametrize("content", ["flow", "flow_edges"])
def test_a_still_clip_has_no_motion_and_one_frame_has_none(content):
    view = ClipView(crop="center", size=32, content=content)
    rest = (128, 128, 0) if content == "flow" else (0, 0, 0)
    for count in (1, 5):
        clip = apply_view(still(count), view, None)
        assert clip.shape == (count, 32, 32, 3)
        np.testing.assert_array_equal(clip, np.broadcast_to(np.uint8(rest), clip.shape))


def test_motion_views_are_checked():
    with pytest.raises(ValueError, match="content"):
        ClipView(content="depth")
    with pytest.raises(ValueError, match="size must be 12"):
        ClipView(content="flow", size=8)
    with pytest.raises(ValueError, match="pixels must do nothing"):
        ClipView(content="flow", pixels=PixelSpec(gray_probability=0.2))
