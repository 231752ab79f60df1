"""Methods of kinds that the package does not have yet, each of at most 40 lines, run by the real trainer.

Masked tokens, sound, stored features, tables of text features, prediction of a transform, boxes: each trains, is saved, goes
on where it stopped and is evaluated. They are templates: a method of such a kind begins as a copy of its toy.
"""

import json
import shutil
from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from einops import reduce, repeat
from support.sounds import write_sounding
from support.training import largest_gap

from wt_jax.augment.masks import token_masks
from wt_jax.eval.run import prepare
from wt_jax.experiment import default_config, resolve
from wt_jax.losses import info_nce, similarities
from wt_jax.methods import METHODS, Entry
from wt_jax.methods.base import Built, MethodState, Needs, Pretrained, encoder_variables
from wt_jax.methods.byol import BYOL, BYOLSettings
from wt_jax.methods.forward import apply, first_variables
from wt_jax.models.classifier import Classifier, LinearHead
from wt_jax.models.embedder import l2_normalize
from wt_jax.specs import AudioView, BoxView, Choice, FeatureView
from wt_jax.train.checkpoint import read_evaluated
from wt_jax.train.loop import train
from wt_jax.weights.table import save_table

VIDEOS, CLASSES, DIM = 8, 3, 6


@dataclass(frozen=True)
class PathSettings:
    """A folder or file that the toys read; empty: none."""

    path: str = ""


@dataclass(frozen=True)
class Toy(Built):
    """An encoder with a linear layer of `outputs` numbers."""

    outputs = CLASSES

    @property
    def network(self):
        return Classifier(self.encoder, LinearHead(self.outputs))

    @property
    def views(self):
        return {"clip": self.setup.weak}

    def init(self, rng, batch, pretrained):
        return MethodState(*first_variables(self.network, rng, (batch["clip"],), pretrained), {}, {})

    def predict(self, params, state, clips):
        """Outputs (B, `outputs`), and the state after the pass."""
        outputs, model_state = apply(self.network, {"params": params, **state.model_state}, clips)
        return outputs, state._replace(model_state=model_state)


class MaskedTokens(Toy):
    """Predicts the mean color of hidden cells of a clip from the others."""

    outputs = 32 * 3

    def loss(self, params, state, batch, rng, step):
        clips, grid = batch["clip"], {"t": 2, "h": 4, "w": 4}
        cell = {"i": clips.shape[1] // 2, "j": clips.shape[2] // 4, "k": clips.shape[3] // 4}
        masked = jnp.sum(jax.nn.one_hot(token_masks(rng, batch["video"], 32, 16).masked, 32), axis=1)
        pixels = repeat(masked, "b (t h w) -> b (t i) (h j) (w k) 1", **grid, **cell)
        predicted, state = self.predict(params, state, clips * (1.0 - pixels))
        colors = reduce(clips, "b (t i) (h j) (w k) c -> b (t h w) c", "mean", **grid)
        error = jnp.mean(jnp.square(predicted.reshape(colors.shape) - colors), axis=-1)
        loss = jnp.sum(masked * error) / jnp.sum(masked)
        return loss, (state, {"loss": loss})


class Towers(nn.Module):
    """An embedding of clips and one of sound."""

    encoder: nn.Module
    dim: int

    @nn.compact
    def __call__(self, clips, sound, train):
        heard = nn.relu(nn.Dense(16, name="sound")(jnp.mean(sound, axis=1)))
        seen = nn.Dense(self.dim, name="head")(self.encoder(clips, train))
        return l2_normalize(seen), l2_normalize(nn.Dense(self.dim, name="sound_head")(heard))


class Sound(Built):
    """A clip and the sound of its window attract, those of other videos repel."""

    needs = Needs(min_batch=2, reason="negatives come from the batch")

    @property
    def network(self):
        return Towers(self.encoder, DIM)

    @property
    def views(self):
        return {"clip": self.setup.weak, "sound": AudioView(self.setup.weak.window, seconds=1, rate=8000, bands=16)}

    def init(self, rng, batch, pretrained):
        return MethodState(*first_variables(self.network, rng, (batch["clip"], batch["sound"]), pretrained), {}, {})

    def loss(self, params, state, batch, rng, step):
        variables = {"params": params, **state.model_state}
        (seen, heard), model_state = apply(self.network, variables, batch["clip"], batch["sound"])
        loss = jnp.mean(info_nce(seen, heard, heard, mask=batch["video"][:, None] != batch["video"][None, :]))
        return loss, (state._replace(model_state=model_state), {"loss": loss})


class StoredFeatures(Toy):
    """Predicts the mean of two stored features of the video."""

    outputs = DIM

    @property
    def views(self):
        return {"clip": self.setup.weak, "stored": FeatureView(self.settings.path, count=2, dim=DIM)}

    def loss(self, params, state, batch, rng, step):
        predicted, state = self.predict(params, state, batch["clip"])
        loss = jnp.mean(jnp.square(predicted - jnp.mean(batch["stored"], axis=1)))
        return loss, (state, {"loss": loss})


class TextTable(Toy):
    """Learns the text feature of the video's class, out of a table that stays as it is."""

    outputs = DIM
    needs = Needs(labels=True, teacher_passes=1)

    @property
    def pretrained(self):
        return {**super().pretrained, "names": Pretrained(self.settings.path, "table")}

    def init(self, rng, batch, pretrained):
        table = jnp.asarray(pretrained["names"]["features"])
        return super().init(rng, batch, pretrained)._replace(teacher={"names": l2_normalize(table)})

    def loss(self, params, state, batch, rng, step):
        table = jax.lax.stop_gradient(state.teacher["names"])
        predicted, state = self.predict(params, state, batch["clip"])
        logits = similarities(l2_normalize(predicted), table) / 0.1
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))
        return loss, (state, {"loss": loss})


