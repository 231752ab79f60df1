"""Video and speech: losses beside loops, their limits, the gate, and retrieval of a trained run by the evaluation command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.sounds import write_sounding
from support.training import batches, finished, first, mesh_of, run, small_config

from wt_jax.config import to_dict
from wt_jax.data.pipeline import eval_batches
from wt_jax.data.records import VideoList
from wt_jax.data.video.audio import voiced_fraction
from wt_jax.errors import ConfigError
from wt_jax.eval.config import default_evaluation, resolve_evaluation
from wt_jax.eval.evaluate import evaluate
from wt_jax.eval.run import prepare
from wt_jax.losses import paced_margin_loss, video_speech_loss
from wt_jax.specs import AudioView, ClipView
from wt_jax.train.loop import train
from wt_jax.train.workdir import open_workdir

B, D = 6, 10


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def three():
    """Clips, speech and other clips, alike enough for every term to count."""
    rng = np.random.default_rng(0)
    video = unit(rng, B, D)
    return video, *(unit(rng, B, D) * 0.5 + video * 0.5 for _ in range(2))


def loops(video, speech, other, mask, ceiling, hard_weight, hard, margin, pull):
    """Term by term, pair by pair, in both directions."""
    losses = []
    for i in range(len(video)):
        total = pull * (1 - video[i] @ speech[i])
        for anchors, positives in ((video, speech), (speech, video)):
            found = []
            for j in range(len(video)):
                if mask[i, j] and anchors[i] @ positives[j] <= ceiling:
                    found.append(max(0.0, margin + anchors[i] @ positives[j] - anchors[i] @ positives[i]))
            total += (sum(found) / len(found) if found else 0.0) / 2
        elsewhere = other[i] @ speech[i]
        hard_term = 1 - elsewhere if hard == "positive" else max(0.0, margin + elsewhere - video[i] @ speech[i])
        losses.append(total + hard_weight * hard_term)
    return np.array(losses)


@pytest.mark.parametrize("hard", ["negative", "positive"])
@pytest.mark.parametrize("ceiling", [-2.0, 0.1, 1.0])
def test_losses_equal_loops(three, hard, ceiling):
    mask = ~np.eye(B, dtype=bool) & (np.arange(B) != 2)[:, None] & (np.arange(B) != 2)[None, :]
    settings = {"ceiling": ceiling, "hard_weight": 0.7, "hard": hard, "margin": 0.5, "pull": 0.3}
    found = video_speech_loss(*three, mask=mask, **settings)
    np.testing.assert_allclose(found, loops(*(x.astype(np.float64) for x in three), mask=mask, **settings), rtol=1e-5)


def test_limits(three):
    video, speech, other = three
    mask = ~np.eye(B, dtype=bool)
    positives = 1 - (video * speech).sum(axis=1)
    # Below every affinity, and with nobody else, the pairs alone are left.
    easy = video_speech_loss(*three, mask=mask, ceiling=-1.1, hard_weight=0.0)
    np.testing.assert_allclose(easy, positives, atol=1e-6)
    alone = video_speech_loss(video[:1], speech[:1], other[:1], mask=np.zeros((1, 1), bool), hard_weight=0.0)
    np.testing.assert_allclose(alone, positives[:1], atol=1e-6)
    assert not np.any(paced_margin_loss(video, video, mask=mask, margin=0.0))
    same = video_speech_loss(video, video, video, mask=mask, margin=0.0)
    np.testing.assert_allclose(same, np.zeros(B), atol=1e-6)
    exchanged = [video_speech_loss(*pair, other, mask=mask, hard_weight=0.0) for pair in ((video, speech), (speech, video))]
    np.testing.assert_allclose(*exchanged, atol=1e-6)
    # A ceiling of 1 admits a copy, whose cosine may round to more.
    copies = np.repeat(video[:1], B, axis=0)
    np.testing.assert_allclose(paced_margin_loss(copies, copies, mask=mask, ceiling=1.0), np.full(B, 0.5), atol=1e-5)


def test_gated_pairs_have_no_gradient_and_pacing_follows_the_steps():
    method, state, _ = first(small_config("video_speech", method__hard_weight=1.0))
    batch = finished(method, next(batches(method, 1)))
    gated = np.asarray(batch["speech.voiced"]) < 0.3
    assert 0 < gated.sum() < len(gated)

    @jax.jit
    def slopes(clip, speech, step):
        def loss(clip, speech):
            return method.loss(
                state.params, state.method_state, {**batch, "clip": clip, "speech": speech}, jax.random.key(0), step
            )

        (_, (_, metrics)), found = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(clip, speech)
        return found, metrics

    ceilings = []
    for step in (0, 5, 10, 19):
        found, metrics = slopes(batch["clip"], batch["speech"], jnp.int32(step))
        ceilings.append(float(metrics["affinity_ceiling"]))
        for slope in found:
            flat = np.abs(np.asarray(slope)).reshape(len(gated), -1).sum(axis=1)
            assert not flat[gated].any()
            assert (flat[~gated] > 0).all()
    assert ceilings == [0.0, 0.5, 1.0, 1.0]
    assert float(metrics["gated"]) == pytest.approx(gated.mean())


def strangers(method, params, model_state):
    """Mean similarity of clips to the sound of other videos, by the statistics of their batch."""
    batch = finished(method, next(batches(method, 1)))
    variables = {"params": params, **model_state}
    seen, speech = method.network.apply(variables, batch["clip"], batch["speech"], True, mutable=["batch_stats"])[0]
    return float(jnp.mean((seen @ speech.T)[~np.eye(len(seen), dtype=bool)]))


def test_embeddings_stay_apart_while_few_negatives_are_admitted():
    config = small_config("video_speech", method__head__norm="batch", method__pace=1.0, optim__learning_rate=0.256)
    method, state, _ = first(config)
    assert abs(strangers(method, state.params, state.method_state.model_state)) < 0.1
    _, state = run(config, mesh_of(1))
    assert strangers(method, state.params, state.method_state.model_state) < 0.1


def test_the_order_of_four_frames_is_one_more_term():
    found = []
    for weight in (0.0, 0.5):
        method, state, _ = first(small_config("video_speech", method__order_weight=weight))
        batch = finished(method, next(batches(method, 1)))
        found.append(method.loss(state.params, state.method_state, batch, jax.random.key(0), 0)[1][1])
    without, metrics = found
    assert "loss_order" not in without
    assert float(metrics["loss_order"]) == pytest.approx(np.log(12), abs=0.05)  # small first weights: all orders alike
    np.testing.assert_allclose(metrics["loss"], without["loss"] + 0.5 * metrics["loss_order"], rtol=1e-5)
    with pytest.raises(ConfigError, match="num_frames must be 4 or more"):
        small_config("video_speech", method__order_weight=1.0, clip__num_frames=3)


def test_voice_is_what_is_loud():
    tone = (3000 * np.sin(np.arange(8000) / 5)).astype(np.int16)
    samples = np.concatenate([tone, tone // 1000, tone])
    assert voiced_fraction(samples, 8000, -40.0) == pytest.approx(2 / 3)
    assert voiced_fraction(tone * 0, 8000, -40.0) == 0
    assert voiced_fraction(tone[:30], 8000, -40.0) == 1


def test_sound_of_evaluation_is_that_of_its_windows(tmp_path):
    path = write_sounding(tmp_path / "a.mov", 1.5, codec="pcm_s16le")
    videos = VideoList((path,), np.array([0], np.int32))
    view, sound = ClipView(num_frames=2, size=16, crop="center"), AudioView(seconds=0.5, rate=16000)
    arguments = {"windows": 4, "batch_size": 1, "sound": sound}
    (batch,) = eval_batches(videos, view, **arguments)
    assert batch["sound"].shape == (1, 4, 8000)
    starts = batch["time"][0, :, 0]
    for start, samples in zip(starts, batch["sound"][0], strict=True):
        loud = np.abs(samples.astype(int)) > 100
        if start + 0.5 <= 1.5 or start >= 2.5:
            assert loud.any() == (start >= 1.5)
        elif start < 1.5:
            assert abs(start + loud.argmax() / 16000 - 1.5) < 1e-3
    halves = list(eval_batches(videos, view, pieces=2, **arguments))
    np.testing.assert_array_equal(np.concatenate([half["sound"] for half in halves], axis=1), batch["sound"])


def test_a_run_is_evaluated_by_retrieval(tmp_path):
    rows = [
        f"{write_sounding(tmp_path / f'{i}.mov', 0.0, codec='pcm_s16le', pitch=300.0 * (i + 1))},c{i % 2}" for i in range(6)
    ]
    for name, some in (("train", rows[:2]), ("test", rows[2:]), ("videos", rows)):
        (tmp_path / f"{name}.csv").write_text("path,label\n" + "\n".join(some) + "\n")
    config = small_config(
        "video_speech",
        method__center=False,  # embeddings of two windows are then near each other, so that their mean has nearly length 1
        data__train=str(tmp_path / "videos.csv"),
        train__batch_size=4,
        train__duration="2 steps",
        train__checkpoint_every="2 steps",
        train__eval_every="0 steps",
    )
    open_workdir(tmp_path / "run", config)
    train(prepare(config), tmp_path / "run")
    evaluation = default_evaluation()
    evaluation.lists, evaluation.splits = str(tmp_path), (("train.csv", "test.csv"),)
    evaluation.protocols, evaluation.clip = ("speech_retrieval",), to_dict(config.clip)
    evaluation.features.windows, evaluation.features.batch_size = 2, 4
    paths = {"trained": str(tmp_path / "run")}
    results = evaluate(resolve_evaluation(evaluation), paths, tmp_path / "out")
    assert not results.failures
    numbers = results.encoders["trained"]["speech_retrieval"].numbers
    assert {"to_speech@1", "to_video@10"} <= set(numbers)
    assert numbers["to_speech@10"].value == 1  # of four
    with np.load(tmp_path / "out" / "sounds_trained.npz") as stored:
        assert stored["sounds"].shape == stored["values"].shape == (6, 16)
        np.testing.assert_allclose(np.linalg.norm(stored["sounds"], axis=1), 1, atol=0.1)
    evaluation.model.name = "tiny"
    with pytest.raises(ConfigError, match="random, speech_retrieval: it needs embeddings of sound"):
        evaluate(resolve_evaluation(evaluation), {"random": "random"}, tmp_path / "other")
