"""audio: the samples of a stretch of time, whatever the container, the codec and the rate."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from support.sounds import tone, write_sounding
from support.video_files import write_audio, write_video

from wt_jax.data.video import audio
from wt_jax.data.video.audio import read_audio
from wt_jax.data.video.reader import find_video
from wt_jax.errors import VideoError

ONSET = 1.234375  # sample 19750 at 16 kHz
FILES = {
    "aac.mp4": {"codec": "aac"},
    "stereo.mp4": {"codec": "aac", "rate": 44100, "layout": "stereo"},
    "pcm.mov": {"codec": "pcm_s16le"},
    "pcm.avi": {"codec": "pcm_s16le", "rate": 48000, "layout": "stereo"},
    "flac.mkv": {"codec": "flac"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    return {name: write_sounding(folder / name, ONSET, **options) for name, options in FILES.items()}


def read(path, start, count=8000, rate=16000):
    return read_audio(path, Fraction(start), count, rate).astype(np.float64) / 32768


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("start", [0, Fraction(1, 3), 1, ONSET, Fraction(6, 5), 2])
def test_a_tone_is_where_it_should_be_exact_to_a_sample(files, name, start):
    ours, times = read(files[name], start), float(start) + np.arange(8000) / 16000
    # A sample earlier or later a tone of 1 kHz would differ by 0.2.
    assert np.abs(ours - tone(times, ONSET)).max() < 0.06
    if start == 1 and name == "pcm.mov":
        assert np.flatnonzero(ours)[0] == 0.234375 * 16000 + 1  # the first sample of a sine is 0


def test_what_is_read_depends_on_the_stretch_alone(files):
    for path in files.values():
        whole = read(path, 1, 16000)
        np.testing.assert_array_equal(read(path, 1, 16000), whole)
        content = Path(path).read_bytes()
        np.testing.assert_array_equal(read(content, 1, 16000), whole)
        later = read(path, Fraction(3, 2), 8000)
        assert np.abs(later - whole[8000:])[:-1].max() < 1e-3


def test_beyond_the_track_is_silence(files):
    before, after = read(files["pcm.mov"], -1, 24000), read(files["pcm.mov"], Fraction(5, 2), 16000)
    assert not before[:16000].any()
    assert after[: 8000 - 1].any()
    assert not after[8000:].any()
    assert not read(files["pcm.mov"], 100, 10).any()


def test_a_seek_that_leads_too_far_is_made_good(files, monkeypatch):
    expected = read(files["aac.mp4"], Fraction(6, 5))
    before, calls = audio._before, []
    monkeypatch.setattr(audio, "_before", lambda time, stream: calls.append(time) or before(time + 1, stream))
    np.testing.assert_allclose(read(files["aac.mp4"], Fraction(6, 5)), expected, atol=1e-3)
    assert calls


def test_other_rates(files):
    for rate in (8000, 11025, 22050, 48000):
        ours = read(files["pcm.mov"], 2, rate // 2, rate)
        inner = slice(0, -rate // 50)
        assert np.abs(ours - tone(2 + np.arange(rate // 2) / rate, ONSET))[inner].max() < 0.02


def test_a_file_without_pictures_has_sound_too(tmp_path):
    assert not read(write_audio(tmp_path / "silence.mp4"), 0, 100).any()


def test_bad_files_are_named(tmp_path):
    silent = write_video(tmp_path / "silent.mp4", 4)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"silent\.mp4: it has no audio track"):
        read(silent, 0)
    with pytest.raises(VideoError, match=r"text\.mp4: Invalid data"):
        read(str(tmp_path / "text.mp4"), 0)
    with pytest.raises(VideoError, match=r"absent\.mp4: No such file"):
        read(str(tmp_path / "absent.mp4"), 0)
    with pytest.raises(VideoError, match=r"silent\.mp4: it has no audio track"):
        find_video(silent).audio(Fraction(0), 10, 16000)
