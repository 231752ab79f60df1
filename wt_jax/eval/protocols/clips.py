"""The protocols that train on clips: a classifier is trained by the ordinary trainer and predicts test videos.

The published test is 10 clips x 3 crops of each video (Wang et al. 2018, arXiv 1711.07971), whose probabilities are averaged.
Learning rate and weight decay may be chosen by a search, which reads the training set alone. `linear_clips` and `finetune` have
the published settings; `wt_jax.eval.clip_training` does the training.
"""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wt_jax.config import OptimConfig, TrainConfig, ViewConfig
from wt_jax.data.views import check_crops
from wt_jax.eval.protocols.base import Predicted, Split, check_two_classes, score
from wt_jax.eval.similarity import check_labels
from wt_jax.eval.statistics import Result, join
from wt_jax.eval.validation_split import top_classes
from wt_jax.methods.supervised import SupervisedSettings


@dataclass(frozen=True)
class Choice:
    """What a search chose.

    Attributes:
      learning_rate, weight_decay: of the training on the whole training set.
      validation_accuracy: of the candidate, in [0, 1]; None where there was nothing to choose.
    """

    learning_rate: float
    weight_decay: float
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class Predictions:
    """What a classifier predicts for the test videos that could be decoded, in the order of their list.

    Attributes:
      probabilities: (N, C) float32, rows sum to 1: the mean over windows and crops.
      videos: (N,) int32, rows of the test list, each once.
      choice: the hyper-parameters used.
    """

    probabilities: np.ndarray
    videos: np.ndarray
    choice: Choice


class Classifier(typing.Protocol):
    """The videos of an evaluation and one encoder, from which a classifier can be trained."""

    def predict(
        self, training: "ClipTraining", split: Split, train_labels: np.ndarray, classes: Sequence[str], seed: int
    ) -> Predictions:
        """Train on `split.train`, with its labels (n,), and predict `split.test`, of which no label is an argument."""
        ...


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

    reads: ClassVar = "clips"

    def __post_init__(self):
        if self.windows < 1:
            raise ValueError(f"windows must be 1 or more, got {self.windows}")
        if self.test.crop == "random":
            raise ValueError("test.crop must be 'center' or 'resize': a test draws nothing")
        check_crops(self.test.crop, self.crops)

    def headings(self) -> dict[str, str]:
        """Its top-1, by whether the encoder is frozen."""
        return {"top1": "linear on clips" if self.method.freeze == "encoder" else "fine-tuned"}

    def check(self, shapes: Mapping[str, tuple[int, ...]], labels: np.ndarray, splits: Sequence[Split]) -> None:
        """Raise ValueError where a training set has fewer than two classes."""
        check_two_classes(labels, splits)

    def run(
        self, features: Classifier, labels: np.ndarray, classes: Sequence[str], splits: Sequence[Split], *, seed: int = 0
    ) -> Result:
        """One training per split; see `wt_jax.eval.protocols.base.Protocol`.

        Raises:
          ConfigError, WeightsError, CheckpointError: this cannot be trained.
          TrainingError: the training failed, or no candidate's loss stayed finite.
        """
        results = []
        for split in splits:
            train_labels = check_labels("labels", labels[split.train], len(split.train))
            found = features.predict(self, split, train_labels, classes, seed)
            ranked = top_classes(found.probabilities, np.arange(found.probabilities.shape[1]))
            rows = split.test[found.videos]
            results.append(score(Predicted({"": ranked}, [vars(found.choice)]), labels[rows], rows, split.name))
        return join(results)
