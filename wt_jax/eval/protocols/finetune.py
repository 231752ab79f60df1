"""Fine-tuning and the linear probe on clips: a classifier is trained by the ordinary trainer and asked about test videos.

The published test is 10 clips x 3 crops of each video (Wang et al. 2018, arXiv 1711.07971), whose probabilities are averaged.
Learning rate and weight decay may be chosen by a search, which sees nothing but the training list: candidates learn from
four fifths of it and are compared on the rest. `wt_jax.eval.protocols.recipes` has the published settings.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from wt_jax.config import (
    ClipConfig,
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    ViewConfig,
    ViewsConfig,
)
from wt_jax.data.records import VideoList
from wt_jax.data.sources.open import open_source
from wt_jax.data.views import check_crops
from wt_jax.errors import ConfigError, TrainingError
from wt_jax.eval.features.extract import Extractor, Reading, extract_features, mean_over_clips
from wt_jax.eval.validation_split import stratified_part
from wt_jax.experiment import prepare
from wt_jax.methods.base import evaluated_tree
from wt_jax.methods.supervised import Supervised, SupervisedSettings
from wt_jax.train.loop import train
from wt_jax.train.workdir import open_workdir

log = logging.getLogger(__name__)

HELD_OUT = 0.2  # of each class, for the search


@dataclass(frozen=True)
class ClipTraining:
    """How a classifier is trained on clips and tested: all of a protocol but the data, the clip and the encoder.

    Attributes:
      method: dropout, label smoothing, mixup, and what is frozen.
      optim, train: of the training; `optim.layer_decay` are the layer-wise rates.
      strong, test: the views of training and test.
      windows, crops: clips per test video.
      batch_size: test videos per forward pass over all devices, each of windows * crops clips.
      search: (learning rate, weight decay) of the candidates, in place of those of `optim`; empty or one: no search.
    """

    method: SupervisedSettings = SupervisedSettings(dropout=0.5)
    optim: OptimConfig = OptimConfig(learning_rate=0.04, warmup="5 %")
    train: TrainConfig = TrainConfig(batch_size=64)
    strong: ViewConfig = ViewConfig(flip_probability=0.5)
    test: ViewConfig = ViewConfig(crop="center")
    windows: int = 10
    crops: int = 3
    batch_size: int = 8
    search: tuple[tuple[float, float], ...] = ()

    def __post_init__(self):
        if self.windows < 1:
            raise ValueError(f"windows must be 1 or more, got {self.windows}")
        if self.test.crop == "random":
            raise ValueError("test.crop must be 'center' or 'resize': a test draws nothing")
        check_crops(self.test, self.crops)

    def config(self, data: DataConfig, clip: ClipConfig, model: ModelConfig, seed: int = 0) -> Config:
        """The training of this kind on `data.train`; the encoder starts from `model.weights`, or at random if it is empty."""
        views = ViewsConfig(strong=self.strong, test=self.test)
        judge = EvalConfig(windows=self.windows, batch_size=self.batch_size)
        return Config("supervised", self.method, seed, data, clip, views, model, self.optim, self.train, judge)


@dataclass(frozen=True)
class Choice:
    """What a search chose.

    Attributes:
      learning_rate, weight_decay: of the training on the whole list.
      held_out_accuracy: of the candidate, in [0, 1]; None where there was nothing to choose.
    """

    learning_rate: float
    weight_decay: float
    held_out_accuracy: float | None = None


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of the test videos that could be decoded, in the order of their list.

    Attributes:
      probabilities: (N, C) float32, rows sum to 1: the mean over windows and crops.
      videos: (N,) int32, places in the test list, each once.
      labels: (N,) int32, the test list's own.
      choice: the hyper-parameters used.
    """

    probabilities: np.ndarray
    videos: np.ndarray
    labels: np.ndarray
    choice: Choice


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

    The test list is looked at only after the training; its labels are only handed on. `predictions.npz` in the workdir keeps
    what was predicted, so that the same call again has nothing left to do.

    Args:
      config: of method "supervised"; what `config.data.test` says is ignored.
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
    return Predictions(values, indices, test.labels[indices], choice)


