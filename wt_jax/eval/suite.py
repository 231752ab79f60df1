"""All protocols of an evaluation for all its encoders, each done once however often it is interrupted.

Below the output folder: `features_ENCODER.npz` (and its tokens), `outcomes/`, `weights/` (what trainings on clips start from),
their workdirs `linear_clips/` and `finetune/`, `evaluation.json`, `results.json`, `results.md`. What was made with other
weights, videos or settings than those asked for is made anew.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from wt_jax.config import to_dict
from wt_jax.data.records import VideoList
from wt_jax.errors import ConfigError, EvaluationError
from wt_jax.eval.config import STORED, EvaluationConfig
from wt_jax.eval.encoders import Candidate, load_candidate
from wt_jax.eval.features.extract import Reading
from wt_jax.eval.features.store import FeatureFile, extract_to_file, is_current, read_features
from wt_jax.eval.protocols.finetune import train_and_predict
from wt_jax.eval.protocols.stored import Predicted, Unlabeled, judge, score
from wt_jax.eval.results import read_result, summarize, write_result, write_results
from wt_jax.eval.splits import Lists, Split, digest, open_lists
from wt_jax.eval.statistics import Result
from wt_jax.eval.validation_split import top_classes
from wt_jax.train.sharding import make_mesh, replicated
from wt_jax.train.workdir import environment

log = logging.getLogger(__name__)


def evaluate(config: EvaluationConfig, places: Mapping[str, str], folder: Path) -> str:
    """Run an evaluation.

    Args:
      config: what to do.
      places: {name: place} of the encoders, see `load_candidate`.
      folder: where everything goes; made if need be.

    Returns:
      The short table.

    Raises:
      EvaluationError, and the errors of configurations, lists, weights and checkpoints.
    """
    if config.batch_size % jax.device_count():
        count = jax.device_count()
        raise ConfigError(f"config.batch_size {config.batch_size} cannot be shared by {count} devices; take a multiple")
    lists = open_lists(config)
    candidates = [load_candidate(name, place, config) for name, place in places.items()]
    tokens = "attentive" in config.protocols
    for candidate in candidates:  # a layer that one of them lacks is told before any work
        candidate.extractor(config.layer, tokens=tokens)
    folder.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        record = {"config": to_dict(config), "encoders": dict(places), "environment": environment()}
        (folder / "evaluation.json").write_text(json.dumps(record, indent=1) + "\n")
    mesh = make_mesh()
    summaries: dict[str, dict[str, Any]] = {}
    table = ""
    for candidate in candidates:
        results = judge_candidate(candidate, config, lists, folder, mesh)
        summaries[candidate.name] = {protocol: summarize(found, lists) for protocol, found in results.items()}
        if jax.process_index() == 0:
            table = write_results(folder, summaries, lists)
    return table


def judge_candidate(
    candidate: Candidate, config: EvaluationConfig, lists: Lists, folder: Path, mesh: Mesh
) -> dict[str, list[Result]]:
    """The results of every protocol of one encoder, one per split."""
    origin = {"weights": candidate.fingerprint(config.layer), "model": to_dict(candidate.model)}
    features, sight = None, {}
    if any(protocol in STORED for protocol in config.protocols):
        features, sight = features_of(candidate, config, lists.videos, folder, mesh, origin)
    results: dict[str, list[Result]] = {}
    for protocol in config.protocols:
        results[protocol] = []
        for split in lists.splits:
            about = {
                **(sight if protocol in STORED else {**origin, "clip": to_dict(config.clip)}),
                "settings": to_dict(getattr(config.settings, protocol)),
                "seed": config.seed,
                "split": digest(lists.videos, split.train, split.test),
            }
            path = folder / "outcomes" / candidate.name / f"{split.name}_{protocol}.npz"
            result = read_result(path, about)
            if result is None:
                try:
                    if protocol in STORED:
                        result = judge_stored(protocol, features, split, lists.videos, config)
                    else:
                        result = judge_trained(protocol, candidate, split, lists.videos, config, folder, about)
                except ValueError as error:
                    if type(error) is not ValueError:  # one of the project's own, which says enough
                        raise
                    raise EvaluationError(f"{candidate.name}, {split.name}, {protocol}: {error}") from None
                if jax.process_index() == 0:
                    write_result(path, result, about)
            log.info("%s, %s, %s: %s", candidate.name, split.name, protocol, _line(result))
            results[protocol].append(result)
    return results


def features_of(
    candidate: Candidate, config: EvaluationConfig, videos: VideoList, folder: Path, mesh: Mesh, origin: dict[str, Any]
) -> tuple[FeatureFile, dict[str, Any]]:
    """The features of all videos, extracted unless they are there, and what they depend on."""
    sight = {
        **origin,
        "layer": config.layer,
        "view": to_dict(config.test_view),
        "windows": config.windows,
        "crops": config.crops,
        "videos": digest(videos),
    }
    path = folder / f"features_{candidate.name}.npz"
    tokens = "attentive" in config.protocols or is_current(path, {**sight, "tokens": True})
    reading = Reading(config.test_view, config.windows, config.crops, config.batch_size, config.workers, config.threads)
    params, model_state = jax.device_put((candidate.params, candidate.model_state), replicated(mesh))
    log.info("%s: features of %d videos, %d clips of each", candidate.name, len(videos), config.windows * config.crops)
    extract_to_file(
        path,
        candidate.extractor(config.layer, tokens=tokens),
        params,
        model_state,
        videos,
        reading,
        mesh,
        {**sight, "tokens": tokens},
        part_rows=config.part_videos,
    )
    features = read_features(path)
    bad = np.flatnonzero(~np.isfinite(features.values).all(axis=1))
    if len(bad):
        raise EvaluationError(
            f"{candidate.name}: the features of {len(bad)} of {len(features.paths)} videos are not finite, "
            f"{features.paths[bad[0]]} first; the weights are broken, or numbers overflow in {candidate.model.dtype}"
        )
    return features, sight


def judge_stored(protocol: str, features: FeatureFile, split: Split, videos: VideoList, config: EvaluationConfig) -> Result:
    """One protocol on stored features; videos that could not be decoded are in neither set."""
    row_of = {path: row for row, path in enumerate(features.paths)}

    def part(places: np.ndarray) -> tuple[Unlabeled, np.ndarray, np.ndarray]:
        places = np.array([place for place in places if videos.paths[place] in row_of], np.int64)
        rows = np.array([row_of[videos.paths[place]] for place in places], np.int64)
        return Unlabeled(features.values[rows], features.tokens, rows), videos.labels[places], places

    train, train_labels, _ = part(split.train)
    test, test_labels, items = part(split.test)
    return judge(protocol, train, train_labels, test, test_labels, items, config.stored)


def judge_trained(
    protocol: str,
    candidate: Candidate,
    split: Split,
    videos: VideoList,
    config: EvaluationConfig,
    folder: Path,
    about: dict[str, Any],
) -> Result:
    """One protocol that trains on clips: the linear probe on them, or fine-tuning. It is given no test labels.

    The names of its folders change with all that it depends on, so that no training goes on from another one's checkpoint.
    """
    settings = getattr(config.settings, protocol)
    model = candidate.export(folder / "weights" / f"{candidate.name}_{about['weights']}")
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:10]
    train, test = videos.select(split.train), videos.select(split.test)
    unlabelled = VideoList(test.paths, np.full(len(test), -1, np.int32), test.classes)
    found = train_and_predict(
        settings.config(config.data, config.clip, model, config.seed),
        unlabelled,
        folder / protocol / candidate.name / f"{split.name}_{key}",
        windows=settings.windows,
        crops=settings.crops,
        search=settings.search,
        videos=train,
    )
    ranked = top_classes(found.probabilities, np.arange(found.probabilities.shape[1]))
    predicted = Predicted({"": ranked}, [vars(found.choice)])
    return score(predicted, test.labels[found.videos], split.test[found.videos])


def _line(result: Result) -> str:
    """Means of the numbers, without intervals, for the log."""
    names: Sequence[str] = [name for name in result.values if not name.endswith("_uncentered")]
    return "  ".join(f"{name} {100 * float(np.mean(result.values[name])):.1f}" for name in names)
