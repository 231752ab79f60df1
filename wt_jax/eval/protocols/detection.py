"""Detection of actions in boxes, fine-tuned and scored as on AVA (Gu et al. 2018, https://arxiv.org/abs/1705.08421).

Items are key frames: rows of lists with a column "time". What is classified in a test are the boxes of `detected`, those of a
person detector in the published protocol; without such a table the annotated ones, which is easier and must be said.
"""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from wt_jax.config import OptimConfig, TrainConfig, ViewConfig
from wt_jax.data.boxes import find_boxes, open_boxes, read_classes
from wt_jax.data.records import Record
from wt_jax.errors import SourceError
from wt_jax.eval.protocols.base import Split
from wt_jax.eval.protocols.frame_precision import Frame, frame_precisions
from wt_jax.eval.statistics import Result, join
from wt_jax.methods.detection import DetectionSettings
from wt_jax.specs import BoxView

DRAWS = 5  # of random scores, whose average precision is the level of chance


@dataclass(frozen=True)
class Detections:
    """What a detector finds in the test frames that could be decoded, in the order of their list.

    Attributes:
      records: the key frames.
      boxes: (D, 4) float32 of each frame, relative to it: left, top, right, bottom.
      scores: (D, C) float32 of each, probabilities.
    """

    records: Sequence[Record]
    boxes: Sequence[np.ndarray]
    scores: Sequence[np.ndarray]


class DetectorTrainer(typing.Protocol):
    """The key frames of an evaluation and one encoder, from which a detector can be trained."""

    def detect(self, training: "Detection", split: Split, seed: int) -> Detections:
        """Train on `split.train` and classify the boxes of `split.test`."""
        ...


@dataclass(frozen=True)
class Detection:
    """How a detector is trained and tested.

    Attributes:
      method: the table of labelled boxes, the number of classes, dropout, and what is frozen.
      optim, train: of the training.
      strong, test: the views of training and test; boxes follow the crop.
      detected: table of the boxes that are classified in a test; empty: the annotated ones.
      classes: table of the classes that are evaluated, see `wt_jax.data.boxes.read_classes`; empty: all of `num_classes`.
      batch_size: test frames per forward pass over all devices.
    """

    method: DetectionSettings = DetectionSettings()
    optim: OptimConfig = OptimConfig(learning_rate=0.1)
    train: TrainConfig = TrainConfig(duration="20 epochs", batch_size=64)
    strong: ViewConfig = ViewConfig(flip_probability=0.5)
    test: ViewConfig = ViewConfig(crop="resize")
    detected: str = ""
    classes: str = ""
    batch_size: int = 8

    reads: ClassVar = "boxes"

    def __post_init__(self):
        if self.test.crop == "random" or self.test.flip_probability:
            raise ValueError("test must draw nothing: crop 'center' or 'resize', flip_probability 0")

    @property
    def truth(self) -> BoxView:
        """The labelled boxes."""
        return BoxView(self.method.boxes, self.method.most, self.method.num_classes)

    @property
    def tables(self) -> tuple[Path, ...]:
        """The files that a result depends on."""
        return tuple(Path(name) for name in (self.method.boxes, self.detected, self.classes) if name)

    def headings(self) -> Mapping[str, str]:
        """Frame-mAP, by whether boxes are detected, and that of random scores."""
        kind = "detected" if self.detected else "annotated"
        return {"frame_map": f"frame-mAP@0.5, {kind} boxes", "chance_map": "random scores"}

    def evaluated(self) -> dict[int, str]:
        """{column of the labels: name} of the classes that are evaluated.

        Raises:
          SourceError: the table cannot be read, or names a class that there is not.
        """
        count = self.method.num_classes
        named = read_classes(self.classes) if self.classes else {number: str(number) for number in range(1, count + 1)}
        if max(named) > count:
            raise SourceError(f"{self.classes} has class {max(named)}, config.settings.detection.method.num_classes is {count}")
        return {number - 1: name for number, name in named.items()}

    def check(self, shapes: Mapping[str, tuple[int, ...]], labels: np.ndarray, splits: Sequence[Split]) -> None:
        """Raise ValueError where a table is missing or cannot be read."""
        if not self.method.boxes:
            raise ValueError("settings.detection.method.boxes is empty; name a table of labelled boxes")
        try:
            self.evaluated()
            for table in (self.method.boxes, self.detected):
                if table:
                    open_boxes(table)
        except SourceError as error:
            raise ValueError(str(error)) from None

    def run(
        self, features: DetectorTrainer, labels: np.ndarray, classes: Sequence[str], splits: Sequence[Split], *, seed: int = 0
    ) -> Result:
        """One training per split. An item of the result is a class, not a video: a number is the mean over classes.

        `labels` and `classes` are those of the list, and are not read.

        Raises:
          ConfigError, WeightsError, CheckpointError, TrainingError: this cannot be trained.
          ValueError: no class that is evaluated has a box in the test.
        """
        return join([self.score(features.detect(self, split, seed), seed) for split in splits])

    def score(self, found: Detections, seed: int = 0) -> Result:
        """Average precisions of detections: "frame_map" as the official evaluator, "frame_map_all" with all detections of a
        frame, "chance_map" of random scores, mean of five draws."""
        truths = [find_boxes(record, self.truth) for record in found.records]
        frames = [
            Frame(*truth, boxes, scores)
            for truth, boxes, scores in zip(truths, found.boxes, found.scores, strict=True)
            if len(truth[0])
        ]
        columns = list(self.evaluated())
        precisions = frame_precisions(frames, columns)
        there = np.flatnonzero(~np.isnan(precisions))
        if not len(there):
            raise ValueError("no test box has one of the classes that are evaluated")
        rng = np.random.default_rng(seed)
        drawn = [frame_precisions([_shuffled(frame, rng) for frame in frames], columns)[there] for _ in range(DRAWS)]
        values = {
            "frame_map": precisions[there],
            "frame_map_all": frame_precisions(frames, columns, most=0)[there],
            "chance_map": np.mean(drawn, axis=0),
        }
        numbers = np.array(columns)[there].astype(np.int32)
        return Result(numbers + 1, np.zeros(len(there), np.int32), numbers, values)


def _shuffled(frame: Frame, rng: np.random.Generator) -> Frame:
    """The frame with random scores: of all boxes of a class, any is as likely to be first."""
    return Frame(frame.truth, frame.labels, frame.boxes, rng.random(frame.scores.shape))
