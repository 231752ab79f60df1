"""decode: frame i is the same picture however it is reached, and what cannot be read is named."""

import gc
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from support.video_files import frame_numbers, remux, write_audio, write_video

from wt_jax.data.video import decode as decode_module
from wt_jax.data.video.decode import check, decode, open_reader, probe
from wt_jax.data.video.yuv420 import Planes
from wt_jax.errors import VideoError
from wt_jax.kernels import implementation

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "data" / "clips"
REAL = {  # frames that can be decoded; tree.avi declares 444
    "Megamind.avi": 270,
    "Megamind_bugy.avi": 270,
    "bigbuckbunny.mp4": 132,
    "bikes.mp4": 250,
    "carphone_pristine.mp4": 120,
    "tree.avi": 68,
    "vtest.avi": 795,
}
FORMATS = {  # file name -> codec and whether frames are found by time stamp
    "h264.mp4": ("libx264", True),
    "h264.mkv": ("libx264", True),
    "h264.ts": ("libx264", True),
    "reordered.avi": ("libx264", False),
    "hevc.mp4": ("libx265", True),
    "mpeg4.avi": ("mpeg4", True),
    "mpeg4.mp4": ("mpeg4", True),
    "vp8.webm": ("libvpx", True),
    "vp9.webm": ("libvpx-vp9", True),
    "motion_jpeg.avi": ("mjpeg", True),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_give_the_frame_that_is_asked_for(tmp_path, name):
    codec, timed = FORMATS[name]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    options = {"x265-params": "keyint=8:log-level=none"} if codec == "libx265" else {}
    path = write_video(tmp_path / name, 40, codec=codec, height=64, width=96, options=options)
    info = probe(path)
    assert info.num_frames == 40
    assert bool(info.keyframes.size) == timed
    assert info.duration == pytest.approx(40 / 25, abs=0.01)
    assert frame_numbers(decode(path, range(40))) == list(range(40))
    for index in range(40):
        assert frame_numbers(decode(path, [index])) == [index]


def test_order_repeats_shape_and_content(tmp_path):
    path = write_video(tmp_path / "a.mp4", 30)
    frames = decode(path, np.array([29, 3, 3, 17]))
    assert frames.dtype == np.uint8
    assert frames.shape == (4, 32, 48, 3)
    assert frame_numbers(frames) == [29, 3, 3, 17]
    content = Path(path).read_bytes()
    assert probe(content).num_frames == 30
    np.testing.assert_array_equal(decode(content, [29, 3, 3, 17]), frames)


def test_a_seek_decodes_only_what_is_needed(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 80)
    info, decoded, plain = probe(path), [], decode_module._decoded

    def counting(*args):
        for frame in plain(*args):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(decode_module, "_decoded", counting)
    assert frame_numbers(decode(path, [70, 74], info)) == [70, 74]
    assert len(decoded) <= 16


def test_variable_frame_rate_keeps_the_time_stamps(tmp_path):
    times = [0, 1, 2, 10, 11, 30]
    info = probe(write_video(tmp_path / "a.mp4", 6, pts=times))
    assert [time * info.time_base * 25 for time in info.pts.tolist()] == times
    assert info.duration == Fraction(31, 25)


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_rotation_is_applied(tmp_path, rotation, corner):
    """A stored picture, turned counterclockwise by `rotation` degrees, has its top left quarter at `corner`."""
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("PyAV before 18 cannot write a rotation")
    path = write_video(tmp_path / "a.mp4", 3, rotation=rotation, marked=True)
    frame = decode(path, [1])[0]
    assert frame.shape == ((32, 48, 3) if rotation in (0, 180) else (48, 32, 3))
    rows, columns = frame.shape[0] // 2, frame.shape[1] // 2
    quarters = [[frame[:rows, :columns], frame[:rows, columns:]], [frame[rows:, :columns], frame[rows:, columns:]]]
    assert [(i, j) for i in (0, 1) for j in (0, 1) if quarters[i][j].mean() > 200] == [corner]


def test_probe_notices_that_a_file_has_changed(tmp_path):
    path = write_video(tmp_path / "a.mp4", 10)
    assert probe(path) is probe(path)
    write_video(tmp_path / "a.mp4", 20)
    assert probe(path).num_frames == 20


@pytest.mark.parametrize("shift", [5, 11])
def test_an_edit_list_hides_frames(tmp_path, shift):
    path = remux(write_video(tmp_path / "a.mp4", 40), tmp_path / "edited.mp4", shift=shift)
    info = check(path)
    assert info.num_frames == 40 - shift
    assert frame_numbers(decode(path, range(40 - shift))) == list(range(shift, 40))
    for index in range(40 - shift):
        assert frame_numbers(decode(path, [index], info)) == [index + shift]


def test_a_truncated_file_has_the_frames_that_are_left(tmp_path):
    whole = write_video(tmp_path / "a.mp4", 80, height=128, width=128)
    path = Path(remux(whole, tmp_path / "cut.mp4", options={"movflags": "faststart"}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    last = check(str(path)).num_frames - 1
    assert 20 < last < 79
    np.testing.assert_array_equal(decode(str(path), range(last + 1))[-1], decode(str(path), [last])[0])


def test_a_damaged_frame_is_named_and_the_others_are_read(tmp_path):
    path = Path(write_video(tmp_path / "a.mov", 9, codec="png"))
    content = bytearray(path.read_bytes())
    starts = [place for place in range(len(content)) if content[place : place + 4] == b"\x89PNG"]
    assert len(starts) == 9
    content[starts[4] : starts[4] + 40] = bytes(40)
    path.write_bytes(content)
    assert probe(str(path)).num_frames == 9
    assert frame_numbers(decode(str(path), [3, 5])) == [3, 5]
    with pytest.raises(VideoError, match=r"a\.mov: frame 4 of 9 cannot be decoded"):
        decode(str(path), [3, 4, 5])
    with pytest.raises(VideoError, match=r"a\.mov: 1 of 9 frames cannot be decoded, first: 4"):
        check(str(path))


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    (tmp_path / "empty.mp4").touch()
    write_audio(tmp_path / "audio.mp4")
    for name, cause in {
        "text.mp4": "Invalid data found",
        "empty.mp4": "Invalid data found",
        "audio.mp4": "no video stream",
        "absent.mp4": "No such file",
    }.items():
        with pytest.raises(VideoError, match=cause) as caught:
            probe(str(tmp_path / name))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(VideoError, match="video of 3 bytes"):
        probe(b"abc")


@pytest.mark.parametrize("indices", [[], [-1], [0, 10]])
def test_indices_out_of_range(tmp_path, indices):
    path = write_video(tmp_path / "a.mp4", 10)
    with pytest.raises(IndexError, match="10 frames"):
        decode(path, indices)


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    write_video(tmp_path / "plain.mp4", 4)
    (tmp_path / "plain.mp4").rename(tmp_path / "http:a.mp4")
    monkeypatch.chdir(tmp_path)
    assert probe("http:a.mp4").num_frames == 4


@pytest.mark.parametrize("name", REAL)
def test_real_clips_are_consistent(name):
    path = CLIPS / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    info = check(str(path))
    assert info.num_frames == REAL[name]
    some = np.random.default_rng(0).choice(info.num_frames, 9, replace=False)
    some = np.union1d(some, [0, 1, info.num_frames - 2, info.num_frames - 1])
    one_pass = decode(str(path), some, info)  # It holds frame 0, so there is no seek in it.
    for index, frame in zip(some, one_pass, strict=True):
        np.testing.assert_array_equal(decode(str(path), [index], info)[0], frame)


@pytest.mark.parametrize("module", ["sources.open", "video.decode", "sampling", "views"])
def test_the_data_modules_do_not_import_jax(module):
    code = f"import sys, wt_jax.data.{module}; sys.exit('jax' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def without_reordering(path):
    """The file, its sequence parameters cut off before those that tell how far frames are reordered (H.264, E.1.1)."""
    content = Path(path).read_bytes()
    start = content.index(b"avcC") + 12
    length = int.from_bytes(content[start - 2 : start])
    bits = "".join(f"{byte:08b}" for byte in content[start : start + length].replace(b"\0\0\3", b"\0\0"))
    place = 32

    def number():
        nonlocal place
        zeros = bits.index("1", place) - place
        value = int(bits[place + zeros : place + 2 * zeros + 1], 2) - 1
        place += 2 * zeros + 1
        return value

    number()
    if content[start + 1] == 100:  # High profile: color and depth.
        assert (number(), number(), number(), bits[place : place + 2]) == (1, 0, 0, "00")
        place += 2
    number()
    if number() == 0:
        number()
    number()
    place += 1
    number(), number()
    place += 2 if bits[place] == "1" else 3
    place += 1
    if bits[place - 1] == "1":
        number(), number(), number(), number()
    bits = bits[:place] + "01"  # No further parameters; the end.
    short = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))
    assert b"\0\0" not in short
    Path(path).write_bytes(content[:start] + short.ljust(length, b"\0") + content[start + length :])
    return path


@pytest.mark.parametrize("told", [True, False])
def test_a_video_that_is_opened_briefly_gives_the_same(tmp_path, monkeypatch, told):
    """First from the packets that were looked at, then by seeking; and no frame is reached by the sure way alone."""
    path = write_video(tmp_path / "a.mp4", 60, options={"bf": "3", "b-pyramid": "normal", "g": "12"})
    if not told:
        before = Path(path).read_bytes()
        assert Path(without_reordering(path)).read_bytes() != before
    some = [3, 4, 5, 20, 21, 30, 48, 58, 59]
    monkeypatch.setattr(decode_module, "_is_mp4", lambda source: False)
    expected, plain = decode(path, some), probe(path)
    monkeypatch.undo()
    assert frame_numbers(expected) == some
    monkeypatch.setattr(decode_module, "_decoded", lambda *_: pytest.fail("read by the sure way"))
    for source in (path, Path(path).read_bytes()):
        decode_module.forget()
        np.testing.assert_array_equal(decode(source, some), expected)
        info = probe(source)
        np.testing.assert_array_equal(decode(source, some, info), expected)
        assert (info.pts == plain.pts).all()
        assert (info.keyframes == plain.keyframes).all()
        assert (info.width, info.height, info.end) == (plain.width, plain.height, plain.end)


@pytest.mark.parametrize(("brief", "most"), [(True, 40), (False, 3)])
def test_packets_of_a_large_video_are_not_kept(tmp_path, monkeypatch, brief, most):
    path = write_video(tmp_path / "a.mp4", 80)
    expected, plain, held = decode(path, [5, 40, 79]), probe(path), [0]
    sizes, demuxed = [packet.size for packet in packets_of(path)], decode_module._demuxed

    def counted(container, stream, **options):
        for packet in demuxed(container, stream, **options):
            held[0] = max(held[0], sum(type(each) is av.Packet for each in gc.get_objects()))
            yield packet

    monkeypatch.setattr(decode_module, "_KEPT_BYTES", sum(sizes[:20]))
    monkeypatch.setattr(decode_module, "_demuxed", counted)
    if not brief:
        monkeypatch.setattr(decode_module, "_is_mp4", lambda source: False)
    decode_module.forget()
    gc.freeze()  # looking through all objects of other modules at every packet takes a minute
    try:
        info = probe(path)
    finally:
        gc.unfreeze()
    assert (info.pts == plain.pts).all()
    assert (info.keyframes == plain.keyframes).all()
    assert 0 < held[0] <= most
    decode_module.forget()
    np.testing.assert_array_equal(decode(path, [5, 40, 79]), expected)


def packets_of(path):
    with av.open(path) as container:
        return list(container.demux(video=0))


def test_runs_with_a_seek_between_equal_one_full_pass(shared_data):
    for name in ("bikes.mp4", "tree.avi"):
        path = str(shared_data / "clips" / name)
        count = probe(path).num_frames
        some = np.array([*range(3, 8), *range(count // 2, count // 2 + 5), *range(count - 4, count)])
        everything = decode(path, np.arange(count))
        np.testing.assert_array_equal(decode(path, some), everything[some], err_msg=name)


def test_the_portable_implementation_reads_rgb_alone(tmp_path):
    path = write_video(tmp_path / "v.mp4", 4)
    for name, kind in (("native", Planes), ("portable", np.ndarray)):
        with implementation(name), open_reader(path) as reader:
            assert all(isinstance(picture, kind) for _, picture in reader.frames(np.arange(4), planes=True))
