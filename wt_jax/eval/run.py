"""A whole run: the training of a configuration, and the features by which it is evaluated."""

from dataclasses import dataclass

import jax

from wt_jax.config import Config, steps_of
from wt_jax.data.records import VideoList
from wt_jax.errors import ConfigError
from wt_jax.eval.online import BEST_BY, make_evaluators
from wt_jax.eval.run_features import FeatureReader, open_run_videos
from wt_jax.experiment import build_method
from wt_jax.train.program import Run, build
from wt_jax.train.videos import open_videos


@dataclass(frozen=True)
class EvaluatedRun(Run):
    """A run, and what extracts the features by which it is evaluated, while it trains and at its end."""

    features: FeatureReader


def prepare(config: Config, videos: VideoList | None = None) -> EvaluatedRun:
    """Build everything and compile nothing; `videos` are those to train on, by default all of `config.data.train`.

    Raises:
      ConfigError, SourceError, WeightsError: the configuration cannot be run on this data, these devices or these weights.
    """
    if videos is None:
        if not config.data.train:
            raise ConfigError("config.data.train is empty; give a list file or a folder of videos")
        videos = open_videos(config, "train")
    config.eval.features.check_devices("config.eval.features", jax.device_count())
    if config.train.compile_cache:
        jax.config.update("jax_compilation_cache_dir", config.train.compile_cache)
    if build_method(config).needs.labels and not videos.classes:
        raise ConfigError(f"{config.data.train} has no labels, and {config.method_name} learns from them; add one to each line")
    program = build(config, len(videos), len(videos.classes))
    features = FeatureReader(config, program.method, open_run_videos(config, videos), program.mesh)
    every = steps_of(config.train.eval_every, steps_per_epoch=program.steps_per_epoch)
    return EvaluatedRun(config, videos, program, dict(make_evaluators(config.eval, features, every)), BEST_BY, features)
