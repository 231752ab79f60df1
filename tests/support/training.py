"""A training small enough for tests: configurations of any method, real clips without the pipeline, compiled steps."""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from configs.quickstart import get_config
from wt_jax.augment import finish_views
from wt_jax.config import ModelConfig, adapt, has_key
from wt_jax.data.feature_store import CLIPS, choose_rows, clips_path, geometry_path, open_clip_features
from wt_jax.data.synthetic import MOTIONS, render
from wt_jax.data.synthetic_variants import SCENE
from wt_jax.experiment import build_method, resolve
from wt_jax.models import MODELS, build_encoder
from wt_jax.models.small import SmallR2Plus1D
from wt_jax.models.vit import ViT
from wt_jax.specs import AudioView, BoxView, Choice, ClipView, FeatureView, PixelSpec
from wt_jax.train.optim import learning_rate, make_optimizer
from wt_jax.train.program import load_pretrained
from wt_jax.train.sharding import AXES, put_batch
from wt_jax.train.step import compile_step, make_init, make_step, state_shardings
from wt_jax.weights.folder import save_encoder
from wt_jax.weights.table import save_table

BATCH, STEPS = 8, 20
# Two stages instead of three: what is tested is the method, and every stage is compiled once for each of them.
MODELS["tiny"] = functools.partial(SmallR2Plus1D, stages=2)
MODELS["tiny_vit"] = lambda norm, **options: ViT(functools.partial(norm, kind="layer"), heads=2, depth=2, **options)


def small_config(method="weak_teacher", **changes):
    config = get_config(method)
    config.clip.num_frames, config.clip.size = 4, 16
    transformer = config.model.name == "small_vit"
    config.model.name, config.model.width = ("tiny_vit", 6) if transformer else ("tiny", 8)
    if transformer:
        config.model.vit.tubelet = (config.model.vit.tubelet[0], 2, 2)
        config.model.vit.project = min(config.model.vit.project, 6)
    adapt(config.method, {"crops.local_clips": 1, "crops.local_size": 8, "head.prototypes": 12, "decoder.width": 12})
    adapt(config.method, {"predictor.width": 12, "predictor.blocks": 1, "decoder.blocks": 1, "freeze_last": 0.0})
    config.train.batch_size, config.train.log_every = BATCH, 1
    adapt(config.method, {"queue.size": 16, "head.dim": 16, "head.norm": "", "prototypes": 12})
    # Not what the quick start chose for its data, which may change.
    adapt(config.method, {"teacher.momentum": 0.97, "teacher.schedule": "constant"})
    if has_key(config.method, "label_weight"):
        adapt(config.method, {"temperature": 0.07, "weak_temperature": 0.07, "label_weight": 0.2})
    adapt(config.method, {"num_classes": 3})  # of the motions in `videos`
    adapt(
        config.method,
        {"dim": 16, "hidden": 32, "target_hidden": 32, "seconds": 0.2, "rate": 8000, "bands": 16, "sound_width": 8},
    )
    name_folders(config)
    for key, value in changes.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return resolve(config)


def name_folders(config):
    """Name the folders that a method reads: a trained encoder, stored features of its clips, tables as wide as the feature."""
    for key in ("teacher_weights", "store"):
        if has_key(config.method, key):
            config.method[key] = trained_folder()
    if has_key(config.method, "boxes"):
        config.method.boxes = "boxes.csv"  # which the batches of these tests do not read
    if has_key(config.method, "tables"):
        config.method.tables = table_folders(config.model.vit.project)


@functools.cache
def trained_folder():
    """Weights of an encoder that is wider than the student, and features of the clips of `videos`, while the tests run."""
    kept = tempfile.TemporaryDirectory(prefix="trained")
    _FOLDERS.append(kept)
    folder, rng = Path(kept.name), np.random.default_rng(7)
    model = ModelConfig("tiny", width=12, norm="batch")
    encoder, clips = build_encoder(model), jnp.zeros((1, 4, 16, 16, 3))
    save_encoder(folder, model, encoder.init(jax.random.key(7), clips, False))
    np.savez(folder / CLIPS, path=np.array([str(i) for i in range(12)]))
    features = rng.normal(size=(12, 1, encoder.feature_dim)) + rng.normal(size=(12, 20, encoder.feature_dim))
    np.save(clips_path(folder / CLIPS), features.astype(np.float16))
    np.save(geometry_path(folder / CLIPS), np.sort(rng.random((12, 20, 7)).astype(np.float32)))
    return kept.name


@functools.cache
def table_folders(width):
    """Two tables of five concepts, `width` numbers each."""
    folder = tempfile.TemporaryDirectory(prefix="tables")
    _FOLDERS.append(folder)
    paths = {name: str(Path(folder.name) / name) for name in ("category", "description")}
    for seed, path in enumerate(paths.values()):
        save_table(Path(path), list("abcde"), np.random.default_rng(seed).normal(size=(5, width)).astype(np.float32))
    return paths


_FOLDERS = []  # kept alive, removed at exit


def mesh_of(count, fsdp=1):
    devices = np.array(jax.devices()[:count]).reshape(count // fsdp, fsdp)
    return jax.sharding.Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 2)


@functools.cache
def videos():
    """Twelve embedded videos of 16 pixels, four of each of three motions."""
    return np.stack([render(MOTIONS[i % 3], np.random.default_rng(i), frames=24, size=16, scene=SCENE) for i in range(12)])


