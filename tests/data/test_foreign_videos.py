"""Videos as other people's cameras and programs write them: fields, flags that lie, mirrored pictures, late seeks, damage.

The right reading of each kind, on small files that are written here; `test_foreign_fuzz` goes through their combinations.
"""

from pathlib import Path

import av
import numpy as np
import pytest
from support.odd_videos import CODECS, copy, encode, mirror, texture
from support.video_files import frame_numbers, write_video

from wt_jax.data.pack_locally import pack
from wt_jax.data.packing import PackSettings, plan_shards
from wt_jax.data.pipeline import crop_clips, describe_failure
from wt_jax.data.records import Record
from wt_jax.data.sources.index import look_at, rows_of
from wt_jax.data.sources.open import open_source
from wt_jax.data.video import decode as decode_module
from wt_jax.data.video.decode import check, decode, describe, open_reader, probe, read_all
from wt_jax.data.video.reader import find_video
from wt_jax.errors import VideoError
from wt_jax.specs import ClipView

FIELDS = Path(__file__).with_name("field_pictures.mts")  # three pictures, each of two fields, each in a packet of its own


def packed(path, out):
    shards = plan_shards(rows_of(open_source(str(path))), str(out), PackSettings(short_side=64, crf=1))
    return pack(shards, str(out))


def alone(path):
    """Every frame of a video, each read by itself from a file that is opened anew."""
    info = probe(path)
    return [decode(path, [index], info)[0] for index in range(info.num_frames)]


def assert_alone_as_in_a_pass(path):
    everything = list(read_all(path))
    for index, (one, picture) in enumerate(zip(alone(path), everything, strict=True)):
        np.testing.assert_array_equal(one, picture, err_msg=f"{path}, frame {index}")
    return everything


@pytest.fixture
def decoded(monkeypatch):
    """Counts the pictures that decoders hand out, while the test goes on."""
    counted, plain = [], decode_module._frames_of

    def counting(packet, codec=None):
        frames = plain(packet, codec)
        counted.extend(frames)
        return frames

    monkeypatch.setattr(decode_module, "_frames_of", counting)
    return counted


@pytest.mark.parametrize("container", ["mts", "mp4", "mov", "mkv", "avi", "flv", "nut"])
def test_two_fields_in_packets_of_their_own_are_one_picture(tmp_path, container):
    path = str(FIELDS) if container == "mts" else copy(str(FIELDS), tmp_path / f"a.{container}")
    assert probe(path).num_frames == check(path).num_frames == 3
    assert len(assert_alone_as_in_a_pass(path)) == 3
    assert look_at(find_video(path), every_frame=True).frames == 3


