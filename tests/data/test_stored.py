"""Videos that are no plain files: packed shards, TFDS, remote objects and mixtures give the same frames and the same order."""

import importlib.util
import json
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from array_record.python import array_record_module
from etils.epath.backend import fsspec_backend
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from support.batches import VIEWS, digests
from support.video_files import frame_numbers, write_video

from wt_jax.data.packing import PackSettings, finish, pack_shard, plan_shards
from wt_jax.data.records import VideoList, mix
from wt_jax.data.sources.index import rows_of
from wt_jax.data.sources.open import open_source
from wt_jax.data.video.decode import probe
from wt_jax.data.video.reader import find_video, open_video, pack_record, read_record, unpack_record
from wt_jax.errors import SourceError, VideoError

COUNTS = [12 + 3 * index for index in range(9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine videos in three classes; video i has 12 + 3 i frames."""
    folder = tmp_path_factory.mktemp("videos")
    for index, count in enumerate(COUNTS):
        (folder / f"class{index // 3}").mkdir(exist_ok=True)
        write_video(folder / f"class{index // 3}" / f"{index}.mp4", count)
    return folder


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    """The nine, packed into three shards."""
    out = str(tmp_path_factory.mktemp("packed"))
    shards = plan_shards(rows_of(open_source(str(folder))), out, PackSettings(short_side=16, per_shard=4))
    finish(out, {shard.number: pack_shard(shard) for shard in shards})
    return Path(out)


def frames_of(name, indices):
    """Frames of a video in the order of asking, uint8 [n, height, width, 3]."""
    with open_video(name) as reader:
        frames = dict(reader.frames(np.unique(indices)))
    return np.stack([frames[index] for index in indices])


def info_of(name):
    with open_video(name) as reader:
        return reader.info


def write_tfds(folder, name="tiny", *, video="Video", file_format="array_record", images=".png"):
    """A prepared TFDS data set as TFDS lays it out: video i has 8 + i frames of gray 10 + 3 place, labels 0, 1, 0, ..."""
    from tensorflow_datasets.proto import tf_example_pb2

    home = folder / name / "1.2.0"
    home.mkdir(parents=True)
    image = {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image"}
    kinds = {
        "Video": {"pythonClassName": "tensorflow_datasets.core.features.video_feature.Video", "video": {}},
        "Sequence": {
            "pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
            "sequence": {"feature": image},
        },
        "Image": image,
    }
    label = {"pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel"}
    features = {"featuresDict": {"features": {"label": label, "video": kinds[video]}}}
    (home / "features.json").write_text(json.dumps(features))
    (home / "label.labels.txt").write_text("walk\nrun\n")
    split = {"name": "train", "shardLengths": ["3", "2"], "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}
    (home / "dataset_info.json").write_text(json.dumps({"name": name, "fileFormat": file_format, "splits": [split]}))
    video = 0
    for shard, count in enumerate((3, 2)):
        path = home / f"{name}-train.array_record-{shard:05d}-of-00002"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for _ in range(count):
            example = tf_example_pb2.Example()
            example.features.feature["label"].int64_list.value.append(video % 2)
            example.features.feature["id"].bytes_list.value.append(b"a name")
            for place in range(8 + video):
                content = cv2.imencode(images, np.full((16, 24, 3), 10 + 3 * place, np.uint8))[1].tobytes()
                example.features.feature["video"].bytes_list.value.append(content)
            writer.write(example.SerializeToString())
            video += 1
        writer.close()
    return home


@pytest.fixture(scope="module")
def tfds_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("tfds")
    write_tfds(home)
    return home


@pytest.fixture
def bucket(folder, tmp_path, monkeypatch):
    """The class folders as gs://bucket, through fsspec, with which the path library reads remote stores."""
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "bucket").symlink_to(folder)

    class Store(DirFileSystem):
        protocol = ("gs", "gcs")

        def __init__(self, **options):
            super().__init__(path=str(tmp_path / "stores"), fs=LocalFileSystem())

        def _join(self, path):
            return super()._join(path.removeprefix("gs://") if isinstance(path, str) else path)

    if importlib.util.find_spec("tensorflow"):
        pytest.skip("with TensorFlow the path library does not read through fsspec")
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "gcs", Store)
    fsspec_backend._get_filesystem.cache_clear()
    yield "gs://bucket"
    fsspec_backend._get_filesystem.cache_clear()