def batches(method, count, seed=0):
    """Real clips, without the pipeline: each view shows its window of the video."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        video = rng.permutation(12)[:BATCH].astype(np.int32)
        windows = list(dict.fromkeys(view.window for view in method.views.values()))
        starts = dict(zip(windows, rng.integers(20, size=max(3, len(windows))), strict=False))
        views = {}
        for name, view in method.views.items():
            for suffix, array in _SHOWN[type(view)](video, starts[view.window], view, rng).items():
                views[f"{name}.{suffix}" if suffix else name] = array
        yield {**views, "video": video, "label": video % 3, "failed": np.full(BATCH, -1, np.int32)}


def _clips(video, start, view, rng):
    shown = videos()[video, start : start + view.num_frames]
    scale = -(-view.size // shown.shape[2])
    clips = {"": shown.repeat(scale, axis=2).repeat(scale, axis=3)[:, :, : view.size, : view.size]}
    whole = np.tile(np.float32([0, 0, 0, 1, 1, 0, 1]), (len(video), 1))
    return clips | ({"geometry": whole} if view.record else {})


def _choice(video, start, view, rng):
    drawn = rng.integers(len(view.views), size=len(video)).astype(np.int32)
    frames = [start + np.arange(v.num_frames) * round(v.stride) for v in view.views]
    clips = [videos()[v, frames[choice] % 24] for v, choice in zip(video, drawn, strict=True)]
    return {"": np.stack(clips), "choice": drawn}


def _sound(video, start, view, rng):
    """A tone for each video, and silence for every fifth."""
    pitch, times = 200.0 * (1 + video[:, None]), np.arange(view.samples) / view.rate
    loud = (video % 5 > 0)[:, None]
    return {"": (loud * 9000 * np.sin(2 * np.pi * pitch * times)).astype(np.int16), "voiced": loud[:, 0].astype(np.float32)}


def _features(video, start, view, rng):
    stored = open_clip_features(view.store)
    rows = np.stack([choose_rows(view, stored.clips.shape[1], rng) for _ in video])
    return {"": stored.clips[video[:, None], rows], "geometry": stored.geometry[video[:, None], rows]}


def _boxes(video, start, view, rng):
    """Two boxes for each video, of its motion's class and of the next."""
    boxes, labels = np.zeros((len(video), view.most, 4), np.float32), np.zeros((len(video), view.most, view.classes), bool)
    boxes[:, :2] = [[0.1, 0.2, 0.6, 0.9], [0.4, 0.0, 1.0, 0.5]]
    for place in (0, 1):
        labels[np.arange(len(video)), place, (video + place) % 3] = True
    return {"": boxes, "labels": labels, "valid": np.tile(np.arange(view.most) < 2, (len(video), 1))}


# What shows each kind of view; see `wt_jax.data.pipeline.VIEW_READERS`.
_SHOWN = {ClipView: _clips, Choice: _choice, AudioView: _sound, FeatureView: _features, BoxView: _boxes}


def finished(method, batch):
    """A batch as `method.loss` reads it, without any change to its pixels but the scale."""
    plain = {name: jnp.asarray(array) for name, array in batch.items()}
    return finish_views(plain, {name: _plain(view) for name, view in method.views.items()}, jax.random.key(0))


def _plain(view):
    if isinstance(view, Choice):
        return Choice(tuple(_plain(each) for each in view.views))
    return replace(view, pixels=PixelSpec()) if isinstance(view, ClipView) else view


def parts(config):
    """Method, optimizer and learning rate, the function that makes the first state, and its arguments."""
    method = build_method(config, STEPS)
    schedule = learning_rate(config.optim, batch_size=BATCH, num_steps=STEPS, steps_per_epoch=4)
    optimizer = make_optimizer(config.optim, schedule, method.encoder.layers, method.needs.frozen)
    return method, optimizer, schedule, make_init(method, optimizer, 0), load_pretrained(method)


def first(config):
    """Method, first state and optimizer; no step is compiled."""
    method, optimizer, _, init, pretrained = parts(config)
    return method, init(pretrained), optimizer


def build(config, mesh, accumulate=1):
    """Method, first state and compiled step."""
    method, optimizer, schedule, init, pretrained = parts(config)
    shardings = state_shardings(jax.eval_shape(init, pretrained), mesh)
    step = make_step(method, optimizer, schedule, seed=0, accumulate=accumulate, mesh=mesh)
    # Not jitted: for a few small arrays that is quicker than compiling.
    state = jax.tree.map(jnp.copy, jax.device_put(init(pretrained), shardings))
    return method, state, compile_step(step, shardings, mesh)


def run(config, mesh, steps=STEPS, accumulate=1):
    """Losses and last state of a training, compiled once."""
    method, state, step = build(config, mesh, accumulate)
    losses = []
    with jax.transfer_guard_device_to_host("disallow"):
        for batch in batches(method, steps):
            state, metrics = step(state, put_batch(batch, mesh))
            losses.append(metrics["loss"])
    assert step._cache_size() == 1, "the step was compiled more than once"
    return [float(loss) for loss in losses], jax.device_get(state)


def filled(buffers):
    """A queue full of random embeddings of other videos; what is no queue stays as it is."""
    if "video" not in buffers:
        return buffers
    rng = np.random.default_rng(5)
    size = buffers["video"].shape[0]

    def fill(value):
        x = rng.normal(size=value.shape)
        return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)

    columns = {k: fill(v) for k, v in buffers.items() if v.dtype == jnp.float32}
    indices = {"video": jnp.arange(100, 100 + size), "label": jnp.arange(size) % 3, "step": jnp.zeros(size, jnp.int32)}
    return {**buffers, **columns, **indices}


def largest_gap(one, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
