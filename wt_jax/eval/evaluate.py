"""The evaluation of a checkpoint by the protocol that a configuration names."""

import numpy as np
from jax.sharding import Mesh

from wt_jax.config import Config, ConfigError
from wt_jax.data.sources import VideoList, open_source
from wt_jax.eval.features import Extractor, Features, extract_features
from wt_jax.eval.knn import weighted_knn
from wt_jax.eval.retrieval import centred
from wt_jax.eval.scores import EvalSettings, evaluate_leave_one_group_out, evaluate_split, top1


class Evaluator:
    """Judges parameters by the labelled videos of a configuration; `possible` says whether there are any."""

    def __init__(self, config: Config, extractor: Extractor, train: VideoList, mesh: Mesh):
        self._config, self._extractor, self._mesh = config, extractor, mesh
        data = config.data
        self.train = train
        self.test = open_source(data.test, data.root, data.max_bad_fraction) if data.test else None
        self._settings = EvalSettings(k=config.eval.k, temperature=config.eval.temperature, centre=config.eval.centre)
        column = config.eval.leave_out
        if column and column not in train.columns:
            known = ", ".join(train.columns) or "none: it is not a CSV with a header"
            raise ConfigError(f"config.eval.leave_out {column!r} is no column of {data.train} (columns: {known})")
        self.possible = bool(train.classes) and (bool(column) or (self.test is not None and bool(self.test.classes)))

    def features(self, params: dict, model_state: dict) -> tuple[Features, Features | None]:
        """Features of the training and of the test list; no test list where groups are left out."""

        def extract(videos: VideoList) -> Features:
            view = self._config.test_view
            return extract_features(self._extractor, params, model_state, videos, view, self._config, self._mesh)

        if self._config.eval.leave_out or self.test is None:
            return extract(self.train), None
        return extract(self.train), extract(self.test)

    def knn(self, params: dict, model_state: dict) -> float:
        """Top-1 of the weighted kNN in [0, 1], for use during training."""
        train, test = self.features(params, model_state)
        if test is None:
            return self.scores((train, test))["knn_top1"]
        settings = self._settings
        values = [centred("features", f.values) if settings.centre else f.values for f in (train, test)]
        options = {"k": settings.k, "temperature": settings.temperature}
        return top1(weighted_knn(values[0], train.labels, values[1], **options), test.labels)

    def scores(self, features: tuple[Features, Features | None]) -> dict[str, float]:
        """All scores, each in [0, 1]: kNN and linear top-1, retrieval recalls and mean average precision."""
        train, test = features
        if test is not None:
            return evaluate_split(train.values, train.labels, test.values, test.labels, self._settings)
        groups = np.asarray(self.train.columns[self._config.eval.leave_out])[train.videos]
        return evaluate_leave_one_group_out(train.values, train.labels, groups, self._settings)