def test_packed_videos_are_the_originals(folder, packed):
    originals, videos = open_source(str(folder)), open_source(str(packed))
    assert len(videos) == 9
    assert videos.classes == originals.classes
    np.testing.assert_array_equal(videos.labels, originals.labels)
    assert videos.columns["source"] == originals.paths
    for record, count in zip(videos, COUNTS, strict=True):
        info = info_of(record.path)
        assert info.num_frames == count
        assert info.duration * 25 == count
        assert (info.width, info.height) == (24, 16)
        # Two conversions between RGB and YUV may cost a gray level each; frames are three apart.
        original = frames_of(videos.columns["source"][record.index], range(count)).mean(axis=(1, 2, 3))
        for asked in ([count - 1, 0, 5, 5], range(count), range(1, count, 3)):
            assert np.abs(frames_of(record.path, asked).mean(axis=(1, 2, 3)) - original[list(asked)]).max() <= 1
        assert np.diff(np.searchsorted(info.pts, info.keyframes)).max(initial=0) <= 16
        assert find_video(record.path).describe() == ("h264", 0)
        fields, stored, content = unpack_record(read_record(record.path))
        assert fields["source"] == originals.paths[record.index]
        assert (stored.end, stored.time_base, stored.width) == (info.end, info.time_base, info.width)
        probed = probe(content)
        np.testing.assert_array_equal(stored.pts, probed.pts)
        np.testing.assert_array_equal(stored.keyframes, probed.keyframes)


def test_a_pack_may_be_moved(packed, tmp_path):
    moved = packed.rename(tmp_path / "moved")
    try:
        assert frame_numbers(frames_of(open_source(str(moved))[4].path, [7])) == [7]
    finally:
        moved.rename(packed)


def test_tfds_frames_labels_and_names(tfds_home, monkeypatch):
    videos = open_source("tfds:tiny", root=str(tfds_home))
    assert videos.labels.tolist() == [0, 1, 0, 1, 0]
    assert videos.classes == ("walk", "run")
    info = info_of(videos[4].path)
    assert info.num_frames == 12
    assert find_video(videos[4].path).check().duration == info.duration
    decoded, plain = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *args: decoded.append(args) or plain(*args))
    assert frame_numbers(frames_of(videos[4].path, [11, 2, 2])) == [11, 2, 2]
    assert len(decoded) == 2
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_home))
    assert open_source("tfds:tiny:1.2.0#train").paths == videos.paths
    assert open_source(f"tfds:{tfds_home}/tiny").paths == videos.paths


def test_tfds_sequences_of_jpeg(tmp_path):
    write_tfds(tmp_path, video="Sequence", images=".jpg")
    name = open_source("tfds:tiny", root=str(tmp_path))[1].path
    assert find_video(name).describe() == ("mjpeg", 0)
    assert frame_numbers(frames_of(name, [8, 0])) == [8, 0]


@pytest.mark.parametrize(
    ("location", "options", "message"),
    [
        ("tfds:other", {}, r"no prepared data set below .*other; prepare it with `tfds build other"),
        ("tfds:tiny:9.0.0", {}, "in version 9.0.0"),
        ("tfds:tiny#test", {}, "there is no split 'test'; choose one of train"),
        ("tfds:tiny", {"file_format": "tfrecord"}, "tfrecord, which has no random access; prepare it with --file_format"),
        ("tfds:tiny", {"video": "Image"}, "none of its features is a video; it has label, video"),
        ("tfds:", {}, "write tfds:NAME"),
    ],
)
def test_faulty_tfds(tmp_path, location, options, message):
    write_tfds(tmp_path, **options)
    with pytest.raises(SourceError, match=message):
        open_source(location, root=str(tmp_path))


