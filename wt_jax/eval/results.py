"""Results on disk: one file per encoder, protocol and split, and what they come to in `results.json` and `results.md`.

`results.json` holds

    classes    names of the classes
    splits     [{"name", "train": videos in it, "test": ...}]
    encoders   {encoder: {protocol: {
        "numbers":   {name: {"value", "low", "high"}}, shares in [0, 1] with a 95 % bootstrap interval,
        "folds":     how many splits (and draws) the numbers are means over,
        "items":     how many different test videos,
        "chosen":    [{"split", and what was chosen on its training set}],
        "per_class": [accuracy of each class, null for one without test videos],
        "confusion": [[test videos of class t (row) taken for class p (column), over all splits]]}}}

with the last two only where a protocol makes one prediction per video. Names of numbers: "top1" and "top5"; "top1_sweep" of
kNN; "top1_5%" of low-shot; "recall@k" and "mean_average_precision" of retrieval, centered, and "..._uncentered".
`outcomes/ENCODER/SPLIT_PROTOCOL.npz` has what was said of each video; see `wt_jax.eval.statistics.Result`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wt_jax.eval.splits import Lists
from wt_jax.eval.statistics import Number, Result, confusion_matrix, join, per_class_accuracy
from wt_jax.eval.table import format_table

# What goes into the short table, under which heading; shares of low-shot join by their name.
_HEADINGS = {
    ("knn", "top1"): "kNN",
    ("knn", "top1_sweep"): "kNN, swept",
    ("linear", "top1"): "linear",
    ("linear_clips", "top1"): "linear on clips",
    ("attentive", "top1"): "attentive",
    ("finetune", "top1"): "fine-tuned",
    ("retrieval", "recall@1"): "R@1",
    ("retrieval", "recall@5"): "R@5",
    ("retrieval", "mean_average_precision"): "mAP",
}


def write_result(path: Path, result: Result, about: Mapping[str, Any]) -> None:
    """Write one result whole or not at all, with what it was made from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"value/{name}": values for name, values in result.values.items()}
    if result.predictions is not None:
        arrays["predictions"] = result.predictions
    text = {"chosen": json.dumps(list(result.chosen)), "about": json.dumps(about)}
    fresh = path.with_suffix(".tmp.npz")
    np.savez(fresh, items=result.items, folds=result.folds, labels=result.labels, **arrays, **text)
    fresh.replace(path)


def read_result(path: Path, about: Mapping[str, Any]) -> Result | None:
    """The result in a file, if it is there and was made from just this."""
    if not path.exists():
        return None
    with np.load(path) as file:
        if json.loads(str(file["about"])) != json.loads(json.dumps(about)):
            return None
        return Result(
            items=file["items"],
            folds=file["folds"],
            labels=file["labels"],
            values={name.removeprefix("value/"): file[name] for name in file.files if name.startswith("value/")},
            predictions=file["predictions"] if "predictions" in file.files else None,
            chosen=json.loads(str(file["chosen"])),
        )


def summarize(results: Sequence[Result], lists: Lists) -> dict[str, Any]:
    """What the results of one protocol, one per split, come to; see the module."""
    whole = join(results, one_fold=lists.pooled)
    summary: dict[str, Any] = {
        "numbers": {name: number._asdict() for name, number in whole.numbers().items()},
        "folds": len(np.unique(whole.folds)),
        "items": len(np.unique(whole.items)),
        "chosen": [
            {"split": split.name, **choice}
            for split, result in zip(lists.splits, results, strict=True)
            for choice in result.chosen
        ],
    }
    if whole.predictions is not None:
        count = len(lists.videos.classes)
        shares = per_class_accuracy(whole.predictions, whole.labels, count)
        summary["per_class"] = [None if np.isnan(share) else float(share) for share in shares]
        summary["confusion"] = confusion_matrix(whole.predictions, whole.labels, count).tolist()
    return summary


def write_results(folder: Path, encoders: Mapping[str, Mapping[str, Any]], lists: Lists) -> str:
    """Write `results.json` and `results.md`; returns the short table."""
    splits = [{"name": split.name, "train": len(split.train), "test": len(split.test)} for split in lists.splits]
    results = {"classes": list(lists.videos.classes), "splits": splits, "encoders": encoders}
    fresh = folder / "results.tmp"
    fresh.write_text(json.dumps(results, indent=1) + "\n")
    fresh.replace(folder / "results.json")
    table = short_table(encoders)
    (folder / "results.md").write_text(f"{table}\n\n{full_table(encoders)}\n")
    return table


def short_table(encoders: Mapping[str, Mapping[str, Any]]) -> str:
    """Encoders as rows, the main number of each protocol as columns, in percent with its interval."""
    rows, columns = [], {}
    for name, protocols in encoders.items():
        cells = {}
        for protocol, summary in protocols.items():
            for number, value in summary["numbers"].items():
                heading = _HEADINGS.get((protocol, number))
                if protocol == "low_shot":
                    heading = f"{number.removeprefix('top1_')} of labels"
                if heading:
                    cells[heading] = _cell(Number(**value))
                    columns[heading] = None
        rows.append((name, cells))
    return format_table(rows, list(columns))


def full_table(encoders: Mapping[str, Mapping[str, Any]]) -> str:
    """One row for each number there is."""
    rows = [
        (f"{name}, {protocol}, {number}", {"%": _cell(Number(**value)), "videos": str(summary["items"])})
        for name, protocols in encoders.items()
        for protocol, summary in protocols.items()
        for number, value in summary["numbers"].items()
    ]
    return format_table(rows, ["%", "videos"])


def _cell(number: Number) -> str:
    return f"{100 * number.value:.1f} [{100 * number.low:.1f}, {100 * number.high:.1f}]"
