"""The features of a run's own videos, by which the run is evaluated while it trains and at its end."""

from dataclasses import dataclass, replace

import numpy as np
from jax.sharding import Mesh

from wt_jax.config import Config
from wt_jax.data.records import VideoList, same_classes
from wt_jax.errors import ConfigError
from wt_jax.eval.features.extract import Features, Reading, extract_features, make_extractor
from wt_jax.eval.protocols.base import Encoded, Protocol, Split
from wt_jax.eval.splits import check_common_class, leave_one_group_out, present
from wt_jax.eval.statistics import Result
from wt_jax.methods.base import Method, evaluated_tree
from wt_jax.train.step import TrainState
from wt_jax.train.videos import open_videos


@dataclass(frozen=True)
class RunVideos:
    """The videos of a run as an evaluation sees them, checked.

    Attributes:
      train: the training list.
      test: the test list, in the same numbering of classes; None where there is none or groups are left out of `train`.
      labels: (N,) int32 of all videos, those of `train` first; -1 where a list has no labels.
      splits: rows of `labels`; empty where a list has no labels or there is no test list.
      pooled: whether the tests of all splits are one.
    """

    train: VideoList
    test: VideoList | None
    labels: np.ndarray
    splits: tuple[Split, ...]
    pooled: bool

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return max(self.train.classes, self.test.classes if self.test is not None else (), key=len)


def open_run_videos(config: Config, train: VideoList) -> RunVideos:
    """The training list and, read here, the test list.

    Raises:
      ConfigError, SourceError: a list cannot be used, training and test have no class in common, there are not two groups to
        leave out, or a protocol of `config.eval` cannot succeed on these labels.
    """
    data, leave_out = config.data, config.eval.leave_out
    if leave_out:
        splits = leave_one_group_out(train, leave_out, f"config.eval.leave_out of {data.train}") if train.classes else ()
        videos = RunVideos(train, None, train.labels, splits, pooled=True)
    else:
        test = open_videos(config, "test") if data.test else None
        if test is None:
            return RunVideos(train, None, train.labels, (), pooled=False)
        train, test = same_classes([train, test])
        first = len(train)
        split = Split("test", np.arange(first), first + np.arange(len(test)))
        splits = (split,) if train.classes and test.classes else ()
        videos = RunVideos(train, test, np.concatenate([train.labels, test.labels]), splits, pooled=False)
    if videos.splits:
        check_common_class(videos.labels, videos.splits)
        for name in config.eval.protocols:
            try:
                getattr(config.eval.settings, name).check({}, videos.labels, videos.splits)
            except ValueError as error:
                raise ConfigError(f"config.eval.protocols: {name}: {error}; leave it out, or change the lists") from None
    return videos


@dataclass(frozen=True)
class RunFeatures:
    """The features of a run's videos at one state.

    Attributes:
      videos: which.
      train, test: those that could be decoded; `test` is None where `videos.test` is.
      seed: of validation splits and draws.
    """

    videos: RunVideos
    train: Features
    test: Features | None
    seed: int = 0

    @property
    def labelled(self) -> bool:
        """Whether there are labelled training and test videos."""
        return bool(self.videos.splits)

    def run(self, protocol: Protocol) -> Result:
        """The result of a protocol over all splits; `Result.items` are rows of `videos.labels`."""
        values, items = self.train.values, self.train.videos
        if self.test is not None:
            values = np.concatenate([values, self.test.values])
            items = np.concatenate([items, len(self.videos.train) + self.test.videos])
        splits = present(self.videos.splits, items, len(self.videos.labels))
        labels = self.videos.labels[items]
        result = protocol.run(Encoded(values), labels, self.videos.classes, splits, seed=self.seed)
        result = replace(result, items=items[result.items])
        return result.pooled() if self.videos.pooled else result


class FeatureReader:
    """Extracts `RunFeatures`; several metrics of one step read the videos once."""

    def __init__(self, config: Config, method: Method, videos: RunVideos, mesh: Mesh):
        self.videos = videos
        self._config, self._mesh, self._evaluated = config, mesh, method.evaluated
        self._extractor = make_extractor(method.encoder, config.eval.features.layer, method=method)
        self._reading = Reading.of(config.test_view, config.eval.features, config.data.workers, config.data.threads)
        self._logged: set[str] = set()  # undecodable videos, so that each is logged once however often one evaluates
        self._last: tuple[TrainState, RunFeatures] | None = None

    def read(self, state: TrainState) -> RunFeatures:
        """The features at a state, kept until another state is asked for."""
        if self._last is None or self._last[0] is not state:
            train = self._extract(state, self.videos.train)
            test = None if self.videos.test is None else self._extract(state, self.videos.test)
            self._last = (state, RunFeatures(self.videos, train, test, self._config.seed))
        return self._last[1]

    def _extract(self, state: TrainState, videos: VideoList) -> Features:
        trees = evaluated_tree(self._evaluated, state)
        return extract_features(self._extractor, *trees, videos, self._reading, self._mesh, named=self._logged)
