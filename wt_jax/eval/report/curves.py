"""Training curves as SVG: one small panel per metric, drawn from the rows of `metrics.jsonl`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 320, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 22
_POINTS = 400  # of a longer curve, each point is the mean of equally many rows
_FIRST = ("loss", "knn_top1")
_MACHINE = ("learning_rate", "clips_per_second", "data_wait", "seconds_left", "mfu", "failed")


@dataclass(frozen=True)
class Panel:
    """One curve in an SVG of WIDTH x HEIGHT.

    Attributes:
      name: the metric.
      path: the line, as an SVG path.
      points: (x, y, step, value) of each point, for those who point at it.
      x_ticks, y_ticks: (position, text).
      last: text of the last value.
      averaged: how many rows were averaged into one point; 1: none.
      machine: whether it is a metric of the machine or the schedule rather than of the learning.
    """

    name: str
    path: str
    points: list[tuple[float, float, int, str]]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    last: str
    averaged: int
    machine: bool


def panels(metrics: Sequence[Mapping[str, float]]) -> tuple[list[Panel], dict[str, str]]:
    """A panel of each metric that changes, the most telling first, and the values of those that do not change."""
    values: dict[str, list[tuple[float, float]]] = {}
    for row in metrics:
        for name, value in row.items():
            if name != "step" and math.isfinite(value):
                values.setdefault(name, []).append((row["step"], value))

    def rank(name: str) -> tuple[int, bool, str]:
        return (_FIRST.index(name) if name in _FIRST else len(_FIRST)), not name.startswith("loss"), name

    drawn, constant = [], {}
    for name in sorted(values, key=rank):
        rows = np.array(sorted(values[name]), np.float64)
        if len(rows) > 1 and np.ptp(rows[:, 1]) == 0:
            constant[name] = number(rows[0, 1])
        else:
            drawn.append(_panel(name, rows))
    return drawn, constant


def number(value: float) -> str:
    """Three significant digits, without an exponent where that stays short."""
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _panel(name: str, rows: np.ndarray) -> Panel:
    averaged = -(-len(rows) // _POINTS)
    last = number(rows[-1, 1])
    pieces = [rows[start : start + averaged] for start in range(0, len(rows), averaged)]
    shown = np.array([piece.mean(axis=0) for piece in pieces])
    x_ticks, y_ticks = _ticks(*_reach(shown[:, 0])), _ticks(*_reach(shown[:, 1]))
    low, high = (min(y_ticks[0], shown[:, 1].min()), max(y_ticks[-1], shown[:, 1].max()))
    start, end = _reach(shown[:, 0])

    def x(step: float) -> float:
        return round(_LEFT + (step - start) / (end - start) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM), 1)

    points = [(x(step), y(value), round(step), number(value)) for step, value in shown]
    return Panel(
        name=name,
        path="M" + "L".join(f"{px} {py}" for px, py, _, _ in points),
        points=points,
        x_ticks=[(min(x(step), WIDTH - 4.0 * len(number(step))), number(step)) for step in x_ticks],
        y_ticks=[(y(value), number(value)) for value in y_ticks],
        last=last,
        averaged=averaged,
        machine=name in _MACHINE,
    )


def _reach(values: np.ndarray) -> tuple[float, float]:
    """Least and largest value, a little apart where they are the same."""
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within [low, high], three to seven of them."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]
