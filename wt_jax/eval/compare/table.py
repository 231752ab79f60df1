"""Scores of several methods over several seeds: the summary, its table and its picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wt_jax.eval.results import BEFORE

MACHINE = ("clips_per_second", "memory", "parameters")  # what is known of a run beside its scores
_RESAMPLES = 10_000


class Spread(NamedTuple):
    """A value over seeds.

    Attributes:
      mean, deviation: the deviation is the sample's (n - 1), NaN for one seed.
      count: how many seeds.
      low, high: 95 % percentile bootstrap interval of the mean, seeds drawn with replacement; NaN for one seed.
    """

    mean: float
    deviation: float
    count: int
    low: float = float("nan")
    high: float = float("nan")


Runs = Mapping[str, Mapping[int, Mapping[str, float]]]
Summary = dict[str, dict[str, Spread]]


def summarize(runs: Runs, reference: str) -> Summary:
    """{method: {value: spread}} over the seeds of `runs` {method: {seed: {value: number}}}.

    "lead" is the first score less that of `reference` at the same seed, which has the same data order and initial seed: paired,
    it has less spread than a difference of means.
    """
    first = scores_of(runs)[:1]
    summary: Summary = {}
    for method, seeds in runs.items():
        names = dict.fromkeys(name for values in seeds.values() for name in values)
        columns = {name: [values[name] for values in seeds.values() if name in values] for name in names}
        leads = [lead for name in first for lead in leads_over(runs, method, reference, name).values()]
        if leads:
            columns["lead"] = leads
        summary[method] = {name: _spread(np.asarray(column, float)) for name, column in columns.items()}
    return summary


def leads_over(runs: Runs, method: str, reference: str, score: str) -> dict[int, float]:
    """{seed: a method's score less that of `reference`} over the seeds that both have; none of the reference itself."""
    seeds, base = runs[method], runs.get(reference, {}) if method != reference else {}
    return {s: seeds[s][score] - base[s][score] for s in seeds if score in seeds[s] and score in base.get(s, {})}


def scores_of(runs: Mapping[str, Mapping[Any, Mapping[str, Any]]]) -> list[str]:
    """Headings of the scores, the first of which orders the table."""
    names = (name for seeds in runs.values() for values in seeds.values() for name in values)
    return [name for name in dict.fromkeys(names) if name not in MACHINE]


def _spread(values: np.ndarray) -> Spread:
    if len(values) < 2:
        return Spread(float(values.mean()), float("nan"), len(values))
    drawn = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return Spread(float(values.mean()), float(values.std(ddof=1)), len(values), float(low), float(high))


def format_comparison(summary: Summary, scores: Sequence[str], reference: str, ceiling: str = "") -> str:
    """A Markdown table, the best first by the first of `scores`; scores in percent, mean ± deviation over seeds.

    Leads have their 95 % interval, and with a method `ceiling` the share that they are of its lead.
    """
    lead = [f"{scores[0]} less {reference}"] if scores else []
    possible = summary[ceiling]["lead"].mean if lead and "lead" in summary.get(ceiling, {}) else None
    share = [] if possible is None else [f"share of {ceiling}'s lead"]
    head = ["method", *scores, *lead, *share, "clips/s", "memory, GiB", "parameters trained", "seeds"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for method in sorted(summary, key=lambda name: -_first(summary[name], scores)):
        values = summary[method]
        cells = [_percent(values.get(name)) for name in scores]
        cells += [_lead(values.get("lead"))] if lead else []
        cells += [f"{values['lead'].mean / possible:.0%}" if "lead" in values and possible else "–"] if share else []
        cells += [_plain(values, "clips_per_second", "{:.0f}"), _plain(values, "memory", "{:.2f}")]
        cells += [_plain(values, "parameters", "{:,.0f}"), str(max(value.count for value in values.values()))]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _first(values: Mapping[str, Spread], scores: Sequence[str]) -> float:
    return values[scores[0]].mean if scores and scores[0] in values else -1.0


def _percent(value: Spread | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value.mean:.1f}" + (f" ± {100 * value.deviation:.1f}" if value.count > 1 else "")


def _lead(value: Spread | None) -> str:
    interval = f" [{100 * value.low:.1f}, {100 * value.high:.1f}]" if value and value.count > 1 else ""
    return _percent(value) + interval


def _plain(values: Mapping[str, Spread], name: str, form: str) -> str:
    return form.format(values[name].mean) if name in values else "–"


def draw_comparison(summary: Summary, scores: Sequence[str], path: Path) -> None:
    """Each score of each method as a dot with its deviation, the best on top."""
    from matplotlib.figure import Figure

    methods = sorted(summary, key=lambda name: _first(summary[name], scores))
    figure = Figure(figsize=(3 * max(1, len(scores)), 1.2 + 0.32 * len(methods)), layout="constrained")
    for axes, name in zip(np.ravel(figure.subplots(1, max(1, len(scores)), sharey=True)), scores, strict=False):
        shown = [method for method in methods if name in summary[method]]
        mean, deviation = (100 * np.array([summary[m][name][i] for m in shown]) for i in range(2))
        colors = ["tab:gray" if method == BEFORE else "tab:blue" for method in shown]
        axes.errorbar(mean, shown, xerr=np.nan_to_num(deviation), fmt="none", ecolor="lightgray", zorder=1)
        axes.scatter(mean, shown, c=colors, zorder=2)
        axes.set_title(f"{name}, %")
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
