"""Training a classifier on clips by the ordinary trainer, and its predictions of test videos.

A search sees nothing but the training videos: candidates learn from four fifths of them and are compared on the rest. The
settings are `wt_jax.eval.protocols.clips.ClipTraining`.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from wt_jax.cluster.processes import is_primary_process
from wt_jax.config import ClipConfig, Config, DataConfig, ModelConfig, ViewsConfig
from wt_jax.data.records import VideoList
from wt_jax.data.sources.open import open_source
from wt_jax.errors import ConfigError, TrainingError
from wt_jax.eval.config import EvalConfig, FeatureConfig
from wt_jax.eval.features.extract import Extractor, Reading, extract_features, mean_over_clips
from wt_jax.eval.protocols.base import Split
from wt_jax.eval.protocols.clips import Choice, ClipTraining, Predictions
from wt_jax.eval.run import prepare
from wt_jax.eval.split_trainer import SplitTrainer
from wt_jax.eval.validation_split import stratified_split
from wt_jax.files import atomic_path
from wt_jax.methods.base import evaluated_tree
from wt_jax.methods.supervised import Supervised
from wt_jax.progress import label
from wt_jax.train.loop import train
from wt_jax.train.workdir import open_workdir

log = logging.getLogger(__name__)

VALIDATION = 0.2  # of each class, for the search


class VideoClassifier(SplitTrainer):
    """Trains classifiers of videos; a `wt_jax.eval.protocols.clips.Classifier`."""

    def predict(
        self, training: ClipTraining, split: Split, train_labels: np.ndarray, classes: Sequence[str], seed: int
    ) -> Predictions:
        """Train on the training rows of a split and predict its test rows, whose labels are not read."""
        train_paths = tuple(self.videos.paths[row] for row in split.train)
        test_paths = tuple(self.videos.paths[row] for row in split.test)
        return train_and_predict(
            training_config(training, self.data, self.clip, self.model, seed),
            VideoList(test_paths, np.full(len(test_paths), -1, np.int32), tuple(classes)),
            self.workdir / split.name,
            windows=training.windows,
            crops=training.crops,
            search=training.search,
            videos=VideoList(train_paths, np.asarray(train_labels, np.int32), tuple(classes)),
        )


def training_config(training: ClipTraining, data: DataConfig, clip: ClipConfig, model: ModelConfig, seed: int = 0) -> Config:
    """The training on `data.train`; the encoder starts from `model.weights`, or at random if it is empty."""
    views = ViewsConfig(strong=training.strong, test=training.test)
    test = EvalConfig(features=FeatureConfig(windows=training.windows, batch_size=training.batch_size))
    return Config("supervised", training.method, seed, data, clip, views, model, training.optim, training.train, test)


def train_and_predict(
    config: Config,
    test: VideoList,
    workdir: Path,
    *,
    windows: int,
    crops: int,
    search: Sequence[tuple[float, float]] = (),
    videos: VideoList | None = None,
) -> Predictions:
    """Train a classifier, from the last checkpoint of the workdir if there is one, and predict the test videos.

    The test list is read only after the training, and its labels never. `predictions.npz` in the workdir keeps what was
    predicted, so that the same call again has nothing left to do.

    Args:
      config: of method "supervised"; `config.data.test` is ignored.
      test: the test videos, their classes numbered as in training.
      workdir: folder of the run; those of a search lie below it.
      windows: clips per test video, 1 or more.
      crops: squares per window, 1 or 3.
      search: (learning rate, weight decay) to choose from; with one there is no search, with none `config.optim` has them.
      videos: what to train on; by default all of `config.data.train`.

    Raises:
      ConfigError, SourceError, WeightsError, CheckpointError: this cannot be run.
      TrainingError: the training failed, or no candidate's loss stayed finite.
    """
    if config.method_name != "supervised":
        raise ConfigError(f"config.method_name must be 'supervised' to predict classes, got {config.method_name!r}")
    config = replace(config, data=replace(config.data, test=""), train=replace(config.train, eval_every="0 steps"))
    if videos is None:
        videos = open_source(config.data.train, config.data.root, config.data.max_bad_fraction)
    choice = Choice(config.optim.learning_rate, config.optim.weight_decay)
    if search:
        choice = choose(config, videos, search, workdir / "search", windows=windows, crops=crops)
    values, indices = _fit(_with_choice(config, choice), videos, test, workdir, windows, crops)
    return Predictions(values, indices, choice)


def choose(
    config: Config,
    videos: VideoList,
    search: Sequence[tuple[float, float]],
    workdir: Path,
    *,
    windows: int,
    crops: int,
) -> Choice:
    """The candidate with the best accuracy (then the highest log-likelihood) on a validation split.

    No test video is an argument, so that no choice can depend on one. Each candidate is a run below `workdir`, which
    continues from its last checkpoint; one whose loss is not finite is out, also of the same call again.

    Args:
      config: of method "supervised".
      videos: the training videos; a fifth of each class is the validation split, drawn by `config.seed`.
      search: (learning rate, weight decay) of the candidates.
      workdir: where the candidates are trained.
      windows, crops: clips per validation video.

    Raises:
      ConfigError: nothing can be held out.
      TrainingError: the loss of no candidate stayed finite, or a training failed in another way.
    """
    if len(search) == 1:
        return Choice(*search[0])
    marked = stratified_split(videos.labels, fraction=VALIDATION, seed=config.seed)
    if not marked.any():
        raise ConfigError(f"no class of {config.data.train} has two videos to hold one out; give one learning rate, no search")
    fit, validation = videos.select(np.flatnonzero(~marked)), videos.select(np.flatnonzero(marked))
    scores = {}
    for number, (rate, decay) in enumerate(search, 1):
        candidate, folder = Choice(rate, decay), workdir / f"rate_{rate:g}_decay_{decay:g}"
        if _diverged(folder):
            continue
        try:
            with label(f"candidate {number}/{len(search)}"):
                values, indices = _fit(_with_choice(config, candidate), fit, validation, folder, windows, crops)
        except TrainingError as error:
            if not _diverged(folder):
                raise
            log.warning("learning rate %g, weight decay %g is out: %s", rate, decay, error)
            continue
        scores[candidate] = _score(values, validation.labels[indices])
        log.info("learning rate %g, weight decay %g: validation accuracy %.3f", rate, decay, scores[candidate][0])
    if not scores:
        raise TrainingError(
            f"the loss of each of the {len(search)} candidates in {workdir} ceased to be finite; add smaller rates"
        )
    best = max(scores, key=scores.__getitem__)
    return replace(best, validation_accuracy=scores[best][0])


def _diverged(workdir: Path) -> bool:
    """Whether a training here ended with a loss that is not finite."""
    return any(workdir.glob("not_finite_step_*.json"))


def _with_choice(config: Config, choice: Choice) -> Config:
    optim = replace(config.optim, learning_rate=choice.learning_rate, weight_decay=choice.weight_decay)
    return replace(config, optim=optim)


def _fit(
    config: Config, videos: VideoList, test: VideoList, workdir: Path, windows: int, crops: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train on `videos`, predict `test`: probabilities (N, C) and rows (N,), from the file if it holds exactly these."""
    run = prepare(replace(config, eval=replace(config.eval, features=replace(config.eval.features, windows=windows))), videos)
    open_workdir(workdir, run.config)
    state = train(run, workdir)
    file, wanted = workdir / "predictions.npz", {"windows": windows, "crops": crops, "paths": np.array(test.paths)}
    if file.exists():
        with np.load(file) as stored:
            if all(np.array_equal(stored[name], value) for name, value in wanted.items()):
                return stored["probabilities"], stored["videos"]
    log.info("%s: %d test videos, %d clips of each", workdir, len(test), windows * crops)
    data = run.config.data
    found = extract_features(
        make_predictor(cast(Supervised, run.program.method)),
        *evaluated_tree(run.program.method.evaluated, state),
        test,
        Reading(run.config.test_view, windows, crops, run.config.eval.features.batch_size, data.workers, data.threads),
        run.program.mesh,
    )
    if is_primary_process():
        with atomic_path(file) as draft:
            np.savez(draft, probabilities=found.values, videos=found.videos, **wanted)
    return found.values, found.videos


def make_predictor(method: Supervised) -> Extractor:
    """The jitted function (params, model_state, batch of `eval_batches`) -> probabilities (B, C), the mean over clips."""

    def probabilities(params, model_state, clips):
        logits: Any = method.network.apply({"params": params, **model_state}, clips, False)
        return jax.nn.softmax(logits)

    return mean_over_clips(probabilities)


def _score(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """(accuracy, mean log-likelihood) of (N, C) probabilities."""
    right = probabilities[np.arange(len(labels)), labels]
    return float((probabilities.argmax(axis=1) == labels).mean()), float(np.log(np.maximum(right, 1e-30)).mean())
