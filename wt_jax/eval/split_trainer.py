"""What the trainings of an evaluation share: its videos, one encoder, and where their workdirs are."""

from dataclasses import dataclass
from pathlib import Path

from wt_jax.config import ClipConfig, DataConfig, ModelConfig
from wt_jax.data.records import VideoList


@dataclass(frozen=True)
class SplitTrainer:
    """Trains from one encoder on the splits of an evaluation; what it trains is the subclass's.

    Attributes:
      videos: all of an evaluation; splits are rows of them.
      model: the encoder, whose weights are in `model.weights`.
      data, clip: workers and the clips that are read.
      workdir: each split is trained in a folder below it.
    """

    videos: VideoList
    model: ModelConfig
    data: DataConfig
    clip: ClipConfig
    workdir: Path
