"""Scores of several methods over several seeds: the summary, its table and its picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wt_jax.eval.results import BEFORE

MACHINE = ("clips_per_second", "memory", "parameters")  # what is known of a run beside its scores
Runs = Mapping[str, Mapping[int, Mapping[str, float]]]
Summary = dict[str, dict[str, tuple[float, float, int]]]


def summarize(runs: Runs, reference: str) -> Summary:
    """{method: {value: (mean, deviation, count)}} over the seeds of `runs` {method: {seed: {value: number}}}.

    The deviation is the sample's (n - 1), NaN for one seed. "lead" is the first score less that of `reference` at the same
    seed, which has the same data order and initial seed: paired, it has less spread than a difference of means.
    """
    first = scores_of(runs)[:1]
    summary: Summary = {}
    for method, seeds in runs.items():
        names = dict.fromkeys(name for values in seeds.values() for name in values)
        columns = {name: [values[name] for values in seeds.values() if name in values] for name in names}
        base = runs.get(reference, {}) if method != reference else {}
        leads = [
            seeds[s][name] - base[s][name] for name in first for s in seeds if name in seeds[s] and name in base.get(s, {})
        ]
        if leads:
            columns["lead"] = leads
        summary[method] = {name: _spread(np.asarray(column, float)) for name, column in columns.items()}
    return summary


def scores_of(runs: Mapping[str, Mapping[Any, Mapping[str, Any]]]) -> list[str]:
    """Headings of the scores, the first of which orders the table."""
    names = (name for seeds in runs.values() for values in seeds.values() for name in values)
    return [name for name in dict.fromkeys(names) if name not in MACHINE]


def _spread(values: np.ndarray) -> tuple[float, float, int]:
    deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return float(values.mean()), deviation, len(values)


def format_comparison(summary: Summary, scores: Sequence[str], reference: str) -> str:
    """A Markdown table, the best first by the first of `scores`; scores in percent, mean ± deviation over seeds."""
    lead = [f"{scores[0]} less {reference}"] if scores else []
    head = ["method", *scores, *lead, "clips/s", "memory, GiB", "parameters trained", "seeds"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for method in sorted(summary, key=lambda name: -_first(summary[name], scores)):
        values = summary[method]
        cells = [_percent(values.get(name)) for name in (*scores, *(["lead"] if lead else []))]
        cells += [_plain(values, "clips_per_second", "{:.0f}"), _plain(values, "memory", "{:.2f}")]
        cells += [_plain(values, "parameters", "{:,.0f}"), str(max(count for _, _, count in values.values()))]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _first(values: Mapping[str, tuple[float, float, int]], scores: Sequence[str]) -> float:
    return values[scores[0]][0] if scores and scores[0] in values else -1.0


def _percent(value: tuple[float, float, int] | None) -> str:
    if value is None:
        return "–"
    mean, deviation, count = value
    return f"{100 * mean:.1f}" + (f" ± {100 * deviation:.1f}" if count > 1 else "")


def _plain(values: Mapping[str, tuple[float, float, int]], name: str, form: str) -> str:
    return form.format(values[name][0]) if name in values else "–"


def draw_comparison(summary: Summary, scores: Sequence[str], path: Path) -> None:
    """Each score of each method as a dot with its deviation, the best on top."""
    from matplotlib.figure import Figure

    methods = sorted(summary, key=lambda name: _first(summary[name], scores))
    figure = Figure(figsize=(3 * max(1, len(scores)), 1.2 + 0.32 * len(methods)), layout="constrained")
    for axes, name in zip(np.ravel(figure.subplots(1, max(1, len(scores)), sharey=True)), scores, strict=False):
        shown = [method for method in methods if name in summary[method]]
        mean, deviation, _ = (100 * np.array(column) for column in zip(*(summary[m][name] for m in shown), strict=True))
        colors = ["tab:gray" if method == BEFORE else "tab:blue" for method in shown]
        axes.errorbar(mean, shown, xerr=np.nan_to_num(deviation), fmt="none", ecolor="lightgray", zorder=1)
        axes.scatter(mean, shown, c=colors, zorder=2)
        axes.set_title(f"{name}, %")
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
