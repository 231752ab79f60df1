"""The evaluation command's core: all protocols for all encoders, each done once however often it is interrupted.

Below the output folder: `features_ENCODER.npz` (and its tokens), `sounds_ENCODER.npz` (embeddings of clips and their sound),
`outcomes/`, `weights/` (what trainings on clips start from), their workdirs `linear_clips/`, `finetune/` and `detection/`,
`evaluation.json`, `results.json`, `results.md`. What was made with other weights, videos or settings than those asked for is
made anew.

A protocol that fails leaves the others: its reason is logged and written to the results.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from wt_jax.cluster.processes import is_primary_process
from wt_jax.config import to_dict
from wt_jax.errors import ConfigError, EvaluationError, UserError
from wt_jax.eval.box_training import FrameDetector
from wt_jax.eval.clip_training import VideoClassifier
from wt_jax.eval.config import EvaluationConfig
from wt_jax.eval.encoders import Candidate, load_candidate
from wt_jax.eval.features.extract import EMBEDDING, Reading, item_shapes
from wt_jax.eval.features.store import FeatureFile, extract_to_file, is_current, read_features
from wt_jax.eval.protocols.base import Encoded, Protocol, Split
from wt_jax.eval.results import (
    Results,
    Summary,
    describe_splits,
    outcome_file,
    read_outcome,
    summarize,
    write_outcome,
    write_results,
)
from wt_jax.eval.splits import Splits, digest, open_splits, present
from wt_jax.eval.statistics import Result, join
from wt_jax.files import write_atomic
from wt_jax.progress import label
from wt_jax.train.sharding import make_mesh, replicated
from wt_jax.train.workdir import environment

log = logging.getLogger(__name__)


def evaluate(config: EvaluationConfig, paths: Mapping[str, str], folder: Path) -> Results:
    """Run an evaluation.

    Args:
      config: what to do.
      paths: {name: path} of the encoders, see `load_candidate`.
      folder: where everything goes; made if need be.

    Returns:
      The results; `results.failures` has what could not be evaluated.

    Raises:
      UserError: the configuration, a list, the weights or a protocol on them cannot work; found before any video is read.
    """
    config.features.check_devices("config.features", jax.device_count())
    splits = open_splits(config)
    protocols = {name: getattr(config.settings, name) for name in config.protocols}
    candidates = [load_candidate(name, path, config) for name, path in paths.items()]
    for candidate in candidates:
        _check(candidate, config, protocols, splits)
    folder.mkdir(parents=True, exist_ok=True)
    if is_primary_process():
        record = {"config": to_dict(config), "encoders": dict(paths), "environment": environment()}
        write_atomic(folder / "evaluation.json", json.dumps(record, indent=1) + "\n")
    mesh = make_mesh()
    encoders: dict[str, dict[str, Summary]] = {}
    failures: dict[str, dict[str, str]] = {}
    results = Results(list(splits.videos.classes), describe_splits(splits.parts), encoders, failures)
    for candidate in candidates:
        encoders[candidate.name] = {}
        evaluation = _Evaluation(candidate, config, splits, folder, mesh)
        for name, protocol in protocols.items():
            try:
                result = evaluation.run(name, protocol)
                encoders[candidate.name][name] = summarize(protocol, result, len(splits.videos.classes))
            except (UserError, ValueError) as error:
                failures.setdefault(candidate.name, {})[name] = str(error)
                log.error("%s, %s: %s", candidate.name, name, error)
        if is_primary_process():
            write_results(folder, results)
    return results


def _check(candidate: Candidate, config: EvaluationConfig, protocols: Mapping[str, Protocol], splits: Splits) -> None:
    """Raise ConfigError for a layer that the encoder lacks, or a protocol that cannot succeed on its features."""
    tokens = any(protocol.reads == "tokens" for protocol in protocols.values())
    extractor = candidate.extractor(config.features.layer, tokens=tokens)
    trees = candidate.params, candidate.model_state
    shapes = item_shapes(extractor, *trees, config.test_view, config.features)
    pairs = candidate.pairs
    of_pairs = {} if pairs is None else item_shapes(pairs[0], *trees, config.test_view, config.features, pairs[1])
    for name, protocol in protocols.items():
        try:
            protocol.check(of_pairs if protocol.reads == "sounds" else shapes, splits.videos.labels, splits.parts)
        except ValueError as error:
            raise ConfigError(f"{candidate.name}, {name}: {error}") from None


@dataclass
class _Evaluation:
    """The protocols of one encoder; features are extracted when the first protocol reads them."""

    candidate: Candidate
    config: EvaluationConfig
    splits: Splits
    folder: Path
    mesh: Mesh
    _features: dict[bool, FeatureFile | UserError] = field(default_factory=dict)

    def run(self, name: str, protocol: Protocol) -> Result:
        """The result over all splits, each read from its file if it is there."""
        results = []
        for split in self.splits.parts:
            about = self._about(name, protocol, split)
            path = outcome_file(self.folder, self.candidate.name, split.name, name)
            result = read_outcome(path, about)
            if result is None:
                with label(f"{self.candidate.name}, {split.name}, {name}"):
                    result = _RUN[protocol.reads](self, name, protocol, split, about)
                if is_primary_process():
                    write_outcome(path, result, about)
            log.info("%s, %s, %s: %s", self.candidate.name, split.name, name, _line(protocol, result))
            results.append(result)
        return join(results).pooled() if self.splits.pooled else join(results)

    def on_features(self, name: str, protocol: Protocol, split: Split, about: Mapping[str, Any]) -> Result:
        """A protocol on features; videos that could not be decoded are in neither set."""
        features, videos = self.features(protocol.reads == "sounds"), self.splits.videos
        row = {path: row for row, path in enumerate(videos.paths)}
        items = np.array([row[path] for path in features.paths], np.int64)
        encoded = Encoded(features.values, features.tokens, np.arange(len(items)), features.sounds)
        rows = present([split], items, len(videos))
        result = protocol.run(encoded, videos.labels[items], videos.classes, rows, seed=self.config.seed)
        return replace(result, items=items[result.items])

    def on_clips(self, name: str, protocol: Protocol, split: Split, about: Mapping[str, Any]) -> Result:
        """A protocol that trains on the videos.

        The name of its folder changes with all that it depends on, so that no training continues from another one's checkpoint.
        """
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:10]
        trainer = _TRAINERS[protocol.reads](
            self.splits.videos,
            self.candidate.export(self.folder / "weights" / f"{self.candidate.name}_{about['weights']}"),
            self.config.data,
            self.config.clip,
            self.folder / name / self.candidate.name / key,
        )
        videos = self.splits.videos
        return protocol.run(trainer, videos.labels, videos.classes, [split], seed=self.config.seed)

    def features(self, sounds: bool = False) -> FeatureFile:
        """The features of all videos, or the embeddings of clips and sound; extracted unless they are there.

        Raises:
          UserError: some are not finite, or no video could be decoded; the same for every protocol that asks.
        """
        if sounds not in self._features:
            try:
                self._features[sounds] = self._extract(sounds)
            except UserError as error:
                self._features[sounds] = error
        found = self._features[sounds]
        if isinstance(found, UserError):
            raise found
        return found

    def _extract(self, sounds: bool) -> FeatureFile:
        candidate, config, videos = self.candidate, self.config, self.splits.videos
        path = self.folder / f"{'sounds' if sounds else 'features'}_{candidate.name}.npz"
        reading = Reading.of(config.test_view, config.features, config.workers, config.threads)
        if sounds:
            assert candidate.pairs is not None, "checked before anything was read"
            extractor, sound = candidate.pairs
            reading, about = replace(reading, sound=sound), self._pairs
        else:
            read_tokens = any(getattr(config.settings, name).reads == "tokens" for name in config.protocols)
            tokens = read_tokens or is_current(path, {**self._source, "tokens": True})
            extractor = candidate.extractor(config.features.layer, tokens=tokens)
            about = {**self._source, "tokens": tokens}
        count = config.features.windows * config.features.crops
        log.info("%s: features of %d videos, %d clips of each", candidate.name, len(videos), count)
        params, model_state = jax.device_put((candidate.params, candidate.model_state), replicated(self.mesh))
        extract_to_file(
            path,
            extractor,
            params,
            model_state,
            videos,
            reading,
            self.mesh,
            about,
            part_rows=config.part_videos,
        )
        features = read_features(path)
        bad = np.flatnonzero(~np.isfinite(features.values).all(axis=1))
        if len(bad):
            raise EvaluationError(
                f"the features of {len(bad)} of {len(features.paths)} videos are not finite, {features.paths[bad[0]]} first; "
                f"the weights are broken, or numbers overflow in {candidate.model.dtype}"
            )
        return features

    def _about(self, name: str, protocol: Protocol, split: Split) -> dict[str, Any]:
        """All that the outcome of a protocol on a split depends on."""
        clips = {**self._encoder, "clip": to_dict(self.config.clip)}
        tables = [hashlib.sha256(table.read_bytes()).hexdigest()[:16] for table in getattr(protocol, "tables", ())]
        return {
            **(clips if protocol.reads in _TRAINERS else self._pairs if protocol.reads == "sounds" else self._source),
            **({"tables": tables} if tables else {}),
            "settings": to_dict(protocol),
            "seed": self.config.seed,
            "split": digest(self.splits.videos, split.train, split.test),
        }

    @cached_property
    def _source(self) -> dict[str, Any]:
        """All that the features depend on."""
        features = self.config.features
        return {
            **self._encoder,
            "layer": features.layer,
            "view": to_dict(self.config.test_view),
            "windows": features.windows,
            "crops": features.crops,
            "videos": digest(self.splits.videos),
        }

    @cached_property
    def _pairs(self) -> dict[str, Any]:
        """All that the embeddings of clips and sound depend on."""
        assert self.candidate.pairs is not None, "checked before anything was read"
        sound = to_dict(self.candidate.pairs[1])
        return {**self._source, "layer": EMBEDDING, "weights": self.candidate.fingerprint(EMBEDDING), "sound": sound}

    @cached_property
    def _encoder(self) -> dict[str, Any]:
        weights = self.candidate.fingerprint(self.config.features.layer)
        return {"weights": weights, "model": to_dict(self.candidate.model)}


# What trains on clips, by what a protocol reads.
_TRAINERS = {"clips": VideoClassifier, "boxes": FrameDetector}

# What a protocol reads -> how it is run.
_Runner = Callable[[_Evaluation, str, Protocol, Split, Mapping[str, Any]], Result]
_RUN: dict[str, _Runner] = {
    "features": _Evaluation.on_features,
    "tokens": _Evaluation.on_features,
    "sounds": _Evaluation.on_features,
    "clips": _Evaluation.on_clips,
    "boxes": _Evaluation.on_clips,
}


def _line(protocol: Protocol, result: Result) -> str:
    """The numbers of the short table, without intervals, for the log."""
    shown = {heading: result.values[name] for name, heading in protocol.headings().items() if name in result.values}
    return "  ".join(f"{heading} {100 * float(np.mean(values)):.1f}" for heading, values in shown.items())
