"""A small set in AVA's form: squares that move, their boxes and classes at key frames, written as the authors' files are.

Each video shows three squares in columns of their own; a square slides, climbs or rests, and some of them are bright: classes
1 to 4. A still says nothing of the motion.
"""

from pathlib import Path

import numpy as np

from wt_jax.data.synthetic import write_mp4

RATE, FRAMES, SIZE, RADIUS = 8, 24, 48, 5
SECONDS = (1, 2)  # of the key frames
CLASSES = {1: "slide", 2: "climb", 3: "rest", 4: "bright"}
LABEL_MAP = "".join(f'item {{\n  name: "{name}"\n  id: {number}\n}}\n' for number, name in CLASSES.items())


def render(rng):
    """(frames, size, size, 3) uint8, and per key frame the rows (left, top, right, bottom, class) of its boxes."""
    frames = np.full((FRAMES, SIZE, SIZE, 3), 40, np.uint8)
    time, rows = np.arange(FRAMES), {second: [] for second in SECONDS}
    for column in range(3):
        motion, bright = int(rng.integers(1, 4)), rng.random() < 0.3
        swing = 3 * np.sin(2 * np.pi * (time / 8 + rng.random()))
        x = 8 + 16 * column + (swing if motion == 1 else rng.uniform(-3, 3) * np.ones(FRAMES))
        y = rng.uniform(10, SIZE - 10) + (swing if motion == 2 else np.zeros(FRAMES))
        for frame, left, top in zip(frames, np.rint(x - RADIUS).astype(int), np.rint(y - RADIUS).astype(int), strict=True):
            frame[top : top + 2 * RADIUS, left : left + 2 * RADIUS] = 240 if bright else 120
        for second in SECONDS:
            at = second * RATE
            box = [round((value + side) / SIZE, 4) for side in (-RADIUS, RADIUS) for value in (x[at], y[at])]
            rows[second] += [[*box, label] for label in (motion, *((4,) if bright else ()))]
    return frames, rows


def write_figures(folder: Path, train=12, val=6, seed=0) -> Path:
    """Videos in FOLDER/videos, annotations in FOLDER/annotations, which is returned."""
    notes = folder / "annotations"
    notes.mkdir(parents=True)
    (folder / "videos").mkdir()
    for part, (split, count) in enumerate({"train": train, "val": val}.items()):
        lines = []
        for index in range(count):
            name = f"{split}{index}"
            frames, boxes = render(np.random.default_rng((seed, part, index)))
            write_mp4(folder / "videos" / f"{name}.mp4", frames, rate=RATE)
            for second, rows in boxes.items():
                lines += [",".join(map(str, [name, f"{second:04d}", *row, 7])) for row in rows]
        (notes / f"ava_{split}_v2.2.csv").write_text("\n".join(lines) + "\n")
        (notes / f"ava_{split}_excluded_timestamps_v2.2.csv").write_text(f"{split}0,0002\n")
    (notes / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").write_text(LABEL_MAP)
    return notes