def test_faulty_records(packed, tmp_path):
    shard = next(packed.glob("*-00000-*.array_record"))
    half = tmp_path / "half.array_record"
    half.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    text = tmp_path / "text.array_record"
    writer = array_record_module.ArrayRecordWriter(str(text), "group_size:1")
    writer.write(b"neither")
    writer.write(pack_record({}, info_of(f"{shard}#0"), b"no video"))
    writer.write(b"{}\nno video")
    writer.close()
    for name in (f"{shard}#99", f"{half}#0", f"{tmp_path}/absent.array_record#0", f"{text}#0"):
        with pytest.raises(VideoError) as caught:
            find_video(name)
        assert str(caught.value).startswith(f"{name}: ")
    with pytest.raises(VideoError, match=r"text\.array_record#1: Invalid data found"):
        frames_of(f"{text}#1", [0])
    with pytest.raises(VideoError, match=r"text\.array_record#2: the record is none of pack's"):
        frames_of(f"{text}#2", [0])


def test_remote_folders_and_lists(folder, bucket, tmp_path):
    videos = open_source(bucket)
    local = open_source(str(folder))
    assert videos.paths == tuple(path.replace(str(folder), bucket) for path in local.paths)
    assert videos.classes == local.classes
    assert frame_numbers(frames_of(videos[3].path, [20, 4])) == [20, 4]
    with pytest.raises(VideoError, match=r"gs://bucket/class0/none\.mp4: FileNotFoundError"):
        find_video(f"{bucket}/class0/none.mp4")
    (folder / "list.txt").write_text("class0/1.mp4 0\nclass2/7.mp4 1\n")
    assert open_source(f"{bucket}/list.txt").paths == (f"{bucket}/class0/1.mp4", f"{bucket}/class2/7.mp4")
    (tmp_path / "local.txt").write_text(f"{bucket}/class0/1.mp4 0\n")
    assert open_source(str(tmp_path / "local.txt")).paths == (f"{bucket}/class0/1.mp4",)
    (folder / "list.txt").unlink()
    assert digests(videos, 2) == digests(local, 2)


