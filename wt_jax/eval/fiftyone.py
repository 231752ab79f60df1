"""Results as FiftyOne reads them: plain JSON, written without FiftyOne.

An evaluation becomes a `fiftyone.types.FiftyOneDataset` without a schema, which FiftyOne infers (its `LegacyFiftyOneDataset`):
`metadata.json` and `samples.json`, a sample for each video. Moments that a search found become `labels.json` of a
`fiftyone.types.FiftyOneTemporalDetectionDataset`. Videos stay where they are.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wt_jax.errors import EvaluationError
from wt_jax.eval.config import EvaluationConfig
from wt_jax.eval.results import Results, outcome_file, read_outcome
from wt_jax.eval.splits import Splits, open_splits
from wt_jax.eval.statistics import Result
from wt_jax.files import write_atomic


def write_evaluation(config: EvaluationConfig, folder: Path, results: Results, out: Path) -> None:
    """Write what each protocol found for each video as a data set of FiftyOne.

    A sample has the tags SPLIT_train and SPLIT_test, the label `ground_truth`, and for each encoder and protocol the predicted
    class, in a field ENCODER_PROTOCOL, or, where a protocol predicts none, its values, in fields ENCODER_PROTOCOL_VALUE. Where
    videos may be tested in several splits, the name of the split is between ENCODER and PROTOCOL.

    Args:
      config: of the finished evaluation.
      folder: of it.
      results: of it.
      out: folder for `metadata.json` and `samples.json`; made if need be.

    Raises:
      EvaluationError: a video is no file that FiftyOne could open, results are not of videos, or two have the same field.
    """
    if any(getattr(config.settings, name).reads == "boxes" for name in config.protocols):
        raise EvaluationError("the results of 'detection' are of classes, not of videos, and FiftyOne's samples are videos")
    splits = open_splits(config)
    samples = _samples(splits)
    for encoder, protocols in results.encoders.items():
        for protocol in protocols:
            for split in splits.parts:
                outcome = read_outcome(outcome_file(folder, encoder, split.name, protocol))
                assert outcome is not None, "each result has its outcome"
                between = [] if splits.pooled or len(splits.parts) == 1 else [split.name]
                _add(samples, _field(encoder, *between, protocol), outcome, splits.videos.classes)
    numbers = {
        encoder: {name: {key: number.value for key, number in found.numbers.items()} for name, found in protocols.items()}
        for encoder, protocols in results.encoders.items()
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("metadata", {"info": {"classes": list(results.classes), "numbers": numbers}}),
        ("samples", {"samples": samples}),
    ):
        write_atomic(out / f"{name}.json", json.dumps(content, indent=1) + "\n")


def moment_labels(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Moments of a search as temporal detections, the content of `labels.json`.

    Args:
      rows: moments with "path", "start" and "end" in seconds, "score", "percentile", "label" ("" for none) and "moment".

    Returns:
      {"labels": {video: its detections}}. A video is its absolute path; a relative one is named without its extension, as
      FiftyOne names the files below its `data_path`.
    """
    labels: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        path = str(row["path"])
        labels.setdefault(path if os.path.isabs(path) else os.path.splitext(path)[0], []).append(
            {
                "label": row["label"] or "moment",
                "timestamps": [row["start"], row["end"]],
                "confidence": row["score"],
                "attributes": {name: row[name] for name in ("percentile", "moment")},
            }
        )
    return {"labels": labels}


def _samples(splits: Splits) -> list[dict[str, Any]]:
    """The videos with the splits that they are in and their true classes."""
    samples = []
    for video in splits.videos:
        if not os.path.isfile(video.path):
            raise EvaluationError(
                f"{video.path} is no file that FiftyOne could open; evaluate the videos before they are packed"
            )
        sample = {"filepath": os.path.abspath(video.path), "tags": []}
        samples.append(sample | {"ground_truth": _classification(splits.videos.classes[video.label])})
    for split in splits.parts:
        for part in ("train", "test"):
            for row in getattr(split, part):
                samples[row]["tags"].append(f"{split.name}_{part}")
    return samples


def _add(samples: list[dict[str, Any]], field: str, outcome: Result, classes: Sequence[str]) -> None:
    """Add a protocol's outcome to the samples of the videos that it tested."""
    found: dict[str, dict[int, Any]]
    if outcome.predictions is not None:
        classes_of = zip(outcome.items.tolist(), outcome.predictions.tolist(), strict=True)
        found = {field: {row: _classification(classes[int(label)]) for row, label in classes_of}}
    else:
        rows = np.unique(outcome.items).tolist()
        found = {
            _field(field, name): {row: float(values[outcome.items == row].mean()) for row in rows}
            for name, values in outcome.values.items()
        }
    for name, values in found.items():
        for row, value in values.items():
            if name in samples[row]:
                raise EvaluationError(f"two results have the field {name}; choose another name for one of the encoders")
            samples[row][name] = value


def _classification(label: str) -> dict[str, str]:
    return {"_cls": "Classification", "label": label}


def _field(*parts: str) -> str:
    """A name that a field may have: letters, digits and underscores, a letter first."""
    name = re.sub(r"\W", "_", "_".join(parts), flags=re.ASCII)
    return name if name[:1].isalpha() else f"encoder_{name}"
