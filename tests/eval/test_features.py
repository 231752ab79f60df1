"""Features: each video once, of any layer, on disk in parts that survive an interruption."""

import json
import logging
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.video_files import write_video

from wt_jax.config import ModelConfig
from wt_jax.data.feature_store import clips_path, geometry_path, open_clip_features
from wt_jax.data.pipeline import eval_batches, train_batches
from wt_jax.data.records import VideoList, same_classes
from wt_jax.data.sources.open import open_source
from wt_jax.errors import ConfigError
from wt_jax.eval.features import store
from wt_jax.eval.features.extract import Reading, extract_features, feature_batches, make_extractor
from wt_jax.eval.features.store import extract_to_file, is_current, read_features, tokens_path
from wt_jax.experiment import build_method, default_config, resolve
from wt_jax.models import build_encoder
from wt_jax.specs import ClipView, FeatureView
from wt_jax.train.sharding import make_mesh, replicated

VIEW = ClipView(num_frames=4, stride=2, size=16, crop="center")
READING = Reading(VIEW, windows=2, crops=3, batch_size=4)
MODEL = ModelConfig(name="small_r2plus1d", width=4, norm="group")
ENCODER = build_encoder(MODEL)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Eleven videos of different lengths, of which the fourth cannot be decoded."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [write_video(folder / f"{number:02}.mp4", 8 + 3 * number) for number in range(11)]
    (folder / "03.mp4").write_text("no video")
    return VideoList(tuple(paths), np.arange(11, dtype=np.int32) % 3, ("a", "b", "c"))


@pytest.fixture(scope="module")
def params():
    clip = jnp.zeros((1, 4, 16, 16, 3))
    variables = jax.jit(lambda key: ENCODER.init(key, clip, False))(jax.random.key(0))
    # Far from their start, so that clips of flat gray differ in their features.
    leaves = jax.tree.map(lambda leaf: leaf + 0.3, variables["params"])
    return jax.device_put({"encoder": jax.tree.map(np.asarray, leaves)}, replicated(make_mesh()))


@pytest.fixture(scope="module")
def extractor():
    return make_extractor(ENCODER, tokens=True)


@pytest.fixture(scope="module")
def expected(videos, params):
    """{video: (clips as the pipeline makes them one by one, features and maps of each)}, written out."""
    local = jax.tree.map(np.asarray, params["encoder"])
    look = jax.jit(lambda clips, pool: ENCODER.apply({"params": local}, clips, False, pool=pool), static_argnums=1)
    found = {}
    for batch in eval_batches(videos, VIEW, windows=2, crops=3, batch_size=1):
        if batch["valid"][0]:
            clips = jnp.asarray(batch["clip"][0], jnp.float32) / 255
            found[int(batch["video"][0])] = np.asarray(look(clips, True)), np.asarray(look(clips, False))
    return found


def test_each_video_once_in_order_whatever_the_batch(videos, params, extractor, expected):
    features = extract_features(extractor, params, {}, videos, READING, make_mesh())
    np.testing.assert_array_equal(features.videos, [0, 1, 2, 4, 5, 6, 7, 8, 9, 10])
    np.testing.assert_array_equal(features.labels, videos.labels[features.videos])
    naive = np.stack([expected[video][0].mean(axis=0) for video in features.videos.tolist()])
    np.testing.assert_allclose(features.values, naive, rtol=1e-4, atol=1e-5)
    assert np.ptp(naive, axis=0).max() > 0.01


def test_times_are_those_of_the_frames(videos, params, extractor):
    features = extract_features(extractor, params, {}, videos.select([0, 10]), READING, make_mesh())
    # 8 and 38 frames at 25 per second; a clip spans six of them.
    np.testing.assert_allclose(features.times[0], np.array([[0, 6], [1, 7]]) / 25, atol=1e-6)
    np.testing.assert_allclose(features.times[1], np.array([[0, 6], [31, 37]]) / 25, atol=1e-6)


def test_tokens_are_the_maps_of_all_clips_in_a_row(videos, params, extractor, expected):
    batch = next(feature_batches(extractor, params, {}, videos, READING, make_mesh()))
    assert batch["tokens"].dtype == np.float16
    for row, video in enumerate(batch["video"].tolist()):
        tokens = expected[video][1].reshape(-1, 16)
        np.testing.assert_allclose(batch["tokens"][row], tokens, rtol=2e-3, atol=1e-3)
        np.testing.assert_allclose(batch["tokens"][row].astype(np.float32).mean(0), batch["values"][row], atol=5e-3)


