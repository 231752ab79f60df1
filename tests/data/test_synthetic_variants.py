"""Variants of the embedded set: shapes that last, motions one after the other, and voices."""

import shutil

import numpy as np
import pytest

from wt_jax.data import synthetic_variants
from wt_jax.data.sources.open import open_source
from wt_jax.data.synthetic import ALONG_AXES, MOTIONS, render
from wt_jax.data.synthetic_variants import FRAMINGS, KINDS, SPOKEN, VOICES, write_sounding_mp4, write_variant
from wt_jax.data.video.audio import read_audio, voiced_fraction
from wt_jax.data.video.reader import open_video
from wt_jax.errors import UserError


def test_shapes_that_last_are_never_replaced():
    still = render("rest", np.random.default_rng(0), frames=40, size=16, life=40)
    np.testing.assert_array_equal(still, np.broadcast_to(still[:1], still.shape))
    replaced = render("rest", np.random.default_rng(0), frames=40, size=16)
    assert (replaced[0] != replaced[-1]).any()
    turning = render("spin", np.random.default_rng(0), frames=40, size=16, life=40)
    assert (turning[0] != turning[1]).any()


def test_a_sequence_is_its_two_motions(tmp_path):
    write_variant("sequences", tmp_path, (13, 1))
    videos = open_source(str(tmp_path / "train"))
    assert len(videos) == 13
    assert len(videos.classes) == 12
    assert "slide-spin" in videos.classes
    assert "spin-slide" in videos.classes
    with open_video(videos.paths[0]) as reader:
        assert reader.info.num_frames == synthetic_variants.FRAMES


def test_sound_is_written_beside_the_frames(tmp_path):
    times = np.arange(8000) / synthetic_variants.SOUND_RATE
    tone = (0.3 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    write_sounding_mp4(tmp_path / "a.mp4", render("slide", np.random.default_rng(0), frames=25, size=16), tone)
    with open_video(str(tmp_path / "a.mp4")) as reader:
        assert reader.info.num_frames == 25
    samples = read_audio(str(tmp_path / "a.mp4"), 0, 16000, 16000)
    assert voiced_fraction(samples, 16000, -40.0) > 0.7
    spectrum = np.abs(np.fft.rfft(samples[1000:7000].astype(float)))
    assert abs(spectrum.argmax() * 16000 / 6000 - 440) < 5


def test_voices_and_wordings_of_the_test_are_not_those_of_training():
    assert not set(VOICES[0]) & set(VOICES[1])
    assert not set(FRAMINGS[0]) & set(FRAMINGS[1])
    assert set(SPOKEN) <= {*MOTIONS, *ALONG_AXES}


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_a_spoken_video_has_a_voice(tmp_path):
    write_variant("spoken", tmp_path, (1, 1))
    for part in ("train", "test"):
        (path,) = open_source(str(tmp_path / part)).paths
        assert voiced_fraction(read_audio(path, 0, 32000, 16000), 16000, -40.0) > 0.3


def test_faults_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="unknown kind 'spokn'; there are lasting, sequences, spoken"):
        write_variant("spokn", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="espeak-ng is missing"):
        write_variant("spoken", tmp_path, (1, 0))
    assert set(KINDS) == {"lasting", "sequences", "spoken"}
