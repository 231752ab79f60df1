"""Fine-tuning and the linear probe on clips: what is predicted, how it resumes, and that no choice sees a test label."""

import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from support.video_files import write_video

from configs.supervised import get_config
from wt_jax.config import ClipConfig, DataConfig, ModelConfig, to_dict
from wt_jax.data.pipeline import eval_batches
from wt_jax.data.records import VideoList
from wt_jax.data.sources.open import open_source
from wt_jax.data.synthetic import MOTIONS
from wt_jax.errors import ConfigError, TrainingError
from wt_jax.eval import clip_training
from wt_jax.eval.clip_training import choose, train_and_predict, training_config
from wt_jax.eval.protocols import finetune, linear_clips
from wt_jax.eval.protocols.clips import ClipTraining
from wt_jax.eval.run import prepare
from wt_jax.experiment import default_config, resolve
from wt_jax.train.checkpoint import Checkpoints
from wt_jax.train.optim import learning_rate, part_scales

SEARCH = ((0.5, 1e-4), (1e30, 1e-4), (0.05, 0.0))
RECIPES = {
    name: value
    for module in (finetune, linear_clips)
    for name, value in vars(module).items()
    if isinstance(value, ClipTraining)
}


def small_config(folder, **changes):
    config = get_config()
    config.clip.num_frames, config.clip.size = 4, 16
    config.data.train, config.data.workers = str(folder / "train"), 0
    config.model.name, config.model.width = "small_r2plus1d", 8
    config.train.batch_size, config.train.duration, config.train.checkpoint_every = 8, "3 steps", "1 steps"
    config.optim.name, config.optim.warmup = "sgd", "0 steps"
    config.eval.features.batch_size = 4
    for key, value in changes.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return resolve(config)


@pytest.fixture(scope="module")
def test_videos(tmp_path_factory):
    """Six wide videos, of which the third cannot be decoded."""
    folder = tmp_path_factory.mktemp("wide")
    paths = [write_video(folder / f"{i}.mp4", 12 + 4 * i, marked=i % 2 == 0) for i in range(6)]
    (folder / "2.mp4").write_text("no video")
    return VideoList(tuple(paths), np.array([0, 1, 2, 0, 1, 2], np.int32), tuple("abcdefgh"))


@pytest.fixture(scope="module")
def searched(small_set, test_videos, tmp_path_factory):
    """A search and a training with 2 windows x 3 crops per test video."""
    workdir = tmp_path_factory.mktemp("searched") / "run"
    found = train_and_predict(small_config(small_set), test_videos, workdir, windows=2, crops=3, search=SEARCH)
    return workdir, found


def test_each_test_video_is_predicted_once_by_the_mean_over_windows_and_crops(searched, small_set, test_videos):
    workdir, found = searched
    np.testing.assert_array_equal(found.videos, [0, 1, 3, 4, 5])
    assert found.probabilities.shape == (5, len(MOTIONS))
    assert found.probabilities.dtype == np.float32
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    run = prepare(small_config(small_set, optim__learning_rate=found.choice.learning_rate))
    checkpoints = Checkpoints(workdir)
    state = checkpoints.restore(run.program.shapes)
    checkpoints.close()
    variables = jax.device_get({"params": state.params, **state.model_state})
    network = run.program.method.network
    for row, video in zip(found.probabilities, found.videos, strict=True):
        clips = next(eval_batches(test_videos.select([video]), run.config.test_view, windows=2, crops=3, batch_size=1))["clip"]
        logits = np.asarray(network.apply(variables, clips[0].astype(np.float32) / 255, False), np.float64)
        assert logits.shape == (6, len(MOTIONS))
        each = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(row, each.mean(axis=0), atol=1e-5)
    assert np.abs(found.probabilities - found.probabilities[:1]).max() > 1e-4


def test_scrambled_test_labels_leave_choice_and_predictions_as_they_are(searched, small_set, test_videos, tmp_path):
    _, found = searched
    scrambled = replace(test_videos, labels=np.array([7, 6, 5, 4, 3, 2], np.int32))
    config = small_config(small_set, data__test=str(small_set / "test"))  # which must not matter either
    again = train_and_predict(config, scrambled, tmp_path / "run", windows=2, crops=3, search=SEARCH)
    assert again.choice == found.choice
    np.testing.assert_array_equal(again.probabilities, found.probabilities)
    assert 0 <= found.choice.validation_accuracy <= 1
    assert (found.choice.learning_rate, found.choice.weight_decay) in (SEARCH[0], SEARCH[2])  # 1e30 diverges


