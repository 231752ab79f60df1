"""Results on disk: the outcome of each protocol per test video, and `results.json` and `results.md`, which sum them up.

A run and the evaluation command write the same `results.json`; `read_results` is its one reader.

    classes    [name of each class]
    splits     [{"name", "train": number of videos, "test": ...}]
    encoders   {encoder: {protocol: {
        "settings":  the protocol's,
        "headings":  {name of a number: its heading in the short table}, of the numbers that are reported first,
        "numbers":   {name: {"value", "low", "high"}}, fractions in [0, 1] with a 95 % bootstrap interval,
        "folds":     number of splits (and draws) that the numbers are means over,
        "items":     number of different test videos; of detection, of classes,
        "chosen":    [{"split", and what was chosen on its training set}],
        "per_class": [accuracy of each class, null for one without test videos],
        "confusion": [[number of test videos of class t (row) predicted as class p (column), over all splits]]}}}
    failures   {encoder: {protocol: the reason why there is no result}}

`per_class` and `confusion` are there where a protocol makes one prediction per video. Of a run the encoders are
"random-initialized" (before training) and "pre-trained" (`BEFORE`, `AFTER`); of the evaluation command those of `--encoders`.
Names of numbers: "top1" and "top5"; "top1_sweep" of kNN; "top1_5%" of low-shot; "recall@k" and "mean_average_precision" of
retrieval with centered sets, and "..._uncentered"; "frame_map", "frame_map_all" and "chance_map" of detection.

The evaluation command also keeps `outcomes/ENCODER/SPLIT_PROTOCOL.npz`, a `wt_jax.eval.statistics.Result` each.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wt_jax.config import to_dict
from wt_jax.errors import ConfigError
from wt_jax.eval.protocols.base import Protocol, Split
from wt_jax.eval.statistics import Number, Result, confusion_matrix, per_class_accuracy
from wt_jax.eval.table import format_table
from wt_jax.files import atomic_path, write_atomic

BEFORE, AFTER = "random-initialized", "pre-trained"


@dataclass(frozen=True)
class Summary:
    """The results of one protocol for one encoder, see the module."""

    settings: Mapping[str, Any]
    headings: Mapping[str, str]
    numbers: Mapping[str, Number]
    folds: int
    items: int
    chosen: Sequence[Mapping[str, Any]] = field(default_factory=list)
    per_class: Sequence[float | None] | None = None
    confusion: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True)
class Results:
    """A whole `results.json`, see the module."""

    classes: Sequence[str] = ()
    splits: Sequence[Mapping[str, Any]] = ()
    encoders: Mapping[str, Mapping[str, Summary]] = field(default_factory=dict)
    failures: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def headline(self, encoder: str) -> dict[str, Number]:
        """{heading: number} of what is reported first, in the order of the protocols."""
        summaries = self.encoders.get(encoder, {}).values()
        return {
            heading: summary.numbers[name]
            for summary in summaries
            for name, heading in summary.headings.items()
            if name in summary.numbers
        }

    def failure_lines(self) -> list[str]:
        """One line for each result that is missing."""
        return [f"{encoder}, {protocol}: {why}" for encoder, whys in self.failures.items() for protocol, why in whys.items()]


def summarize(protocol: Protocol, result: Result, num_classes: int) -> Summary:
    """Sum up the result of one protocol over all splits."""
    per_class = confusion = None
    if result.predictions is not None:
        accuracies = per_class_accuracy(result.predictions, result.labels, num_classes)
        per_class = [None if np.isnan(accuracy) else float(accuracy) for accuracy in accuracies]
        confusion = confusion_matrix(result.predictions, result.labels, num_classes).tolist()
    return Summary(
        settings=json.loads(json.dumps(to_dict(protocol))),
        headings=dict(protocol.headings()),
        numbers=result.numbers(),
        folds=len(np.unique(result.folds)),
        items=len(np.unique(result.items)),
        chosen=list(result.chosen),
        per_class=per_class,
        confusion=confusion,
    )


def describe_splits(splits: Sequence[Split]) -> list[dict[str, Any]]:
    """The entries of `Results.splits`."""
    return [{"name": split.name, "train": len(split.train), "test": len(split.test)} for split in splits]


def write_results(folder: Path, results: Results) -> str:
    """Write `results.json`, whole or not at all, and `results.md`; returns the short table."""
    encoders = {
        encoder: {protocol: _entry(summary) for protocol, summary in protocols.items()}
        for encoder, protocols in results.encoders.items()
    }
    text = json.dumps({**vars(results), "encoders": encoders}, indent=1)
    write_atomic(folder / "results.json", text + "\n")
    table = short_table(results)
    missing = "".join(f"\nNot evaluated: {line}\n" for line in results.failure_lines())
    (folder / "results.md").write_text(f"{table}\n{missing}\n{full_table(results)}\n")
    return table


def read_results(folder: Path) -> Results | None:
    """The results of a run or of an evaluation; None where there is no `results.json`.

    Raises:
      ConfigError: the file cannot be read.
    """
    path = folder / "results.json"
    try:
        raw = json.loads(path.read_text())
        encoders = {
            encoder: {protocol: _summary(entry) for protocol, entry in protocols.items()}
            for encoder, protocols in raw["encoders"].items()
        }
        return Results(raw["classes"], raw["splits"], encoders, raw["failures"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); remove it, or evaluate again") from None


def short_table(results: Results) -> str:
    """Encoders as rows, the numbers that are reported first as columns, in percent with their intervals."""
    rows = [(encoder, {h: _cell(n) for h, n in results.headline(encoder).items()}) for encoder in results.encoders]
    return format_table(rows, list(dict.fromkeys(heading for _, cells in rows for heading in cells)))


def full_table(results: Results) -> str:
    """One row for each number there is."""
    rows = [
        (f"{encoder}, {protocol}, {name}", {"%": _cell(number), "videos": str(summary.items)})
        for encoder, protocols in results.encoders.items()
        for protocol, summary in protocols.items()
        for name, number in summary.numbers.items()
    ]
    return format_table(rows, ["%", "videos"])


def outcome_file(folder: Path, encoder: str, split: str, protocol: str) -> Path:
    """Where an evaluation keeps the outcome of a protocol."""
    return folder / "outcomes" / encoder / f"{split}_{protocol}.npz"


def write_outcome(path: Path, result: Result, about: Mapping[str, Any]) -> None:
    """Write the outcome of one protocol on one split, whole or not at all, with what it was made from."""
    arrays: dict[str, Any] = {f"value/{name}": values for name, values in result.values.items()}
    if result.predictions is not None:
        arrays["predictions"] = result.predictions
    text: dict[str, Any] = {"chosen": json.dumps(list(result.chosen)), "about": json.dumps(about)}
    with atomic_path(path) as draft:
        np.savez(draft, items=result.items, folds=result.folds, labels=result.labels, **arrays, **text)


def read_outcome(path: Path, about: Mapping[str, Any] | None = None) -> Result | None:
    """The outcome in a file, if it is there and was made from exactly this; without `about`, from whatever it was."""
    if not path.exists():
        return None
    with np.load(path) as file:
        if about is not None and json.loads(str(file["about"])) != json.loads(json.dumps(about)):
            return None
        return Result(
            items=file["items"],
            folds=file["folds"],
            labels=file["labels"],
            values={name.removeprefix("value/"): file[name] for name in file.files if name.startswith("value/")},
            predictions=file["predictions"] if "predictions" in file.files else None,
            chosen=json.loads(str(file["chosen"])),
        )


def _entry(summary: Summary) -> dict[str, Any]:
    """A summary as JSON has it, without the parts that its protocol lacks."""
    numbers = {name: number._asdict() for name, number in summary.numbers.items()}
    return {name: value for name, value in {**vars(summary), "numbers": numbers}.items() if value is not None}


def _summary(entry: Mapping[str, Any]) -> Summary:
    numbers = {name: Number(**number) for name, number in entry["numbers"].items()}
    return Summary(**{**entry, "numbers": numbers})


def _cell(number: Number) -> str:
    return f"{100 * number.value:.1f} [{100 * number.low:.1f}, {100 * number.high:.1f}]"
