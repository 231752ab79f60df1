"""check_videos, pack and make_lists: they find what is wrong, go on where they were, and write what sources open."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from support.video_files import write_audio, write_video

from wt_jax.cluster.preemption import RUN_AGAIN
from wt_jax.data import packing
from wt_jax.data.pack_locally import pack
from wt_jax.data.packing import PackSettings, plan_shards
from wt_jax.data.parallel import run_parallel
from wt_jax.data.records import VideoList
from wt_jax.data.sources.annotations import READERS, compare
from wt_jax.data.sources.index import rows_of
from wt_jax.data.sources.open import open_source
from wt_jax.data.video.decode import probe
from wt_jax.data.video.reader import find_video, open_video, read_record, unpack_record
from wt_jax.errors import SourceError, VideoError
from wt_jax.tools import check_videos as check_module
from wt_jax.tools.check_videos import check_videos, report
from wt_jax.tools.make_lists import make_lists


@pytest.fixture
def damaged(tmp_path):
    """Two classes of two sound videos each, and four broken ones."""
    folder = tmp_path / "videos"
    for name, count in {"run/a.mp4": 10, "run/b, c.mp4": 12, "bend/d.mp4": 14, "bend/e.mp4": 40}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, count)
    (folder / "run" / "empty.mp4").touch()
    (folder / "run" / "text.mp4").write_text("no video")
    write_audio(folder / "bend" / "sound.mp4")
    content = bytearray((folder / "bend" / "e.mp4").read_bytes())
    with av.open(str(folder / "bend" / "e.mp4")) as container:
        packet = next(packet for packet in container.demux(video=0) if packet.is_keyframe and packet.pts)
        content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    (folder / "bend" / "within.mp4").write_bytes(content)
    return folder


def read_rows(path):
    with open(path, newline="") as file:
        return {os.path.basename(row["path"]): row for row in csv.DictReader(file)}


def run(module, *args, **options):
    command = [sys.executable, "-m", f"wt_jax.tools.{module}", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_an_index_says_what_is_there(damaged, tmp_path):
    out = tmp_path / "lists" / "index.csv"
    rows = check_videos(open_source(str(damaged)), out, every_frame=True)
    found = read_rows(out)
    assert len(found) == 8
    sound = found["b, c.mp4"]
    assert [sound[name] for name in ("frames", "rate", "duration", "width", "height", "codec", "rotation", "status")] == [
        "12", "25.0", "0.48", "48", "32", "h264", "0", "ok",
    ]  # fmt: skip
    assert sound["path"] == str(damaged / "run" / "b, c.mp4")
    assert (sound["label"], sound["name"]) == ("1", "run")
    assert found["text.mp4"]["status"] == "Invalid data found when processing input"
    assert found["sound.mp4"]["status"] == "it has no video stream"
    assert "cannot be decoded" in found["within.mp4"]["status"]
    text = report(rows, "kinetics400/train")
    assert "8 videos: 4 ok, 4 broken; 76 frames" in text
    assert f"broken: {damaged}/run/text.mp4: Invalid data" in text
    assert "4 videos, officially 246,535, of which the CVDF copy holds 241,258: 246,531 fewer" in text


def test_damage_within_a_video_is_found_by_decoding(damaged, tmp_path):
    quick = check_videos(open_source(str(damaged)), tmp_path / "index.csv")
    assert {os.path.basename(str(row["path"])): row["status"] for row in quick}["within.mp4"] == "ok"
    # What was looked at less closely is looked at again.
    close = check_videos(open_source(str(damaged)), tmp_path / "index.csv", every_frame=True)
    assert {os.path.basename(str(row["path"])): row["status"] for row in close}["within.mp4"] != "ok"


def test_sources_open_an_index_without_its_broken_videos(damaged, tmp_path, caplog):
    check_videos(open_source(str(damaged)), tmp_path / "index.csv", every_frame=True)
    damaged.rename(tmp_path / "away")  # no file is looked at
    videos = open_source(str(tmp_path / "index.csv"))
    (tmp_path / "away").rename(damaged)
    assert [os.path.basename(path) for path in videos.paths] == ["d.mp4", "e.mp4", "a.mp4", "b, c.mp4"]
    assert videos.labels.tolist() == [0, 0, 1, 1]
    assert videos.classes == ("bend", "run")
    assert videos.columns["frames"] == ("14", "40", "10", "12")
    assert "4 of 8 videos are left out as broken" in caplog.text
    # An index of an index keeps it all.
    again = check_videos(videos, tmp_path / "again.csv")
    assert [row["status"] for row in again] == ["ok"] * 4
    check_videos(VideoList((str(damaged / "run/text.mp4"),), np.array([-1], np.int32)), tmp_path / "bad.csv")
    with pytest.raises(SourceError, match="every video of the index is broken"):
        open_source(str(tmp_path / "bad.csv"))


def test_only_files_that_have_changed_are_looked_at_again(damaged, tmp_path, monkeypatch):
    looked, plain = [], check_module._look
    monkeypatch.setattr(check_module, "_look", lambda job: looked.append(os.path.basename(job[0])) or plain(job))
    out = tmp_path / "index.csv"
    first = check_videos(open_source(str(damaged)), out)
    assert len(looked) == 8
    looked.clear()
    assert check_videos(open_source(str(damaged)), out) == first
    assert looked == []
    write_video(damaged / "run" / "text.mp4", 20)
    with open(f"{out}.journal", "a") as file:
        file.write('{"path": "half a li')
    rows = check_videos(open_source(str(damaged)), out)
    assert looked == ["text.mp4"]
    assert read_rows(out)["text.mp4"]["frames"] == "20"
    assert len(rows) == 8
    os.utime(damaged / "run" / "a.mp4", (1, 1))
    check_videos(open_source(str(damaged)), out)
    assert looked == ["text.mp4", "a.mp4"]


def test_the_command_and_its_errors(damaged, tmp_path):
    done = run("check_videos", damaged, f"--out={tmp_path}/index.csv", "--decode", "--workers=2")
    assert done.returncode == 0, done.stderr
    assert "8 videos: 4 ok, 4 broken" in done.stdout
    assert len(open_source(str(tmp_path / "index.csv"))) == 4
    for args, message in {
        (tmp_path / "nowhere",): "there is no such file or folder",
        (damaged, "--dataset=kinetics4000/train"): "--dataset=kinetics4000/train: unknown; write NAME/SPLIT",
    }.items():
        failed = run("check_videos", *args, f"--out={tmp_path}/other.csv")
        assert failed.returncode == 2
        assert failed.stderr.startswith("wt_jax: ")
        assert message in failed.stderr
        assert failed.stderr.count("\n") == 1


@pytest.mark.slow
def test_an_interrupted_check_goes_on(tmp_path):
    (tmp_path / "videos").mkdir()
    content = Path(write_video(tmp_path / "one.mp4", 80)).read_bytes()
    for index in range(400):
        (tmp_path / "videos" / f"{index}.mp4").write_bytes(content)
    out = tmp_path / "index.csv"
    command = [sys.executable, "-m", "wt_jax.tools.check_videos", str(tmp_path / "videos"), f"--out={out}", "--decode"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    journal = Path(f"{out}.journal")
    while not journal.exists() or journal.read_text().count("{") < 10:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert "SIGINT: stopped; the same command continues" in process.communicate()[1]
    assert process.returncode == RUN_AGAIN
    done = journal.read_text().count("{")
    assert 10 <= done < 400
    assert not out.exists()
    assert run("check_videos", tmp_path / "videos", f"--out={out}", "--decode").returncode == 0
    assert journal.read_text().count("{") == 400
    assert len(open_source(str(out))) == 400


def _die_of_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * 10


def test_a_job_that_kills_its_process_is_told():
    done = dict(run_parallel(_die_of_three, range(12), workers=2))
    assert done == {number: None if number == 3 else number * 10 for number in range(12)}


def test_packing_keeps_every_frame_of_every_video(damaged, tmp_path):
    write_video(damaged / "run" / "large.mp4", 30, height=96, width=130, pts=[*range(20), *range(40, 50)])
    videos, out = open_source(str(damaged)), str(tmp_path / "packed")
    settings = PackSettings(short_side=48, seconds=0.5, per_shard=3)
    rows = pack(plan_shards(rows_of(videos), out, settings), out)
    good = [row for row in rows if row["status"] == "ok"]
    assert {os.path.basename(row["path"]) for row in rows if row["status"] != "ok"} == {
        "empty.mp4", "text.mp4", "sound.mp4", "within.mp4",
    }  # fmt: skip
    for source in {row["source"] for row in good}:
        clips = [row for row in good if row["source"] == source]
        info = probe(source)
        assert sum(row["frames"] for row in clips) == info.num_frames
        times = []
        for row in clips:
            with open_video(f"{out}/{row['path']}") as reader:
                assert reader.info.num_frames == row["frames"]
                assert min(reader.info.width, reader.info.height) == min(48, info.width, info.height)
                times += [row["start"] + float((time - reader.info.pts[0]) * reader.info.time_base) for time in reader.info.pts]
        expected = [float((time - info.pts[0]) * info.time_base) for time in info.pts.tolist()]
        np.testing.assert_allclose(times, expected, atol=1e-3)
    assert len([row for row in good if row["source"].endswith("large.mp4")]) == 4
    packed = open_source(out)
    assert len(packed) == len(good)
    assert packed.classes == ("bend", "run")


def same_packs(one, other):
    """Same files, same rows, same clips; the bytes of two encodings may differ, and a pixel by a gray level or two."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        if not name.endswith(".array_record"):
            assert (one / name).read_bytes() == (other / name).read_bytes()
    for mine, theirs in zip(open_source(str(one)), open_source(str(other)), strict=True):
        fields = [unpack_record(read_record(record.path))[0] for record in (mine, theirs)]
        assert fields[0] == fields[1]
        frames = [np.stack(list(find_video(record.path).read_all())).astype(int) for record in (mine, theirs)]
        assert np.abs(frames[0] - frames[1]).max() <= 4