def test_a_run_that_was_cut_off_ends_bit_for_bit_the_same(searched, small_set, test_videos, tmp_path, monkeypatch):
    workdir, found = searched
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "3")
    (tmp_path / "run" / "predictions.npz").unlink()
    call = (small_config(small_set), test_videos, tmp_path / "run")
    again = train_and_predict(*call, windows=2, crops=3, search=SEARCH)
    np.testing.assert_array_equal(again.probabilities, found.probabilities)
    assert again.choice == found.choice
    monkeypatch.setattr(clip_training, "extract_features", None)  # nothing is left to predict
    once_more = train_and_predict(*call, windows=2, crops=3, search=SEARCH)
    np.testing.assert_array_equal(once_more.probabilities, found.probabilities)
    with pytest.raises(TypeError):  # other clips are other predictions
        train_and_predict(*call, windows=1, crops=1, search=SEARCH)


def test_a_probe_that_was_cut_off_ends_bit_for_bit_the_same(small_set, test_videos, tmp_path):
    probe = {"method__freeze": "encoder", "method__head_norm": "l2_batch"}
    config = small_config(small_set, optim__name="adamw", train__duration="2 steps", **probe)
    call = (config, test_videos, tmp_path / "run")
    found = train_and_predict(*call, windows=1, crops=1)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
    (tmp_path / "run" / "predictions.npz").unlink()
    np.testing.assert_array_equal(train_and_predict(*call, windows=1, crops=1).probabilities, found.probabilities)
    assert not (tmp_path / "run" / "search").exists()


def canned(outcomes):
    """A stand-in for a training: the probability of the right class of the first validation videos, by learning rate."""
    calls = []

    def fit(config, videos, test, workdir, windows, crops):
        calls.append((config, videos, test, workdir))
        right = outcomes[config.optim.learning_rate]
        if right == "diverges":
            workdir.mkdir(parents=True)
            (workdir / "not_finite_step_1.json").write_text("{}")
            raise TrainingError("the loss of step 1 is nan")
        if right == "breaks":
            raise TrainingError("too many videos cannot be decoded")
        values = np.full((len(test), 2), 0.5, np.float32)
        values[np.arange(len(test)), test.labels] = np.array(right)
        values[np.arange(len(test)), 1 - test.labels] = 1 - np.array(right)
        return values, np.arange(len(test))

    return fit, calls


def ten_videos():
    return VideoList(tuple(f"{i}.mp4" for i in range(10)), np.arange(10, dtype=np.int32) % 2, ("run", "walk"))


@pytest.mark.parametrize(
    ("outcomes", "best", "accuracy"),
    [
        ({1.0: (0.9, 0.4), 2.0: (0.6, 0.6)}, 2.0, 1.0),  # accuracy first
        ({1.0: (0.6, 0.6), 2.0: (0.9, 0.9)}, 2.0, 1.0),  # then likelihood
        ({1.0: (0.6, 0.1), 2.0: (0.6, 0.1)}, 1.0, 0.5),  # then the order
        ({1.0: "diverges", 2.0: (0.1, 0.1)}, 2.0, 0.0),
    ],
)
def test_the_best_candidate_on_validation_training_videos_is_chosen(monkeypatch, tmp_path, outcomes, best, accuracy):
    fit, calls = canned(outcomes)
    monkeypatch.setattr(clip_training, "_fit", fit)
    videos = ten_videos()
    config = resolve(default_config("supervised"))
    choice = choose(config, videos, [(rate, 0.1) for rate in outcomes], tmp_path, windows=1, crops=1)
    assert (choice.learning_rate, choice.weight_decay, choice.validation_accuracy) == (best, 0.1, accuracy)
    for candidate, learnt, validation, _ in calls:
        assert candidate.optim.weight_decay == 0.1
        assert sorted(learnt.paths + validation.paths) == sorted(videos.paths)
        assert sorted(validation.labels) == [0, 1]
        assert validation.classes == learnt.classes == videos.classes
    assert len({folder for *_, folder in calls}) == len(outcomes)


