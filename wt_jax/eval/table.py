"""Scores as a Markdown table."""

from collections.abc import Mapping, Sequence

import numpy as np


def format_table(rows: Sequence[tuple[str, Mapping[str, float | str]]], columns: Sequence[str]) -> str:
    """Formats scores as a Markdown table with aligned columns.

    Args:
      rows: (name, scores) with scores in [0, 1], printed in percent with one decimal, or text, printed as it is; a
        missing or NaN score is "-".
      columns: the scores to show, in this order.

    Returns:
      The table, without a newline at its end.
    """
    cells = [["", *columns]]
    for name, scores in rows:
        values = [scores.get(column, np.nan) for column in columns]
        cells.append([name, *map(_cell, values)])
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(columns) + 1)]

    def line(row: Sequence[str]) -> str:
        padded = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


def _cell(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return "-" if np.isnan(value) else f"{100 * value:.1f}"