def test_a_pack_goes_on_and_belongs_to_one_list_and_setting(damaged, tmp_path, monkeypatch):
    out, settings = str(tmp_path / "packed"), PackSettings(per_shard=3)
    rows = rows_of(open_source(str(damaged)))
    shards = plan_shards(rows, out, settings)
    assert len(shards) == 3
    plain = packing.encode_clip
    calls = []

    def failing(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(packing, "encode_clip", failing)
    with pytest.raises(KeyboardInterrupt):
        pack(shards, out)
    there = [path.name for path in Path(out).glob("clips*.array_record")]
    assert there == [shards[0].name]
    before = (Path(out) / shards[0].name).stat().st_mtime_ns
    pack(shards, out)
    assert (Path(out) / shards[0].name).stat().st_mtime_ns == before
    assert len(open_source(out)) == 4
    assert not list(Path(out).glob(".*"))
    whole = tmp_path / "whole"
    pack(plan_shards(rows, str(whole), settings), str(whole))
    same_packs(whole, Path(out))
    with pytest.raises(SourceError, match="holds a pack with other gop; give an empty folder"):
        plan_shards(rows, out, PackSettings(per_shard=3, gop=4))
    with pytest.raises(SourceError, match="other videos"):
        plan_shards(rows[:-1], out, settings)


def test_a_shard_that_does_not_read_back_is_not_left_behind(damaged, tmp_path, monkeypatch):
    out = str(tmp_path / "packed")
    shard = plan_shards(rows_of(open_source(str(damaged))), out, PackSettings())[0]
    plain = packing.pack_record
    monkeypatch.setattr(packing, "pack_record", lambda row, info, content: plain(row, info, content[:-200]))
    with pytest.raises((VideoError, SourceError)):
        packing.pack_shard(shard)
    assert [path.name for path in Path(out).iterdir()] == ["pack.json"]


@pytest.mark.parametrize("option", [{"gop": 0}, {"short_side": 3}, {"crf": 60}, {"seconds": -1.0}])
def test_impossible_settings(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be"):
        PackSettings(**option)


def test_the_pack_command(damaged, tmp_path):
    done = run("pack", damaged, tmp_path / "packed", "--per_shard=2", "--short_side=16", "--workers=2")
    assert done.returncode == 0, done.stderr
    assert "4 clips of 4 videos, 76 frames; 4 broken" in done.stdout
    name = open_source(str(tmp_path / "packed"))[0].path
    assert unpack_record(read_record(name))[0]["width"] == 24
    failed = run("pack", damaged, tmp_path / "other", "--gop=0")
    assert failed.returncode == 2
    assert failed.stderr == "wt_jax: --gop must be 1 or more, got 0\n"


def test_the_beam_pipeline_packs_the_same(damaged, tmp_path):
    pytest.importorskip("apache_beam")
    assert run("pack", damaged, tmp_path / "packed", "--per_shard=3", "--workers=0").returncode == 0
    done = run("pack_beam", damaged, tmp_path / "beam", "--per_shard=3", "--runner=DirectRunner")
    assert done.returncode == 0, done.stderr
    same_packs(tmp_path / "packed", tmp_path / "beam")


def annotations(folder, name):
    """A handful of annotated videos in the official formats."""
    folder.mkdir()
    if name == "ucf101":
        (folder / "classInd.txt").write_text("2 Archery\n1 ApplyEyeMakeup\n")
        for split in (1, 2, 3):
            train, test = ("g08", "g01") if split == 1 else ("g01", "g08")
            lines = [f"{label}/v_{label}_{train}_c01.avi {i}\n" for i, label in enumerate(("ApplyEyeMakeup", "Archery"), 1)]
            (folder / f"trainlist0{split}.txt").write_text("".join(lines))
            (folder / f"testlist0{split}.txt").write_text(f"ApplyEyeMakeup/v_ApplyEyeMakeup_{test}_c01.avi\n")
    elif name == "hmdb51":
        for label in ("brush_hair", "wave"):
            for split in (1, 2, 3):
                (folder / f"{label}_test_split{split}.txt").write_text("a b.avi 1 \nc.avi 2 \nd.avi 0 \n")
    elif name == "ssv2":
        (folder / "labels.json").write_text(json.dumps({"Holding something": "1", "Bending something, twice": "0"}))
        (folder / "train.json").write_text(json.dumps([{"id": "7", "template": "Bending [something], twice"}]))
        (folder / "validation.json").write_text(json.dumps([{"id": "8", "template": "Holding [something]"}]))
    elif name == "diving48":
        (folder / "Diving48_vocab.json").write_text(json.dumps([["Back", "15som"], ["Back", "25som"], ["Back", "15som"]]))
        (folder / "Diving48_V2_train.json").write_text(json.dumps([{"vid_name": "x_1", "label": 2, "end_frame": 9}]))
        (folder / "Diving48_V2_test.json").write_text(json.dumps([{"vid_name": "x_2", "label": 1}]))
    else:
        head = "label,youtube_id,time_start,time_end,split\n"
        (folder / "train.csv").write_text(f"{head}waving hand,-ab_0,1,11,train\nabseiling,cd,120,130,train\n")
        (folder / "validate.csv").write_text(f'{head}"eating, fast",ef,3,13,validate\n')
        (folder / "test.csv").write_text("youtube_id,time_start,time_end\nzz,3,13\n")
    return folder


EXPECTED = {  # files that are there -> list -> (file, label, class)
    "ucf101": (
        ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "v_Archery_g08_c01.avi", "x/v_ApplyEyeMakeup_g01_c01.avi"],
        {
            "train_1": [("v_ApplyEyeMakeup_g08_c01.avi", "0", "ApplyEyeMakeup"), ("v_Archery_g08_c01.avi", "1", "Archery")],
            "test_1": [("v_ApplyEyeMakeup_g01_c01.avi", "0", "ApplyEyeMakeup")],
            "train_3": [("v_ApplyEyeMakeup_g01_c01.avi", "0", "ApplyEyeMakeup")],
        },
    ),
    "hmdb51": (
        ["brush_hair/a b.avi", "wave/a b.avi", "brush_hair/c.avi", "wave/c.avi", "wave/d.avi"],
        {
            "train_2": [("brush_hair/a b.avi", "0", "brush_hair"), ("wave/a b.avi", "1", "wave")],
            "test_3": [("brush_hair/c.avi", "0", "brush_hair"), ("wave/c.avi", "1", "wave")],
        },
    ),
    "ssv2": (
        ["7.webm", "8.webm"],
        {"train": [("7.webm", "0", "Bending something, twice")], "validation": [("8.webm", "1", "Holding something")]},
    ),
    "diving48": (
        ["x_1.mp4", "x_2.mp4"],
        {"train": [("x_1.mp4", "2", "2 Back 15som")], "test": [("x_2.mp4", "1", "Back 25som")]},
    ),
    "kinetics600": (
        ["train/-ab_0_000001_000011.mp4", "train/abseiling/cd_000120_000130.mp4", "val/ef_000003_000013.mkv"],
        {
            "train": [("-ab_0_000001_000011.mp4", "2", "waving hand"), ("cd_000120_000130.mp4", "0", "abseiling")],
            "validation": [("ef_000003_000013.mkv", "1", "eating, fast")],
        },
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_official_annotations_become_lists(tmp_path, name):
    files, lists = EXPECTED[name]
    for file in files:
        (tmp_path / "videos" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / file).touch()
    lines = make_lists(name, annotations(tmp_path / "annotations", name), tmp_path / "videos", tmp_path / "out")
    for split, expected in lists.items():
        with (tmp_path / "out" / f"{name}_{split}.csv").open(newline="") as file:
            rows = [(row["path"], row["label"], row["name"]) for row in csv.DictReader(file)]
        assert len(rows) == len(expected)
        for (path, *label), (file, *wanted) in zip(rows, expected, strict=True):
            assert label == wanted
            assert path.endswith(f"/{file}")
        videos = open_source(str(tmp_path / "out" / f"{name}_{split}.csv"))
        assert [videos.classes[label] for label in videos.labels] == [label for _, _, label in expected]
    assert all(line[:4].isdigit() and " videos of " in line for line in lines)
    if name == "ucf101":
        third = next(line for line in lines if "train_3" in line)
        assert "1 videos of 2 annotated, 2 classes; 1 missing (Archery/v_Archery_g01_c01)" in third
        assert (tmp_path / "out" / "ucf101_train_3_missing.txt").read_text() == "Archery/v_Archery_g01_c01\n"
        assert "no official count is known here, not checked" in third
        assert "officially 9,537: 9,535 fewer" in lines[0]


@pytest.mark.parametrize("name", READERS)
def test_missing_annotations_are_named(tmp_path, name):
    with pytest.raises(SourceError, match=str(tmp_path)):
        make_lists(name, tmp_path, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_videos_of_another_set_are_refused(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "other.mp4").touch()
    with pytest.raises(SourceError, match=r"none of the videos that .* names is below it"):
        make_lists("ssv2", annotations(tmp_path / "a", "ssv2"), tmp_path / "videos", tmp_path / "out")
    with pytest.raises(SourceError, match="unknown data set; choose one of ucf101"):
        make_lists("ucf", tmp_path, tmp_path, tmp_path)


def test_official_counts():
    assert compare("kinetics400/train", 246_535).endswith("as it should be")
    assert compare("hmdb51/train_2", 3_571).endswith("officially 3,570: 1 more")
    assert compare("diving48/train", 5).endswith("not checked)")
    with pytest.raises(SourceError, match="unknown"):
        compare("k400", 1)