def choose(
    config: Config,
    videos: VideoList,
    search: Sequence[tuple[float, float]],
    workdir: Path,
    *,
    windows: int,
    crops: int,
) -> Choice:
    """The candidate with the best accuracy (then the highest log-likelihood) on a held-out part of the training videos.

    No test video is an argument, so that no choice can depend on one. Each candidate is a run below `workdir`, which
    goes on where it stood; one whose loss is not finite is out, also of the same call again.

    Args:
      config: of method "supervised".
      videos: the training videos; a fifth of each class is held out, drawn by `config.seed`.
      search: (learning rate, weight decay) of the candidates.
      workdir: where the candidates are trained.
      windows, crops: clips per held-out video.

    Raises:
      ConfigError: nothing can be held out.
      TrainingError: the loss of no candidate stayed finite, or a training failed in another way.
    """
    if len(search) == 1:
        return Choice(*search[0])
    marked = stratified_part(videos.labels, fraction=HELD_OUT, seed=config.seed)
    if not marked.any():
        raise ConfigError(f"no class of {config.data.train} has two videos to hold one out; give one learning rate, no search")
    fit, held_out = videos.select(np.flatnonzero(~marked)), videos.select(np.flatnonzero(marked))
    scores = {}
    for rate, decay in search:
        candidate, folder = Choice(rate, decay), workdir / f"rate_{rate:g}_decay_{decay:g}"
        if _diverged(folder):
            continue
        try:
            values, indices = _fit(_with_choice(config, candidate), fit, held_out, folder, windows, crops)
        except TrainingError as error:
            if not _diverged(folder):
                raise
            log.warning("learning rate %g, weight decay %g is out: %s", rate, decay, error)
            continue
        scores[candidate] = _score(values, held_out.labels[indices])
        log.info("learning rate %g, weight decay %g: %.3f of the held-out videos are right", rate, decay, scores[candidate][0])
    if not scores:
        raise TrainingError(
            f"the loss of each of the {len(search)} candidates in {workdir} ceased to be finite; add smaller rates"
        )
    best = max(scores, key=scores.get)
    return replace(best, held_out_accuracy=scores[best][0])


def _diverged(workdir: Path) -> bool:
    """Whether a training here ended with a loss that is not finite."""
    return any(workdir.glob("not_finite_step_*.json"))


def _with_choice(config: Config, choice: Choice) -> Config:
    optim = replace(config.optim, learning_rate=choice.learning_rate, weight_decay=choice.weight_decay)
    return replace(config, optim=optim)


def _fit(
    config: Config, videos: VideoList, test: VideoList, workdir: Path, windows: int, crops: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train on `videos`, predict `test`: probabilities (N, C) and places (N,), from the file if it holds just these."""
    run = prepare(replace(config, eval=replace(config.eval, windows=windows)), videos)
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
        make_predictor(run.program.method),
        *evaluated_tree(run.program.method.evaluated, state),
        test,
        Reading(run.config.test_view, windows, crops, run.config.eval.batch_size, data.workers, data.threads),
        run.program.mesh,
    )
    if jax.process_index() == 0:
        fresh = file.with_suffix(".tmp.npz")
        np.savez(fresh, probabilities=found.values, videos=found.videos, **wanted)
        fresh.replace(file)
    return found.values, found.videos


def make_predictor(method: Supervised) -> Extractor:
    """The jitted function (params, model_state, batch of `eval_batches`) -> probabilities (B, C), the mean over clips."""

    def probabilities(params, model_state, clips):
        return jax.nn.softmax(method.network.apply({"params": params, **model_state}, clips, False))

    return mean_over_clips(probabilities)


def _score(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """(accuracy, mean log-likelihood) of (N, C) probabilities."""
    right = probabilities[np.arange(len(labels)), labels]
    return float((probabilities.argmax(axis=1) == labels).mean()), float(np.log(np.maximum(right, 1e-30)).mean())
