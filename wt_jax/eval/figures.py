"""Pictures and the table at the end of a run: curves, the views of a batch, nearest neighbours, scores.

Figures are made by `matplotlib.figure.Figure` (Agg), never by pyplot, so nothing global is touched (see "Embedding
Matplotlib", https://matplotlib.org/stable/users/explain/figure/backends.html). All choices here are ours.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_SAME, _OTHER, _PLAIN = "#1a9641", "#d7191c", "#555555"
_DPI = 120
_FRAME = 0.85  # Inches per frame of a strip.


def draw_curves(
    metrics: Sequence[Mapping[str, float]],
    path: str | Path,
    keys: Sequence[str] = ("loss", "label_entropy", "knn_top1"),
) -> None:
    """Draws one small panel per metric over the step.

    Args:
      metrics: rows of a metrics log, each with "step" and any of the keys; a row need not have them all.
      path: the PNG to write; its folder exists.
      keys: metrics to draw. One without a finite value has no panel.

    Raises:
      ValueError: none of the keys has a finite value.
    """
    curves = {}
    for key in keys:
        points = [(row["step"], row[key]) for row in metrics if key in row and np.isfinite(row[key])]
        if points:
            curves[key] = np.array(sorted(points), np.float64)
    if not curves:
        raise ValueError(f"metrics holds no finite value of {', '.join(keys)}; check the keys against the log")

    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for panel, (key, points) in zip(panels, curves.items(), strict=False):
        # A marker shows what a line cannot: a single point, and how often a rare metric was taken.
        panel.plot(points[:, 0], points[:, 1], color="#2b6cb0", linewidth=1.3, marker="." if len(points) < 40 else None)
        panel.set_title(f"{_words(key)}: {points[-1, 1]:.3g} at the end", fontsize=10)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8, labelbottom=True)
        panel.set_xlabel("step", fontsize=9)
    for panel in panels[len(curves) :]:
        panel.remove()
    figure.savefig(path, dpi=_DPI)


def draw_views(batch: Mapping[str, np.ndarray], path: str | Path, count: int = 4) -> None:
    """Draws what the encoder sees: one row per video, one column per view, a strip of frames in each cell.

    Args:
      batch: {view name: (B, T, S, S, 3) uint8 clips}, the same B videos in each; T and S may differ.
      path: the PNG to write; its folder exists.
      count: how many videos, the first of the batch; more than B means B.

    Raises:
      ValueError: no view, clips of another rank or dtype, or views of different numbers of videos.
    """
    if not batch:
        raise ValueError("batch holds no view; pass {view name: clips}")
    for name, clips in batch.items():
        _check_clips(f"view {name!r}", clips, rank=5)
    sizes = {name: len(clips) for name, clips in batch.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"views have different numbers of videos: {sizes}; pass one batch")

    count = min(count, *sizes.values())
    shown = {name: _frame_choice(clips.shape[1], 4) for name, clips in batch.items()}
    widths = [len(frames) for frames in shown.values()]
    figure = Figure(figsize=(_FRAME * sum(widths) + 0.6, (_FRAME + 0.06) * count + 0.6), layout="constrained")
    cells = figure.subplots(count, len(batch), squeeze=False, width_ratios=widths)
    for column, (name, frames) in zip(cells.T, shown.items(), strict=True):
        column[0].set_title(f"{_words(name)}\nframes {', '.join(map(str, frames))}", fontsize=9)
        for cell, clip in zip(column, batch[name], strict=False):
            _draw_strip(cell, clip[frames], _PLAIN, width=0.8)
    for number, cell in enumerate(cells[:, 0], start=1):
        cell.set_ylabel(f"video {number}", fontsize=9)
    figure.savefig(path, dpi=_DPI)


def draw_neighbours(
    query_clips: np.ndarray,
    neighbour_clips: np.ndarray,
    query_names: Sequence[str],
    neighbour_names: Sequence[Sequence[str]],
    same_class: np.ndarray | None,
    path: str | Path,
) -> None:
    """Draws queries and their nearest clips: one row per query, a green or red frame for the same or another class.

    Args:
      query_clips: (Q, T, S, S, 3) uint8.
      neighbour_clips: (Q, K, T, S, S, 3) uint8, the nearest first.
      query_names: Q names; a long one is shortened at its start.
      neighbour_names: Q rows of K names.
      same_class: (Q, K) bool, whether the neighbour is of the query's class; None where classes are unknown.
      path: the PNG to write; its folder exists.

    Raises:
      ValueError: clips of another rank or dtype, or arguments of different lengths.
    """
    _check_clips("query_clips", query_clips, rank=5)
    _check_clips("neighbour_clips", neighbour_clips, rank=6)
    queries, neighbours = neighbour_clips.shape[:2]
    known = same_class is not None
    same_class = np.asarray(same_class, bool) if known else np.zeros((queries, neighbours), bool)
    names_fit = len(neighbour_names) == queries and all(len(names) == neighbours for names in neighbour_names)
    if not names_fit or same_class.shape != (queries, neighbours) or not len(query_clips) == len(query_names) == queries:
        raise ValueError(
            f"{len(query_clips)} query clips, {len(query_names)} query names, {neighbour_clips.shape[:2]} neighbour "
            f"clips, {len(neighbour_names)} rows of names and same_class {same_class.shape} do not fit together"
        )

    frames, near_frames = _frame_choice(query_clips.shape[1], 3), _frame_choice(neighbour_clips.shape[2], 3)
    widths = [len(frames)] + [len(near_frames)] * neighbours
    figure = Figure(figsize=((_FRAME + 0.05) * sum(widths), (_FRAME + 0.35) * queries + 0.4), layout="constrained")
    figure.get_layout_engine().set(wspace=0.02, hspace=0.02)
    cells = figure.subplots(queries, 1 + neighbours, squeeze=False, width_ratios=widths)
    for row, query in enumerate(cells[:, 0]):
        heading = "query\n" if row == 0 else ""
        query.set_title(f"{heading}{_shortened(query_names[row], 10 * len(frames))}", fontsize=8)
        _draw_strip(query, query_clips[row][frames], _PLAIN, width=1)
        for column, cell in enumerate(cells[row, 1:]):
            same = same_class[row, column]
            # The mark repeats the colour for those who cannot tell green from red.
            mark, colour = ("\N{CHECK MARK} ", _SAME) if same else ("\N{BALLOT X} ", _OTHER)
            mark, colour = (mark, colour) if known else ("", _PLAIN)
            heading = f"nearest {column + 1}\n" if row == 0 else ""
            name = _shortened(neighbour_names[row][column], 10 * len(near_frames) - 2)
            cell.set_title(f"{heading}{mark}{name}", fontsize=8, color=colour)
            _draw_strip(cell, neighbour_clips[row, column][near_frames], colour, width=3)
    figure.savefig(path, dpi=_DPI)


def format_table(rows: Sequence[tuple[str, Mapping[str, float | str]]], columns: Sequence[str]) -> str:
    """Formats scores as a Markdown table with aligned columns.

    Args:
      rows: (name, scores) with scores in [0, 1], printed in percent with one decimal, or text, which stands as it is; a
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


def _check_clips(name: str, clips: np.ndarray, rank: int) -> None:
    if clips.ndim != rank or clips.shape[-1] != 3 or clips.dtype != np.uint8 or clips.size == 0:
        raise ValueError(f"{name} has shape {clips.shape} and dtype {clips.dtype}; pass uint8 clips (..., T, S, S, 3)")


def _frame_choice(length: int, count: int) -> list[int]:
    """Up to `count` frame numbers from the first to the last, evenly spaced."""
    return np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()


def _draw_strip(cell: Axes, frames: np.ndarray, colour: str, width: float) -> None:
    """Draws (F, S, S, 3) frames side by side, with thin white gaps and a border of the given colour."""
    height = frames.shape[1]
    gap = np.full((height, max(1, height // 40), 3), 255, np.uint8)
    pieces = [piece for frame in frames for piece in (frame, gap)][:-1]
    cell.imshow(np.concatenate(pieces, axis=1), interpolation="nearest")
    cell.set(xticks=[], yticks=[])
    cell.spines[:].set(color=colour, linewidth=width)


def _shortened(name: str, length: int) -> str:
    # The end of a path says more than its start.
    return name if len(name) <= length else "…" + name[1 - length :]


def _words(key: str) -> str:
    return key.replace("_", " ")