def test_field_pictures_are_packed_and_cut_like_any_other(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mts").write_bytes(FIELDS.read_bytes())
    assert [(row["frames"], row["status"]) for row in packed(tmp_path / "videos", tmp_path / "out")] == [(3, "ok")]


@pytest.mark.parametrize(("codec", "container"), [("libvpx", "webm"), ("libvpx-vp9", "webm"), ("mpeg4", "avi")])
def test_packets_that_show_nothing_are_no_frames(tmp_path, codec, container):
    path = encode(tmp_path / f"a.{container}", codec)
    assert probe(path).num_frames == check(path).num_frames == 24
    assert_alone_as_in_a_pass(path)


def test_frames_that_are_not_coded_are_no_frames(tmp_path):
    """MPEG-4 writes a frame that changes nothing as a packet of a header alone; the decoder shows none for it."""
    source = encode(tmp_path / "a.avi", "mpeg4")
    with av.open(source) as container, av.open(str(tmp_path / "b.mkv"), "w") as other:
        stream = container.streams.video[0]
        twin = other.add_stream_from_template(stream)
        for number, packet in enumerate(container.demux(stream)):
            if packet.size:
                content = bytes(packet)
                if number in (5, 13):  # P, no seconds, a marker, the time in 25ths, a marker, not coded; stuffing
                    content = b"\0\0\1\xb6" + int(f"0101{number:05b}10" + "01111", 2).to_bytes(2)
                mine = av.Packet(content)
                mine.pts, mine.dts, mine.time_base, mine.stream = packet.dts, packet.dts, packet.time_base, twin
                mine.is_keyframe = packet.is_keyframe
                other.mux(mine)
    path = str(tmp_path / "b.mkv")
    assert probe(path).num_frames == check(path).num_frames == 22
    assert_alone_as_in_a_pass(path)


@pytest.mark.parametrize("keys", ["all", "third"])
@pytest.mark.parametrize(
    ("codec", "container"),
    [
        ("libx264", "mp4"),
        ("libx264", "mkv"),
        ("libx265", "mp4"),
        ("libx265", "mkv"),
        ("mpeg4", "mp4"),
        ("mpeg4", "mkv"),
        ("mpeg2video", "mkv"),
        ("flv", "flv"),
        ("flashsv", "flv"),
        ("h263p", "avi"),
        ("wmv2", "avi"),
        ("cinepak", "mov"),
        ("ffv1", "mkv"),
        ("libvpx-vp9", "webm"),
    ],
)
def test_keyframe_flags_that_lie_change_no_picture(tmp_path, codec, container, keys):
    path = copy(encode(tmp_path / f"true.{container}", codec), tmp_path / f"lying.{container}", keys=keys)
    assert len(assert_alone_as_in_a_pass(path)) == 24
    some = np.array([2, 5, 13, 22])
    everything = np.stack(list(read_all(path)))
    np.testing.assert_array_equal(decode(path, some), everything[some])


def test_flags_that_lie_do_not_cost_a_pass(tmp_path, decoded):
    """Decoding starts at a keyframe for the decoder, not at the start of the file."""
    path = copy(encode(tmp_path / "true.mp4", "libx265", 80), tmp_path / "lying.mp4", keys="all")
    info = probe(path)
    decoded.clear()
    np.testing.assert_array_equal(decode(path, [61], info)[0], list(read_all(path))[61])
    before = len(decoded) - 80
    assert 0 < before <= 40


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_display_matrix_is_applied_as_players_do(tmp_path, turns, mirrored):
    path = mirror(write_video(tmp_path / "a.mp4", 3, marked=True), turns, mirrored)
    stored = np.zeros((32, 48), bool)
    stored[:16, :24] = True  # white, top left
    shown = np.rot90(stored[:, ::-1] if mirrored else stored, turns)
    assert [round(90 * turns), *(picture.shape[:2] for picture in decode(path, [1]))] == [describe(path)[1], shown.shape]
    for picture in (decode(path, [1])[0], list(read_all(path))[1]):
        np.testing.assert_array_equal(picture.mean(axis=-1) > 200, shown)
    view = {"a": ClipView("a", num_frames=1, size=32, crop="resize")}
    with open_reader(path) as reader:
        clip = crop_clips(reader, {"a": np.array([1])}, view, None)["a"][0]
    white = clip.mean(axis=-1) > 150
    corner = [(i, j) for i in (0, 1) for j in (0, 1) if shown[i * (len(shown) - 1), j * (shown.shape[1] - 1)]]
    assert [(i, j) for i in (0, 1) for j in (0, 1) if white[i * 31, j * 31]] == corner


def test_a_mirrored_video_is_packed_as_it_is_shown(tmp_path):
    (tmp_path / "videos").mkdir()
    path = mirror(write_video(tmp_path / "videos" / "a.mp4", 3, marked=True, height=64, width=64), 0, True)
    row = packed(tmp_path / "videos", tmp_path / "out")[0]
    picture = next(find_video(f"{tmp_path}/out/{row['path']}").read_all())
    assert picture[8, 56].min() > 200
    assert picture[8, 8].max() < 60
    assert describe(path) == ("h264", 0)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video", "mpeg4"])
@pytest.mark.parametrize("twice", [False, True])
def test_a_clip_from_a_transport_stream_costs_its_own_frames(tmp_path, decoded, codec, twice):
    """Seeks in transport streams land late where pictures are reordered; put together, their time stamps start anew."""
    path = tmp_path / "a.ts"
    encode(path, codec, 150)
    if twice:
        path.write_bytes(path.read_bytes() * 2)
    info = probe(str(path))
    assert info.num_frames >= (298 if twice else 150)
    assert (np.diff(info.pts) > 0).all()
    first = 200 if twice else 100
    decoded.clear()
    with open_reader(str(path), info) as reader:
        clip = dict(reader.frames(np.arange(first, first + 16)))
    assert 16 <= len(decoded) <= 40
    for index, picture in enumerate(read_all(str(path))):
        if index in clip:
            np.testing.assert_array_equal(clip[index], picture)


def test_key_frames_that_are_far_apart_in_a_transport_stream(tmp_path, decoded):
    path = encode(tmp_path / "a.ts", "libx265", 120, **{"x265-params": "keyint=60:min-keyint=60:bframes=3:log-level=none"})
    info = probe(path)
    decoded.clear()
    one = decode(path, [100], info)[0]
    assert len(decoded) <= 60
    np.testing.assert_array_equal(one, list(read_all(path))[100])


@pytest.mark.parametrize("container", ["nut", "mkv", "avi", "ts", "flv"])
@pytest.mark.parametrize("tail", ["zeros", "cut"])
def test_a_damaged_tail_leaves_the_good_frames(tmp_path, container, tail):
    path = Path(encode(tmp_path / f"a.{container}", "libx264"))
    content = path.read_bytes()
    kept = len(content) * 3 // 4
    path.write_bytes(content[:kept] + (bytes(len(content) - kept) if tail == "zeros" else b""))
    left = check(str(path)).num_frames
    assert 8 <= left < 24
    everything = list(read_all(str(path)))
    for index in range(left):
        np.testing.assert_array_equal(decode(str(path), [index])[0], everything[index])


def test_a_size_that_changes_is_judged_alike_by_all(tmp_path):
    (tmp_path / "videos").mkdir()
    path = encode(tmp_path / "videos" / "a.ts", "mpeg2video", 12, sizes=((64, 96), (96, 128)))
    message = "the frame size changes within the video"
    with pytest.raises(VideoError, match=message):
        check(path)
    with pytest.raises(VideoError, match=message):
        list(read_all(path))
    with pytest.raises(VideoError, match=message):
        decode(path, range(probe(path).num_frames))
    assert message in packed(tmp_path / "videos", tmp_path / "out")[0]["status"]
    assert message in describe_failure(Record(0, path, -1))


def test_a_few_lost_frames_do_not_break_a_video(tmp_path):
    (tmp_path / "videos").mkdir()
    path = Path(write_video(tmp_path / "videos" / "a.mov", 40, codec="png"))
    content = bytearray(path.read_bytes())
    start = [place for place in range(len(content)) if content[place : place + 4] == b"\x89PNG"][7]
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    assert probe(str(path)).num_frames == 40
    assert check(str(path)).num_frames == look_at(find_video(str(path)), every_frame=True).frames == 39
    assert frame_numbers(np.stack(list(read_all(str(path))))) == [index for index in range(40) if index != 7]
    with pytest.raises(VideoError, match="frame 7 of 40 cannot be decoded"):
        decode(str(path), [6, 7])
    assert describe_failure(Record(0, str(path), -1)).endswith("1 of 40 frames cannot be decoded")
    row = packed(tmp_path / "videos", tmp_path / "out")[0]
    assert (row["status"], row["frames"], row["duration"]) == ("ok", 39, 1.6)


def test_every_codec_is_written_as_it_should_be(tmp_path):
    """The support module's files show what they are made from."""
    for codec in ("libx264", "mpeg2video", "ffv1"):
        path = encode(tmp_path / f"{codec}.{CODECS[codec][2][0]}", codec, 10)
        difference = np.abs(decode(path, [4])[0].astype(int) - texture(4))
        assert difference.mean() < 30