class Transform(Toy):
    """Predicts how a clip was sampled: its stride, and whether it runs backwards."""

    outputs = 4

    @property
    def views(self):
        kinds = [replace(self.setup.weak, stride=stride, reverse=back) for stride in (1, 2) for back in (False, True)]
        return {"clip": Choice(tuple(kinds))}

    def loss(self, params, state, batch, rng, step):
        logits, state = self.predict(params, state, batch["clip"])
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["clip.choice"]))
        return loss, (state, {"loss": loss})


class Boxes(Toy):
    """Predicts which classes the boxes within a clip have."""

    @property
    def views(self):
        clip = replace(self.setup.weak, record=True)
        return {"clip": clip, "boxes": BoxView(self.settings.path, most=2, classes=CLASSES, window=clip.window)}

    def loss(self, params, state, batch, rng, step):
        logits, state = self.predict(params, state, batch["clip"])
        there = jnp.any(batch["boxes.labels"] & batch["boxes.valid"][..., None], axis=1)
        loss = jnp.mean(optax.sigmoid_binary_cross_entropy(logits, there.astype(jnp.float32)))
        return loss, (state, {"loss": loss})


TOYS = (MaskedTokens, Sound, StoredFeatures, TextTable, Transform, Boxes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A list of videos with sound, labels and times; stored features, a table of names and boxes for them."""
    folder, rng = tmp_path_factory.mktemp("extensions"), np.random.default_rng(0)
    names = [f"{i}.mov" for i in range(VIDEOS)]
    paths = [write_sounding(folder / name, 0.5, codec="pcm_s16le", pitch=400.0 * (i + 1)) for i, name in enumerate(names)]
    rows = "".join(f"{name},class{i % CLASSES},1.5\n" for i, name in enumerate(names))
    (folder / "timed.csv").write_text("path,label,time\n" + rows)
    (folder / "videos.csv").write_text("path,label\n" + "".join(row.rpartition(",")[0] + "\n" for row in rows.splitlines()))
    np.savez(folder / "stored.npz", path=np.array(paths))
    np.save(folder / "stored_clips.npy", rng.normal(size=(VIDEOS, 3, DIM)).astype(np.float16))
    np.save(folder / "stored_geometry.npy", np.zeros((VIDEOS, 3, 7), np.float32))
    save_table(folder / "names", [f"class{i}" for i in range(CLASSES)], rng.normal(size=(CLASSES, DIM)))
    (folder / "boxes.csv").write_text("".join(f"{i},1.5,0.1,0.1,0.9,0.9,{1 + i % CLASSES}\n" for i in range(VIDEOS)))
    return folder


PATHS = {StoredFeatures: "stored.npz", TextTable: "names", Boxes: "boxes.csv"}


def run_of(monkeypatch, folder, method, settings=PathSettings, **changes):
    monkeypatch.setitem(METHODS, "toy", Entry(method, settings))
    config = default_config("toy")
    videos = str(folder / ("timed.csv" if method is Boxes else "videos.csv"))
    config.data.train = config.data.test = videos
    config.clip.num_frames, config.clip.size, config.clip.stride = 4, 16, 2.0
    config.model.name, config.model.width, config.model.norm = "tiny", 8, "group"
    config.train.batch_size, config.train.duration, config.train.log_every = 4, "4 steps", 1
    config.train.eval_every, config.train.checkpoint_every = "4 steps", "2 steps"
    config.optim.schedule, config.optim.learning_rate = "constant", 0.1
    config.eval.features.windows, config.eval.features.batch_size, config.eval.settings.knn.k = 1, 4, 2
    if method in PATHS:
        config.method.path = str(folder / PATHS[method])
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return prepare(resolve(config))


@pytest.mark.parametrize("method", TOYS)
def test_a_toy_trains_resumes_and_is_evaluated(monkeypatch, folder, tmp_path, method):
    run = run_of(monkeypatch, folder, method)
    whole = jax.device_get(train(run, tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "knn_top1" in line] == [4]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    if method is TextTable:
        table = np.load(folder / "names" / "features.npy")
        expected = table / np.linalg.norm(table, axis=1, keepdims=True)
        np.testing.assert_allclose(whole.teacher["names"], expected, atol=1e-6)
    # Killed before its last step was saved, the training goes on from the second step.
    for kept in ("checkpoints", "best"):
        shutil.rmtree(tmp_path / kept / "4")
    jax.tree.map(np.testing.assert_array_equal, whole, jax.device_get(train(run, tmp_path)))


def test_a_toy_is_short():
    import inspect

    assert max(len(inspect.getsource(method).splitlines()) for method in (*TOYS, Towers)) <= 40


class EvaluatedTeacher(BYOL):
    """BYOL whose teacher is evaluated."""

    evaluated = "teacher"


def test_an_evaluated_teacher_without_momentum_is_the_student(monkeypatch, folder, tmp_path):
    changes = {"method__teacher__momentum": 0.0, "method__teacher__schedule": "constant", "method__head__dim": 8}
    run = run_of(monkeypatch, folder, EvaluatedTeacher, BYOLSettings, **changes)
    state = train(run, tmp_path)
    _, params, model_state = read_evaluated(tmp_path, "teacher", best=True)
    assert "predictor" not in params
    student = encoder_variables(state.params, state.model_state)
    assert largest_gap(encoder_variables(params, model_state), student) < 1e-6
