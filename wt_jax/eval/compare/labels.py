"""How good the soft labels of compared runs were: the share of their mass on videos of the same class, against chance."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wt_jax.eval.compare.table import Runs, leads_over, scores_of

_COLUMNS = {"mass": "label_mass_same_class", "chance": "negatives_same_class"}

Quality = dict[str, list[float]]  # "step", "mass" and "chance", one value each for each log line
Labels = Mapping[str, Mapping[int, Quality]]  # by method and seed


def label_quality(metrics: Iterable[Mapping[str, Any]]) -> Quality:
    """The lines of a run's metrics that have both shares, as columns; empty where labels have no soft mass or are not known."""
    lines = [line for line in metrics if all(np.isfinite(line.get(name, np.nan)) for name in _COLUMNS.values())]
    if not lines:
        return {}
    shares = {column: [line[name] for line in lines] for column, name in _COLUMNS.items()}
    return {"step": [line["step"] for line in lines], **shares}


def late_mass(quality: Quality) -> float:
    """Mean of the share of mass over the last quarter of the lines."""
    return float(np.mean(quality["mass"][-max(1, len(quality["mass"]) // 4) :]))


def draw_labels(labels: Labels, runs: Runs, reference: str, path: Path) -> None:
    """Left the shares over the steps, mean over seeds; right each run's lead over the reference against its share at the end.

    The lead is that of the first score over the reference's run of the same seed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    over_time, against_lead = figure.subplots(1, 2)
    score = scores_of(runs)[0]
    for method, seeds in labels.items():
        lines = min(len(quality["step"]) for quality in seeds.values())
        mean = {
            column: np.mean([quality[column][:lines] for quality in seeds.values()], axis=0) for column in ("step", *_COLUMNS)
        }
        (curve,) = over_time.plot(mean["step"], 100 * mean["mass"], label=method)
        over_time.plot(mean["step"], 100 * mean["chance"], color="lightgray", linestyle="--", zorder=0)
        leads = {seed: lead for seed, lead in leads_over(runs, method, reference, score).items() if seed in seeds}
        masses = [100 * late_mass(seeds[seed]) for seed in leads]
        against_lead.scatter(masses, [100 * lead for lead in leads.values()], color=curve.get_color(), s=14)
    over_time.set(xlabel="step", ylabel="soft mass on the same class, % (dashed: chance)")
    over_time.legend()
    against_lead.axhline(0, color="lightgray", zorder=0)
    against_lead.set(xlabel="the same at the end of a run, %", ylabel=f"{score} less {reference}, points")
    figure.savefig(path, dpi=120)
