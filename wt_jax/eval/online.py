"""The evaluation while a run trains: metrics of the features of its videos, each with its period."""

from collections.abc import Callable
from dataclasses import dataclass

from wt_jax.errors import ConfigError
from wt_jax.eval.config import EvalConfig, check_names
from wt_jax.eval.metrics.knn import knn
from wt_jax.eval.protocols.table import FeatureProtocols
from wt_jax.eval.run_features import FeatureReader, RunFeatures
from wt_jax.train.step import TrainState


@dataclass(frozen=True)
class Metric:
    """A function from features at a state and the settings of the protocols to numbers for `metrics.jsonl`.

    Attributes:
      compute: the function.
      labels: whether it needs labelled training and test videos.
    """

    compute: Callable[[RunFeatures, FeatureProtocols], dict[str, float]]
    labels: bool = True


# Adding a metric is a file in `wt_jax/eval/metrics/` and a line here.
METRICS: dict[str, Metric] = {"knn": Metric(knn)}

BEST_BY = "knn_top1"  # the number whose highest value marks the best checkpoint


@dataclass(frozen=True)
class Evaluator:
    """One metric of a run.

    Attributes:
      every: steps between two evaluations.
      metric, settings, reader: what is computed, and of which features.
    """

    every: int
    metric: Metric
    settings: FeatureProtocols
    reader: FeatureReader

    def run(self, state: TrainState) -> dict[str, float]:
        """The numbers at a state, the same on every process."""
        return self.metric.compute(self.reader.read(state), self.settings)


def make_evaluators(config: EvalConfig, reader: FeatureReader, every: int) -> dict[str, Evaluator]:
    """{name: evaluator}, one for each of `config.online` that the labels of the run's videos allow.

    Args:
      config: which metrics, with which settings.
      reader: extracts the features.
      every: steps between two evaluations; 0: none.

    Raises:
      ConfigError: there is no such metric.
    """
    try:
        check_names("config.eval.online", config.online, METRICS)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    metrics = {name: METRICS[name] for name in config.online if every}
    return {
        name: Evaluator(every, metric, config.settings, reader)
        for name, metric in metrics.items()
        if reader.videos.splits or not metric.labels
    }
