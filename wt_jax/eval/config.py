"""What an evaluation is, that at the end of a run and that of the evaluation command: videos, features, protocols.

`default_evaluation()` is a ConfigDict of every key of the command's, which `configs/eval/` builds on; `resolve_evaluation`
checks it, with the errors of `wt_jax.config`. `EvalConfig` is the section `eval` of a run's configuration.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict

from wt_jax.config import ClipConfig, DataConfig, ModelConfig, ViewConfig, closest, from_dict, to_dict
from wt_jax.data.views import check_crops
from wt_jax.errors import ConfigError
from wt_jax.eval.protocols.table import FEATURE_PROTOCOLS, PROTOCOLS, FeatureProtocols, Protocols
from wt_jax.models import build_encoder
from wt_jax.specs import ClipView


@dataclass(frozen=True)
class FeatureConfig:
    """The features that protocols compare.

    Attributes:
      windows, crops: clips per video, evenly spread, and squares per clip (1 or 3); their features are averaged, for training
        and test videos alike.
      layer: "": the encoder's feature; a layer's name; or "embedding". See `wt_jax.eval.features.extract.make_extractor`.
      batch_size: videos per forward pass over all devices, one clip of each at a time.
    """

    windows: int = 4
    crops: int = 1
    layer: str = ""
    batch_size: int = 64

    def __post_init__(self):
        for name in ("windows", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")

    def check_devices(self, key: str, count: int) -> None:
        """Raise ConfigError, which names the section `key`, unless a batch can be divided among `count` devices."""
        if self.batch_size % count:
            raise ConfigError(f"{key}.batch_size {self.batch_size} cannot be divided among {count} devices; take a multiple")


@dataclass(frozen=True)
class EvalConfig:
    """The evaluation of a run, while it trains and at its end.

    Attributes:
      features: of the videos of `config.data`.
      online: metrics of `wt_jax.eval.online.METRICS` that are computed every `config.train.eval_every`.
      protocols: at the end of the run; out of those that read one feature per video.
      settings: of the protocols, also those of the metrics.
      leave_out: column of the CSV list whose values are left out in turn (leave-one-group-out on `data.train`); empty: train
        on `data.train`, test on `data.test`.
      before: at the end of a run, also evaluate the encoder as it was before training.
    """

    features: FeatureConfig = FeatureConfig()
    online: tuple[str, ...] = ("knn",)
    protocols: tuple[str, ...] = ("knn", "linear", "retrieval")
    settings: FeatureProtocols = FeatureProtocols()
    leave_out: str = ""
    before: bool = True

    def __post_init__(self):
        check_names("protocols", self.protocols, FEATURE_PROTOCOLS)


@dataclass(frozen=True)
class EvaluationConfig:
    """A whole evaluation of several encoders, checked.

    Attributes:
      lists: folder that the paths of `splits` start from.
      splits: (training list, test list) pairs over which numbers are averaged; lists as in `config.data`. An empty test list
        means that `test_fraction` of each class of the training list is the test set, drawn by `seed`.
      root: folder that relative paths inside a list start from; empty: the list's own folder.
      test_fraction: see `splits`.
      leave_out: column of the first training list (CSV) whose values are left out in turn, each once the test set; the test
        lists are not read then.
      max_bad_fraction: fraction of the listed videos that may be missing.
      clip, view: the clips that features are taken from; `view` draws nothing.
      features: of the videos.
      model: the encoder that `random` means.
      seed: of random encoders, validation splits and draws.
      part_videos: videos per file while features are extracted: what is in memory, and what an interruption may cost.
      workers, threads: as in `config.data`.
      protocols: which, out of `wt_jax.eval.protocols.table.PROTOCOLS`.
      settings: of the protocols.
    """

    lists: str = ""
    splits: tuple[tuple[str, str], ...] = (("train", "test"),)
    root: str = ""
    test_fraction: float = 0.3
    leave_out: str = ""
    max_bad_fraction: float = 0.01
    clip: ClipConfig = field(default_factory=ClipConfig)
    view: ViewConfig = ViewConfig(crop="center")
    features: FeatureConfig = FeatureConfig()
    model: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 0
    part_videos: int = 256
    workers: int = 0
    threads: int = 2
    protocols: tuple[str, ...] = ("knn", "linear", "low_shot", "retrieval")
    settings: Protocols = Protocols()

    @property
    def test_view(self) -> ClipView:
        """The deterministic view of all features."""
        parts = {f.name: getattr(self.view, f.name) for f in dataclasses.fields(self.view)}
        return ClipView(**parts, **dataclasses.asdict(self.clip))

    @property
    def data(self) -> DataConfig:
        """For a training on videos that are passed beside it."""
        return DataConfig(
            train=self.lists or "the lists",
            workers=self.workers,
            threads=self.threads,
            max_bad_fraction=self.max_bad_fraction,
        )


def check_names(key: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError, with the closest known name, for a name that is unknown."""
    known = tuple(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{key}: unknown name {name!r}{closest(name, known)}; there are {', '.join(known)}")


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
    """Combinations that cannot run, found before any device is touched."""
    for name in ("part_videos", "threads"):
        if getattr(config, name) < 1:
            raise ConfigError(f"config.{name} must be 1 or more, got {getattr(config, name)}")
    if not config.protocols:
        raise ConfigError(f"config.protocols is empty; there are {', '.join(PROTOCOLS)}")
    try:
        check_names("protocols", config.protocols, PROTOCOLS)
    except ValueError as error:
        raise ConfigError(f"config.{error}") from None
    if not config.splits:
        raise ConfigError("config.splits is empty; give (training list, test list) pairs")
    if not 0 < config.test_fraction < 1:
        raise ConfigError(f"config.test_fraction must be between 0 and 1, got {config.test_fraction}")
    if config.view.crop == "random" or config.view.flip_probability:
        raise ConfigError("config.view must draw nothing: crop 'center' or 'resize', flip_probability 0")
    try:
        check_crops(config.test_view.crop, config.features.crops)
    except ValueError as error:
        raise ConfigError(f"config.clip, config.view or config.features.crops: {error}") from None
    try:
        build_encoder(config.model)
    except ValueError as error:
        raise ConfigError(f"config.model: {error}") from None
