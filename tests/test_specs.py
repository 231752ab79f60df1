"""specs: kinds of view are values, say what they yield, refuse what makes no sense, and need no array library."""

import subprocess
import sys
from fractions import Fraction

import pytest

from wt_jax.specs import AudioView, BoxView, Choice, ClipView, FeatureView, PixelSpec, batch_arrays

EVERY_KIND = {
    "clip": ClipView(num_frames=4, size=16, record=True),
    "choice": Choice((ClipView(num_frames=4, size=16), ClipView(num_frames=4, size=16, stride=2))),
    "audio": AudioView(seconds=0.5, rate=8000),
    "features": FeatureView("a.npz", count=3, dim=5),
    "boxes": BoxView("a.csv", most=6, classes=7),
}


def test_views_are_values():
    for view in EVERY_KIND.values():
        assert hash(view) == hash(eval(repr(view)))
    assert AudioView() == AudioView() != AudioView(window="b")


def test_arrays_by_the_names_of_the_batch():
    assert batch_arrays(EVERY_KIND) == {
        "clip": ((4, 16, 16, 3), "uint8"),
        "clip.geometry": ((7,), "float32"),
        "choice": ((4, 16, 16, 3), "uint8"),
        "choice.choice": ((), "int32"),
        "audio": ((4000,), "int16"),
        "audio.voiced": ((), "float32"),
        "features": ((3, 5), "float16"),
        "features.geometry": ((3, 7), "float32"),
        "boxes": ((6, 4), "float32"),
        "boxes.labels": ((6, 7), "bool"),
        "boxes.valid": ((6,), "bool"),
    }
    assert set(ClipView().arrays) == {""}


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: ClipView(unit="video", stride=1.5), "stride must not pass 1"),
        (lambda: ClipView(ramp=0), "ramp must be above 0"),
        (lambda: Choice(()), "at least one"),
        (lambda: Choice((ClipView(), ClipView(window="b"))), "equal window"),
        (lambda: Choice((ClipView(), ClipView(num_frames=2))), "equal arrays"),
        (lambda: Choice((ClipView(), ClipView(pixels=PixelSpec(gray_probability=1.0)))), "equal pixels"),
        (lambda: AudioView(seconds=0.3, rate=8001), "whole number of samples"),
        (lambda: AudioView(seconds=0.02), "span must not pass"),
        (lambda: FeatureView("a", 1, 1, draw="all"), "draw must be one of"),
        (lambda: BoxView("", 1, 1), "table must not be empty"),
    ],
)
def test_what_makes_no_sense_is_refused(make, fault):
    with pytest.raises(ValueError, match=fault):
        make()


def test_audio_in_exact_fractions():
    view = AudioView(seconds=Fraction(1, 3), rate=48000)
    assert view.samples == 16000
    assert AudioView(seconds=1).columns == 98  # 25 ms every 10 ms, each within the second


def test_no_array_library_is_imported():
    heavy = ("numpy", "jax", "cv2", "av", "numba")
    code = f"import sys, wt_jax.specs; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
