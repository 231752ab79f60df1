"""Scores of several methods over several seeds: the summary, its table and its picture."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

RANDOM = "random-initialized"
SCORES = {"knn_top1": "kNN", "linear_top1": "linear", "recall@1": "R@1"}
Runs = Mapping[str, Mapping[int, Mapping[str, float]]]
Summary = dict[str, dict[str, tuple[float, float, int]]]


def summarize(runs: Runs, reference: str) -> Summary:
    """{method: {value: (mean, deviation, count)}} over the seeds of `runs` {method: {seed: {value: number}}}.

    The deviation is the sample's (n - 1), NaN for one seed. "lead" is the kNN score less that of `reference` at the same seed,
    which shares the data order and the initial seed: paired, it has less spread than a difference of means.
    """
    summary: Summary = {}
    for method, seeds in runs.items():
        columns = {name: [values[name] for values in seeds.values()] for name in next(iter(seeds.values()))}
        pairs = [seed for seed in seeds if seed in runs.get(reference, {})] if method != reference else []
        if pairs:
            columns["lead"] = [seeds[s]["knn_top1"] - runs[reference][s]["knn_top1"] for s in pairs]
        summary[method] = {name: _spread(np.asarray(column, float)) for name, column in columns.items()}
    return summary


def _spread(values: np.ndarray) -> tuple[float, float, int]:
    deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return float(values.mean()), deviation, len(values)


def format_comparison(summary: Summary, reference: str) -> str:
    """A Markdown table, best kNN first; scores in percent, mean ± deviation over seeds."""
    head = ["method", *SCORES.values(), f"kNN less {reference}", "clips/s", "memory, GiB", "parameters trained", "seeds"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for method in sorted(summary, key=lambda name: -summary[name]["knn_top1"][0]):
        values = summary[method]
        cells = [_percent(values.get(name)) for name in (*SCORES, "lead")]
        cells += [_plain(values, "clips_per_second", "{:.0f}"), _plain(values, "memory", "{:.2f}")]
        cells += [_plain(values, "parameters", "{:,.0f}"), str(values["knn_top1"][2])]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(value: tuple[float, float, int] | None) -> str:
    if value is None:
        return "–"
    mean, deviation, count = value
    return f"{100 * mean:.1f}" + (f" ± {100 * deviation:.1f}" if count > 1 else "")


def _plain(values: Mapping[str, tuple[float, float, int]], name: str, form: str) -> str:
    return form.format(values[name][0]) if name in values else "–"


def draw_comparison(summary: Summary, path: Path) -> None:
    """Each score of each method as a dot with its deviation, best kNN on top."""
    from matplotlib.figure import Figure

    methods = sorted(summary, key=lambda name: summary[name]["knn_top1"][0])
    figure = Figure(figsize=(9, 1.2 + 0.32 * len(methods)), layout="constrained")
    for axes, (name, title) in zip(np.atleast_1d(figure.subplots(1, len(SCORES), sharey=True)), SCORES.items(), strict=True):
        mean, deviation, _ = (100 * np.array(column) for column in zip(*(summary[m][name] for m in methods), strict=True))
        colors = ["tab:gray" if method == RANDOM else "tab:blue" for method in methods]
        axes.errorbar(mean, methods, xerr=np.nan_to_num(deviation), fmt="none", ecolor="lightgray", zorder=1)
        axes.scatter(mean, methods, c=colors, zorder=2)
        axes.set_title(f"{title}, %")
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
