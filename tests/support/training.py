"""A training small enough for tests: configurations of any method, real clips without the pipeline, compiled steps."""

import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from configs.quickstart import get_config
from wt_jax.config import ModelConfig, adapt, has_key
from wt_jax.data.synthetic import MOTIONS, render
from wt_jax.experiment import build_method, resolve
from wt_jax.models import MODELS, build_encoder
from wt_jax.models.small import SmallR2Plus1D
from wt_jax.train.optim import learning_rate, make_optimizer
from wt_jax.train.program import load_pretrained
from wt_jax.train.sharding import AXES, put_batch
from wt_jax.train.step import compile_step, make_init, make_step, state_shardings
from wt_jax.weights.folder import save_encoder

BATCH, STEPS = 8, 20
# Two stages instead of three: what is tested is the method, and every stage is compiled once for each of them.
MODELS["tiny"] = functools.partial(SmallR2Plus1D, stages=2)


def small_config(method="weak_teacher", **changes):
    config = get_config(method)
    config.clip.num_frames, config.clip.size = 4, 16
    config.model.name, config.model.width = "tiny", 8
    config.train.batch_size, config.train.log_every = BATCH, 1
    adapt(config.method, {"queue.size": 16, "head.dim": 16, "head.norm": "", "prototypes": 12})
    adapt(config.method, {"num_classes": 3})  # of the motions in `videos`
    if has_key(config.method, "teacher_weights"):
        config.method.teacher_weights = teacher_folder()
    for key, value in changes.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return resolve(config)


@functools.cache
def teacher_folder():
    """Exported weights of a teacher that is wider than the student, for the length of the tests."""
    folder = tempfile.TemporaryDirectory(prefix="teacher")
    _FOLDERS.append(folder)
    model = ModelConfig("tiny", width=12, norm="batch")
    clips = jnp.zeros((1, 4, 16, 16, 3))
    save_encoder(Path(folder.name), model, build_encoder(model).init(jax.random.key(7), clips, False))
    return folder.name


_FOLDERS = []  # kept alive, removed at exit


def mesh_of(count, fsdp=1):
    devices = np.array(jax.devices()[:count]).reshape(count // fsdp, fsdp)
    return jax.sharding.Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 2)


@functools.cache
def videos():
    """Twelve embedded videos of 16 pixels, four of each of three motions."""
    return np.stack([render(MOTIONS[i % 3], np.random.default_rng(i), frames=24, size=16) for i in range(12)])


def batches(method, count, seed=0):
    """Real clips, without the pipeline: each view shows its window of the video."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        video = rng.permutation(12)[:BATCH].astype(np.int32)
        starts = dict(zip("abc", rng.integers(20, size=3), strict=True))
        windows = dict(zip(dict.fromkeys(view.window for view in method.views.values()), "abc", strict=False))
        views = {name: _clips(video, starts[windows[view.window]], view) for name, view in method.views.items()}
        yield {**views, "video": video, "label": video % 3, "failed": np.full(BATCH, -1, np.int32)}


def _clips(video, start, view):
    return videos()[video, start : start + view.num_frames]


def finished(method, batch):
    """A batch as `method.loss` reads it, without any change to its pixels but the scale."""
    return {k: jnp.asarray(v, jnp.float32) / 255 if v.ndim == 5 else jnp.asarray(v) for k, v in batch.items()}


def parts(config):
    """Method, optimizer and learning rate, the function that makes the first state, and its arguments."""
    method = build_method(config, STEPS)
    schedule = learning_rate(config.optim, batch_size=BATCH, num_steps=STEPS, steps_per_epoch=4)
    optimizer = make_optimizer(config.optim, schedule)
    return method, optimizer, schedule, make_init(method, optimizer, 0), load_pretrained(method)


def first(config):
    """Method, first state and optimizer; no step is compiled."""
    method, optimizer, _, init, pretrained = parts(config)
    return method, init(pretrained), optimizer


def build(config, mesh, accumulate=1):
    """Method, first state and compiled step."""
    method, optimizer, schedule, init, pretrained = parts(config)
    shardings = state_shardings(jax.eval_shape(init, pretrained), mesh)
    step = make_step(method, optimizer, schedule, seed=0, accumulate=accumulate)
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
