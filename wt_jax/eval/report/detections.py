"""The part of a report that shows detections: boxes on moving frames, with their likeliest classes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wt_jax.data.boxes import crop_boxes
from wt_jax.data.pipeline import eval_batches
from wt_jax.data.records import TIME, VideoList
from wt_jax.eval.box_training import EXAMPLES
from wt_jax.eval.report.media import SIDE, strip
from wt_jax.train.workdir import read_config

MOST_DETECTORS = 4
COLORS = ((255, 120, 60), (80, 200, 255), (255, 225, 80), (200, 130, 255), (110, 230, 120), (255, 150, 200))  # RGB


def detections(workdir: Path) -> list[dict[str, Any]] | str:
    """The frames that each detector of an evaluation, or of a detection's own workdir, has kept for the report.

    Raises:
      ConfigError, VideoError, ValueError: a file or a video cannot be read.
    """
    files = [*workdir.glob(EXAMPLES), *sorted(workdir.glob(f"detection/*/*/*/{EXAMPLES}"))]
    if not files:
        return "There are no detections: the protocol `detection` was not run."
    return [_detector(file) for file in files[:MOST_DETECTORS]]


def _detector(file: Path) -> dict[str, Any]:
    frames = json.loads(file.read_text())
    view = read_config(file.parent).test_view
    paths, times = tuple(frame["path"] for frame in frames), tuple(f"{frame['time']:g}" for frame in frames)
    videos = VideoList(paths, np.full(len(paths), -1, np.int32), columns={TIME: times})
    rows = []
    batches = eval_batches(videos, replace(view, size=SIDE), windows=1, batch_size=1)
    for frame, batch in zip(frames, batches, strict=True):
        edges = np.array([box["edges"] for box in frame["boxes"]], np.float32).reshape(-1, 4)
        boxes = [{**box, "color": f"rgb{_color(number)}"} for number, box in enumerate(frame["boxes"])]
        clip = drawn(batch["clip"][0, 0], crop_boxes(edges, batch["geometry"][0, 0])[0])
        name = f"{Path(frame['path']).name}, {frame['time']:g} s"
        rows.append({"name": name, "strip": strip(clip), "boxes": boxes})
    return {"encoder": " ".join(file.parts[-4:-3]) if len(file.parts) > 4 else "", "split": file.parent.name, "rows": rows}


def drawn(clip: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """A copy of a clip (T, S, S, 3) uint8 with boxes (M, 4), relative to it, on every frame: those of its key frame."""
    clip, size = clip.copy(), clip.shape[1]
    for number, box in enumerate(np.rint(boxes * (size - 1)).astype(int).tolist()):
        for frame in clip:
            cv2.rectangle(frame, tuple(box[:2]), tuple(box[2:]), _color(number), 1)
    return clip


def _color(number: int) -> tuple[int, int, int]:
    return COLORS[number % len(COLORS)]