def test_layers_by_name_and_the_embedding(videos, params):
    some, reading = videos.select(range(4, 8)), Reading(VIEW, windows=1, batch_size=4)
    clips = jnp.asarray(next(eval_batches(some, VIEW, windows=1, batch_size=4))["clip"][:, 0], jnp.float32) / 255
    local = {"params": jax.tree.map(np.asarray, params["encoder"])}

    first = extract_features(make_extractor(ENCODER, "space1"), params, {}, some, reading, make_mesh())
    kept = {"capture_intermediates": True, "mutable": ["intermediates"]}
    _, state = jax.jit(lambda variables: ENCODER.apply(variables, clips, False, **kept))(local)
    expected = state["intermediates"]["space1"]["__call__"][0].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(first.values, expected, rtol=1e-4, atol=1e-5)

    config = default_config("weak_teacher")
    config.clip.num_frames, config.clip.size = 4, 16
    config.model.name, config.model.width, config.model.norm = "small_r2plus1d", 4, "group"
    method = build_method(resolve(config), 1)
    start = jax.jit(lambda key: method.network.init(key, clips[:1], False)["params"])(jax.random.key(1))
    whole = jax.device_put(jax.tree.map(np.asarray, start), replicated(make_mesh()))
    head = extract_features(make_extractor(ENCODER, "embedding", method=method), whole, {}, some, reading, make_mesh())
    assert head.values.shape == (4, 128)
    np.testing.assert_allclose(np.linalg.norm(head.values, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(head.values, np.asarray(jax.jit(method.embed)(start, {}, clips)), rtol=1e-4, atol=1e-5)

    with pytest.raises(ConfigError, match="'space9' is unknown; SmallR2Plus1D has space1, time1"):
        make_extractor(ENCODER, "space9")
    with pytest.raises(ConfigError, match="needs the workdir of a method with a head"):
        make_extractor(ENCODER, "embedding")
    with pytest.raises(ConfigError, match="has no map"):
        make_extractor(ENCODER, "embedding", method=method, tokens=True)


def test_an_undecodable_video_is_named_once_however_often_one_evaluates(videos, params, extractor, caplog):
    named = set()
    with caplog.at_level(logging.WARNING, "wt_jax"):
        for _ in range(2):
            extract_features(extractor, params, {}, videos, READING, make_mesh(), named)
    assert [record.getMessage().count("03.mp4") for record in caplog.records] == [1]


def test_a_list_without_a_video_that_can_be_decoded_is_an_error(videos, params, extractor, tmp_path):
    bad = videos.select([3])
    with pytest.raises(ConfigError, match="no video of the list could be decoded"):
        extract_features(extractor, params, {}, bad, READING, make_mesh())
    with pytest.raises(ConfigError, match="no video of the list could be decoded"):
        extract_to_file(tmp_path / "f.npz", extractor, params, {}, bad, READING, make_mesh(), {})


def test_interrupted_anywhere_the_file_is_the_same(videos, params, extractor, tmp_path, monkeypatch):
    arguments = (extractor, params, {}, videos, READING, make_mesh(), {"what": "small"})
    whole, path = tmp_path / "whole.npz", tmp_path / "resumed.npz"
    extract_to_file(whole, *arguments, part_rows=4)
    starts, plain = [], feature_batches

    def stopping(*args, start=0, **kwargs):
        starts.append(start)
        for number, batch in enumerate(plain(*args, start=start, **kwargs)):
            if len(starts) < 3 and number == 1:  # one part was written
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(store, "feature_batches", stopping)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            extract_to_file(path, *arguments, part_rows=4)
        assert not path.exists()
        (tmp_path / "resumed.parts" / ".part-00002-host-0.npz").write_bytes(b"torn")
    extract_to_file(path, *arguments, part_rows=4)
    extract_to_file(path, *arguments, part_rows=4)  # done: nothing is read again
    assert starts == [0, 1, 2]
    assert not (tmp_path / "resumed.parts").exists()

    one, other = read_features(whole), read_features(path)
    for name in ("values", "labels", "times", "tokens"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.paths == other.paths == tuple(videos.paths[i] for i in (0, 1, 2, 4, 5, 6, 7, 8, 9, 10))
    assert one.left_out == (videos.paths[3],)
    assert one.classes == ("a", "b", "c")
    assert isinstance(one.tokens, np.memmap)
    assert one.tokens.shape == (10, 6 * 16, 16)


def test_what_was_made_otherwise_is_made_anew(videos, params, tmp_path):
    plain = make_extractor(ENCODER)
    path, some = tmp_path / "f.npz", videos.select([0, 1])
    extract_to_file(path, plain, params, {}, some, READING, make_mesh(), {"weights": "1"})
    first = read_features(path).values
    assert is_current(path, {"weights": "1"})
    assert not is_current(path, {"weights": "2"})
    assert not tokens_path(path).exists()
    other = jax.tree.map(lambda leaf: leaf * 2, params)
    extract_to_file(path, plain, other, {}, some, READING, make_mesh(), {"weights": "2"})
    assert not np.allclose(read_features(path).values, first)
    # Parts of another origin are not gone on with.
    parts = tmp_path / "g.parts"
    parts.mkdir()
    (parts / "layout.json").write_text(json.dumps({"about": "other"}))
    (parts / "part-00000-host-0.npz").write_bytes(b"stale")
    extract_to_file(tmp_path / "g.npz", plain, params, {}, some, READING, make_mesh(), {"weights": "1"})
    np.testing.assert_array_equal(read_features(tmp_path / "g.npz").values, first)


def test_parts_of_several_hosts_merge_in_the_order_of_the_list(videos, tmp_path, monkeypatch):
    """Two hosts' parts, as they would write them: host p has the elements p, p + 2, ... of each batch of four."""
    folder = tmp_path / "f.parts"
    folder.mkdir()
    for part in range(3):
        for host in range(2):
            index = np.array([v for v in range(4 * part + host, min(4 * part + 4, 11), 2) if v != 3])
            values = np.stack([np.full(5, v, np.float32) for v in index])
            rows = {"values": values, "video": index, "time": np.zeros((len(index), 1, 2), np.float32)}
            monkeypatch.setattr(jax, "process_index", lambda host=host: host)
            store._write_part(folder, part, [rows])
    store._merge(folder, tmp_path / "f.npz", videos, 3, {})
    merged = read_features(tmp_path / "f.npz")
    np.testing.assert_array_equal(merged.values[:, 0], [0, 1, 2, 4, 5, 6, 7, 8, 9, 10])
    np.testing.assert_array_equal(merged.labels, videos.labels[[0, 1, 2, 4, 5, 6, 7, 8, 9, 10]])


def test_a_file_that_holds_no_features_is_told(tmp_path):
    (tmp_path / "x.npz").write_text("text")
    for name in ("x.npz", "y.npz"):
        with pytest.raises(ConfigError, match="holds no features"):
            read_features(tmp_path / name)


def labelled(names, classes):
    labels = np.array([classes.index(name) for name in names], np.int32)
    return VideoList(tuple(f"{i}.mp4" for i in range(len(names))), labels, tuple(classes))


def test_lists_agree_on_their_classes():
    train, test = same_classes([labelled("abc", ["a", "b", "c"]), labelled("ac", ["a", "c"])])
    assert [test.classes[label] for label in test.labels] == ["a", "c"]
    assert train.classes == test.classes
    short, full = same_classes([labelled("0", ["0", "1"]), labelled(["jump"], ["0", "1", "run", "jump"])])
    assert full.labels == [3]
    assert short.classes == ("0", "1", "run", "jump")


def test_class_folders_that_lack_a_class_still_agree(small_set, tmp_path):
    source = open_source(str(small_set / "train"))
    (tmp_path / "train").mkdir()
    for name in source.classes[1:]:
        (tmp_path / "train" / name).symlink_to(small_set / "train" / name)
    part, whole = same_classes([open_source(str(tmp_path / "train")), source])
    names = {path.split("/")[-2]: part.classes[label] for path, label in zip(part.paths, part.labels, strict=True)}
    assert all(folder == name for folder, name in names.items())
    names = {path.split("/")[-2]: whole.classes[label] for path, label in zip(whole.paths, whole.labels, strict=True)}
    assert all(folder == name for folder, name in names.items())


def test_features_of_clips_are_stored_and_trained_on(videos, params, expected, tmp_path):
    """The store's rows are those of each clip, by the paths that training reads them by; its geometry is the clips' own."""
    path = tmp_path / "f.npz"
    with_clips = make_extractor(ENCODER, clips=True)
    extract_to_file(path, with_clips, params, {}, videos, READING, make_mesh(), {"clips": True}, part_rows=4)
    stored = open_clip_features(str(path))
    assert stored.clips.shape == (10, 6, 16)
    assert stored.clips.dtype == np.float16
    assert isinstance(stored.clips, np.memmap)
    geometry = {}
    for batch in eval_batches(videos, VIEW, windows=2, crops=3, batch_size=1):
        geometry[int(batch["video"][0])] = batch["geometry"][0]
    for video, (features, _) in expected.items():
        row = stored.rows[videos.paths[video]]
        np.testing.assert_allclose(stored.clips[row], features, rtol=2e-3, atol=1e-3)
        np.testing.assert_array_equal(stored.geometry[row], geometry[video])
    view = FeatureView(str(path), count=6, dim=16, draw="spread")
    for batch in train_batches(videos, {"clips": view}, seed=0, batch_size=11, num_steps=2):
        assert sorted(set(batch["failed"].tolist())) == [-1, 3]
        for row, video in enumerate(batch["video"].tolist()):
            np.testing.assert_array_equal(batch["clips"][row], stored.clips[stored.rows[videos.paths[video]]])
            np.testing.assert_array_equal(batch["clips.geometry"][row], geometry[video])
    # Without clips they go, so that none are there that belong to other features.
    extract_to_file(path, make_extractor(ENCODER), params, {}, videos, READING, make_mesh(), {"clips": False})
    assert not clips_path(path).exists()
    assert not geometry_path(path).exists()


def test_many_windows_are_read_in_pieces_and_give_the_same(videos, params):
    reading = Reading(VIEW, windows=34, batch_size=4)
    assert (reading.pieces, Reading(VIEW, windows=16).pieces, Reading(VIEW, windows=400).pieces) == (17, 1, 25)
    some = videos.select([0, 3, 5])  # the second cannot be decoded
    sizes = []

    def of_clips(*arguments):
        sizes.append(arguments[2]["clip"].shape[1])
        return whole.of_clips(*arguments)

    whole = make_extractor(ENCODER, clips=True)
    (batch,) = feature_batches(replace(whole, of_clips=of_clips), params, {}, some, reading, make_mesh())
    assert sizes == [2] * 17
    at_once = next(eval_batches(some, VIEW, windows=34, batch_size=4))
    expected = whole(params, {}, {name: jnp.asarray(at_once[name]) for name in ("clip", "geometry")})
    assert batch["video"].tolist() == [0, 2]
    assert batch["left_out"].tolist() == [1]
    for name in ("values", "clips"):
        np.testing.assert_allclose(batch[name], expected[name][np.array([0, 2])], rtol=2e-3, atol=1e-3)
    for name in ("geometry", "time"):
        np.testing.assert_array_equal(batch[name], at_once[name][[0, 2]])


class OfVideo(nn.Module):
    """An encoder of whole videos: its backbone's features weighted by where the clips lie."""

    unit = "video"
    layers = ()

    def setup(self):
        self.backbone = ENCODER.clone(parent=None)

    def clip_features(self, clips, train):
        return self.backbone(clips, train)

    def __call__(self, features, geometry, train):
        return jnp.concatenate([jnp.sum(features * geometry[..., 5:6], axis=1), jnp.max(geometry, axis=1)], axis=-1)


def test_an_encoder_of_whole_videos_is_called_once_with_all_clips_and_their_geometry(videos, params, expected):
    encoder = OfVideo()
    with_backbone = {"encoder": {"backbone": params["encoder"]}}
    features = extract_features(make_extractor(encoder), with_backbone, {}, videos, READING, make_mesh())
    geometry = {}
    for batch in eval_batches(videos, VIEW, windows=2, crops=3, batch_size=1):
        geometry[int(batch["video"][0])] = batch["geometry"][0]
    for video, values in zip(features.videos.tolist(), features.values, strict=True):
        weighted = (expected[video][0] * geometry[video][:, 5:6]).sum(axis=0)
        np.testing.assert_allclose(values, np.concatenate([weighted, geometry[video].max(axis=0)]), rtol=1e-4, atol=1e-5)
    batch = next(feature_batches(make_extractor(encoder, clips=True), with_backbone, {}, videos, READING, make_mesh()))
    np.testing.assert_allclose(batch["clips"][0], expected[0][0], rtol=2e-3, atol=1e-3)
    for wrong in ({"layer": "space1"}, {"tokens": True}):
        with pytest.raises(ConfigError, match="OfVideo has one feature per video"):
            make_extractor(encoder, **wrong)
