"""What an evaluation is: which videos, which clips, which protocols. `configs/eval/` has one configuration per use.

`default_evaluation()` is a ConfigDict of every key; `resolve_evaluation` checks it, with the errors of `wt_jax.config`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict

from wt_jax.config import ClipConfig, DataConfig, ModelConfig, ViewConfig, closest, from_dict, to_dict
from wt_jax.data.views import check_crops
from wt_jax.errors import ConfigError
from wt_jax.eval.protocols.finetune import ClipTraining
from wt_jax.eval.protocols.recipes import MACLR_FINETUNE, MACLR_LINEAR
from wt_jax.eval.protocols.stored import (
    STORED,
    AttentiveSettings,
    KnnSettings,
    LinearSettings,
    LowShotSettings,
    RetrievalSettings,
    StoredSettings,
)
from wt_jax.models import build_encoder
from wt_jax.specs import ClipView

TRAINED = ("linear_clips", "finetune")
PROTOCOLS = (*STORED, *TRAINED)


@dataclass(frozen=True)
class ProtocolSettings:
    """The settings of every protocol, whether it is asked for or not."""

    knn: KnnSettings = KnnSettings()
    linear: LinearSettings = LinearSettings()
    attentive: AttentiveSettings = AttentiveSettings()
    low_shot: LowShotSettings = LowShotSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    linear_clips: ClipTraining = MACLR_LINEAR
    finetune: ClipTraining = MACLR_FINETUNE


@dataclass(frozen=True)
class EvaluationConfig:
    """A whole evaluation, checked.

    Attributes:
      lists: folder that the paths of `splits` start from.
      splits: (training list, test list) pairs over which numbers are averaged; lists as in `config.data`. An empty test list
        means that `test_share` of each class of the training list is the test set, drawn by `seed`.
      root: folder that relative paths inside a list start from; empty: the list's own folder.
      test_share: see `splits`.
      leave_out: column of the first training list (CSV) whose values are left out in turn, each once the test set; the test
        lists are not read then.
      max_bad_fraction: share of listed videos that may be missing.
      clip, view: the clips that features are taken from; `view` draws nothing.
      windows, crops: clips per video, evenly spread, and squares per clip (1 or 3); their features are averaged, for training
        and test videos alike.
      layer: "": the encoder's feature; a layer's name; or "embedding". See `wt_jax.eval.features.extract.make_extractor`.
      model: the encoder that `random` means.
      seed: of random encoders, held-out parts and draws.
      batch_size: videos per forward pass over all devices, one clip of each at a time.
      part_videos: videos per file while features are extracted: what memory holds, and what an interruption may cost.
      workers, threads: as in `config.data`.
      protocols: which, out of knn, linear, attentive, low_shot, retrieval, linear_clips, finetune.
      settings: of the protocols.
    """

    lists: str = ""
    splits: tuple[tuple[str, str], ...] = (("train", "test"),)
    root: str = ""
    test_share: float = 0.3
    leave_out: str = ""
    max_bad_fraction: float = 0.01
    clip: ClipConfig = field(default_factory=ClipConfig)
    view: ViewConfig = ViewConfig(crop="center")
    windows: int = 4
    crops: int = 1
    layer: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 0
    batch_size: int = 64
    part_videos: int = 256
    workers: int = 0
    threads: int = 2
    protocols: tuple[str, ...] = ("knn", "linear", "low_shot", "retrieval")
    settings: ProtocolSettings = field(default_factory=ProtocolSettings)

    @property
    def test_view(self) -> ClipView:
        """The deterministic view of all features."""
        parts = {f.name: getattr(self.view, f.name) for f in dataclasses.fields(self.view)}
        return ClipView(**parts, **dataclasses.asdict(self.clip))

    @property
    def stored(self) -> StoredSettings:
        """Settings of the protocols on stored features."""
        return StoredSettings(seed=self.seed, **{name: getattr(self.settings, name) for name in STORED})

    @property
    def data(self) -> DataConfig:
        """For a training on videos that are given by themselves."""
        return DataConfig(
            train=self.lists or "the lists",
            workers=self.workers,
            threads=self.threads,
            max_bad_fraction=self.max_bad_fraction,
        )


def default_evaluation() -> ConfigDict:
    """Every key with its default, for config files to build on."""
    return ConfigDict(to_dict(EvaluationConfig()), type_safe=False).lock()


def resolve_evaluation(config: ConfigDict | Mapping[str, Any]) -> EvaluationConfig:
    """The checked, frozen form.

    Raises:
      ConfigError: a key is unknown (the closest is named), a value has the wrong type, or the combination is impossible.
    """
    raw = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    resolved = from_dict(EvaluationConfig, raw)
    _check(resolved)
    return resolved


def _check(config: EvaluationConfig) -> None:
    """Combinations that cannot run, told before any device is touched."""
    for name in ("windows", "batch_size", "part_videos", "threads"):
        if getattr(config, name) < 1:
            raise ConfigError(f"config.{name} must be 1 or more, got {getattr(config, name)}")
    if not config.protocols:
        raise ConfigError(f"config.protocols is empty; there are {', '.join(PROTOCOLS)}")
    for name in config.protocols:
        if name not in PROTOCOLS:
            raise ConfigError(f"unknown protocol {name!r}{closest(name, PROTOCOLS)}; there are {', '.join(PROTOCOLS)}")
    if not config.splits:
        raise ConfigError("config.splits is empty; give (training list, test list) pairs")
    if not 0 < config.test_share < 1:
        raise ConfigError(f"config.test_share must lie between 0 and 1, got {config.test_share}")
    shares = config.settings.low_shot.shares
    if not shares or not all(0 < share <= 1 for share in shares) or config.settings.low_shot.draws < 1:
        raise ConfigError(f"config.settings.low_shot needs shares in (0, 1] and 1 draw or more, got {config.settings.low_shot}")
    if config.view.crop == "random" or config.view.flip_probability:
        raise ConfigError("config.view must draw nothing: crop 'center' or 'resize', flip_probability 0")
    try:
        check_crops(config.test_view, config.crops)
    except ValueError as error:
        raise ConfigError(f"config.clip, config.view or config.crops: {error}") from None
    try:
        build_encoder(config.model)
    except ValueError as error:
        raise ConfigError(f"config.model: {error}") from None