def test_a_search_that_cannot_end(monkeypatch, tmp_path):
    config = resolve(default_config("supervised"))
    fit, calls = canned({1.0: "diverges", 2.0: "diverges", 3.0: "breaks"})
    monkeypatch.setattr(clip_training, "_fit", fit)
    options = {"windows": 1, "crops": 1}
    for _ in range(2):  # the second time both are known to be out
        with pytest.raises(TrainingError, match=r"the loss of each of the 2 candidates in .* ceased to be finite"):
            choose(config, ten_videos(), [(1.0, 0.0), (2.0, 0.0)], tmp_path, **options)
        assert len(calls) == 2
    with pytest.raises(TrainingError, match="too many videos"):
        choose(config, ten_videos(), [(3.0, 0.0), (1.0, 0.0)], tmp_path, **options)
    with pytest.raises(ConfigError, match="two videos to hold one out"):
        choose(config, ten_videos().select([0, 1]), [(1.0, 0.0), (2.0, 0.0)], tmp_path, **options)
    calls.clear()
    alone = choose(config, ten_videos(), [(3.0, 0.5)], tmp_path, **options)
    assert (alone.learning_rate, alone.weight_decay, alone.validation_accuracy) == (3.0, 0.5, None)
    assert not calls


def test_only_a_classifier_predicts_classes(test_videos, tmp_path):
    with pytest.raises(ConfigError, match="must be 'supervised' to predict classes, got 'moco'"):
        train_and_predict(resolve(default_config("moco")), test_videos, tmp_path, windows=1, crops=1)


def test_an_unlabelled_training_list_is_told(small_set, test_videos, tmp_path):
    videos = sorted((small_set / "train").rglob("*.mp4"))
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in videos))
    config = small_config(small_set, data__train=str(tmp_path / "list.txt"))
    with pytest.raises(ConfigError, match=r"list\.txt has no labels"):
        train_and_predict(config, test_videos, tmp_path / "run", windows=1, crops=1)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_make_whole_configurations(name):
    recipe = RECIPES[name]
    model = ModelConfig(weights="folder")
    config = training_config(recipe, DataConfig(train="list.txt"), ClipConfig(size=224), model, seed=3)
    assert resolve(to_dict(config)) == config
    assert (config.seed, config.model, config.clip.size, config.method) == (3, model, 224, recipe.method)
    assert config.eval.features.windows == recipe.windows
    assert (config.method.freeze == "encoder") == ("LINEAR" in name)


@pytest.mark.parametrize(
    ("name", "batch", "rates"),
    [
        ("COCLR_FINETUNE", 64, {"encoder": 1e-4, "head": 1e-3}),
        ("COCLR_LINEAR", 64, {"encoder": 0.1, "head": 0.1}),
        ("RHO_FINETUNE_UCF101", 64, {"encoder": 0.01, "head": 0.01}),
        ("RHO_FINETUNE_SSV2", 64, {"encoder": 0.12, "head": 0.12}),
        ("RHO_LINEAR_K400", 512, {"encoder": 4.0, "head": 4.0}),
    ],
)
def test_recipes_have_their_sources_rates_at_their_sources_batch(name, batch, rates):
    recipe = RECIPES[name]
    assert recipe.train.batch_size == batch
    constant = replace(recipe.optim, warmup="0 steps", schedule="constant")
    peak = learning_rate(constant, batch_size=batch, num_steps=10, steps_per_epoch=1)(0)
    factors = part_scales({"encoder": 0, "head": 0}, dict(recipe.optim.part_rates))
    assert {part: float(peak * factor) for part, factor in factors.items()} == pytest.approx(rates)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": 0}, "windows must be 1 or more"),
        ({"crops": 2}, "crops must be one of"),
        ({"test": replace(ClipTraining().test, crop="random")}, "test.crop must be"),
        ({"test": replace(ClipTraining().test, crop="resize")}, "crop must be 'center' for 3 test crops"),
    ],
)
def test_a_protocol_is_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        ClipTraining(**changes)


@pytest.mark.slow
def test_fine_tuning_learns_the_embedded_motions(small_set, tmp_path):
    config = small_config(
        small_set, train__duration="150 steps", train__batch_size=16, optim__name="adamw", optim__learning_rate=0.05,
        method__dropout=0.0, views__strong__flip_probability=0.0, model__width=16, clip__size=32, clip__num_frames=8,
    )  # fmt: skip
    seen = open_source(str(small_set / "train"))
    found = train_and_predict(config, seen, tmp_path / "run", windows=2, crops=1)
    assert (found.probabilities.argmax(axis=1) == seen.labels[found.videos]).mean() > 0.5  # by heart; chance is 1 in 8