def test_a_remote_store_without_its_library_is_told_once(tmp_path):
    (tmp_path / "list.txt").write_text("az://box/a.mp4 0\n")
    with pytest.raises(SourceError, match=r"az://box/a\.mp4: its store needs a library"):
        open_source(str(tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_text("what://box/a.mp4 0\n")
    with pytest.raises(SourceError, match=r"what://box/a\.mp4: what:// is no kind of store"):
        open_source(str(tmp_path / "list.txt"))


def test_mixtures(folder, tmp_path):
    (tmp_path / "other.csv").write_text(f"path,label,name\n{folder}/class0/0.mp4,0,class1\n{folder}/class0/1.mp4,1,new\n")
    both = open_source(f"mix:0.75*{folder}, 0.25 * {tmp_path}/other.csv")
    assert both.classes == ("class0", "class1", "class2", "new")
    assert both.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 1, 3]
    assert both.parts == ((9, 0.75), (2, 0.25))
    assert open_source(f"mix:{folder},{tmp_path}/other.csv").parts == ((9, 9.0), (2, 2.0))
    unlabelled = VideoList(("x.mp4",), np.array([-1], np.int32), (), {"a": ("1",)})
    assert mix([both, unlabelled], [1, 1]).labels.tolist() == [-1] * 12
    assert both.select([0, 10]).parts == ()
    for faulty, message in {
        f"mix:0.5*{folder},{folder}": "give every part a weight, or none",
        f"mix:{folder},,": "a part is empty",
        f"mix:0*{folder},1*{folder}": "a weight is 0",
    }.items():
        with pytest.raises(SourceError, match=message):
            open_source(faulty)


def test_a_mixture_keeps_its_shares_and_its_epochs(folder):
    from wt_jax.data.pipeline import train_batches

    videos = open_source(str(folder))
    both = mix([videos.select(range(6)), videos.select(range(6, 9))], [0.75, 0.25])
    batches = list(train_batches(both, VIEWS, seed=1, batch_size=8, num_steps=6))
    shown = np.concatenate([batch["video"] for batch in batches])
    for batch in batches:
        assert (batch["video"] < 6).sum() == 6
    first = shown[shown < 6]
    assert all(sorted(first[start : start + 6]) == list(range(6)) for start in range(0, 36, 6))
    assert first[:6].tolist() != first[6:12].tolist()


@pytest.fixture(params=["folder", "list", "index", "packed", "tfds", "mixture"])
def source(request, folder, packed, tfds_home, tmp_path):
    """Every kind of source that works in other processes; a remote one differs from a list by the reading alone."""
    match request.param:
        case "folder":
            return open_source(str(folder))
        case "list":
            (tmp_path / "list.txt").write_text("".join(f"{path} {i % 2}\n" for i, path in enumerate(folder.rglob("*.mp4"))))
            return open_source(str(tmp_path / "list.txt"))
        case "index":
            from wt_jax.tools.check_videos import check_videos

            check_videos(open_source(str(folder)), tmp_path / "index.csv")
            return open_source(str(tmp_path / "index.csv"))
        case "packed":
            return open_source(str(packed))
        case "tfds":
            return open_source("tfds:tiny", root=str(tfds_home))
        case _:
            return open_source(f"mix:0.6*{folder},0.4*{packed}")


def test_the_stream_of_every_source_is_a_function_of_the_step(source):
    source = pickle.loads(pickle.dumps(source))
    expected = digests(source, 4)
    assert len(set(expected)) == 4
    for hosts in (2, 4):
        assert digests(source, 4, hosts=hosts) == expected
    for start in (1, 3):
        assert digests(source, 4 - start, start_step=start) == expected[start:]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_stream_of_every_source_does_not_depend_on_workers(source, workers):
    expected = digests(source, 6)
    assert digests(source, 6, workers=workers) == expected
    assert digests(source, 4, workers=workers, hosts=2, start_step=2) == expected[2:]


def test_a_worker_reads_packed_and_tfds_records(packed, tfds_home):
    both = mix([open_source(str(packed)), open_source("tfds:tiny", root=str(tfds_home))], [1, 1])
    assert digests(both, 3, workers=2) == digests(both, 3)


TOGETHER = """
import contextlib, threading, time
from etils import epy
from wt_jax.data.video.reader import example_features

late, lazy = threading.Event(), epy.lazy_imports

@contextlib.contextmanager
def slow(*arguments, **options):
    with lazy(*arguments, **options):
        late.set()
        time.sleep(0.5)
        yield

def second():
    late.wait()
    example_features(b"")

epy.lazy_imports = slow
other = threading.Thread(target=second, daemon=True)
other.start()
example_features(b"")
assert late.is_set()
other.join()
"""


def test_two_threads_may_read_their_first_tfds_example_at_once():
    subprocess.run([sys.executable, "-c", TOGETHER], timeout=60, check=True)


def test_nothing_in_data_imports_jax():
    package = Path(sys.modules["wt_jax.data"].__file__).parent
    files = [path for path in package.rglob("*.py") if path.stem != "__init__"]
    # The pipeline and its workers import grain, which imports JAX itself.
    names = [".".join(path.relative_to(package).with_suffix("").parts) for path in files]
    modules = [name for name in names if name != "pipeline" and not name.startswith("workers")]
    for path in files:
        lines = [line.strip() for line in path.read_text().splitlines()]
        assert not [line for line in lines if line.startswith(("import jax", "from jax", "import flax", "from flax"))], path
    code = "import sys\n" + "".join(f"import wt_jax.data.{name}\n" for name in modules)
    code += "import wt_jax.tools.check_videos, wt_jax.tools.pack, wt_jax.tools.make_lists\n"
    code += "print([name for name in ('jax', 'flax', 'grain', 'tensorflow', 'tensorflow_datasets') if sys.modules.get(name)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
