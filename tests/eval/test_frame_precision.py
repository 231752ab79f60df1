"""Frame-mAP: cases whose answer is known, loops over detections, and the evaluator of AVA's authors.

That is not on PyPI: a clone of activitynet/ActivityNet is read from the folder that WT_JAX_OFFICIAL names, and without it the
last test is skipped.
"""

import io
import os
from pathlib import Path

import numpy as np
import pytest

from wt_jax.eval.protocols.frame_precision import Frame, frame_precisions, overlaps

LEFT, RIGHT = [0.1, 0.1, 0.4, 0.4], [0.6, 0.6, 0.9, 0.9]
NEAR_LEFT = [0.1, 0.1, 0.4, 0.35]  # overlaps LEFT by 5/6


def frame(truth, labels, boxes, scores):
    labels = np.array(labels, bool).reshape(len(truth), -1)
    scores = np.array(scores, float).reshape(len(boxes), labels.shape[1])
    return Frame(np.array(truth, float).reshape(-1, 4), labels, np.array(boxes, float).reshape(-1, 4), scores)


@pytest.mark.parametrize(
    ("boxes", "scores", "expected"),
    [
        ([LEFT], [0.9], 1.0),
        ([], [], 0.0),
        ([RIGHT], [0.9], 0.0),
        ([LEFT, NEAR_LEFT], [0.9, 0.5], 1.0),  # a second hit of lower score
        ([LEFT, NEAR_LEFT], [0.5, 0.9], 1.0),  # and of higher: the first to come has the box
        ([LEFT, RIGHT], [0.5, 0.9], 0.5),  # a false box has the highest score
        ([[0.1, 0.1, 0.1, 0.4], LEFT], [0.9, 0.5], 1.0),  # a box without area does not count
    ],
)
def test_one_annotated_box(boxes, scores, expected):
    assert frame_precisions([frame([LEFT], [1], boxes, scores)], [0])[0] == expected


def test_there_is_no_second_choice():
    truth = [[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.42]]
    # Both detections overlap the first box most, though the second is above a half with the other box too.
    boxes = [[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.49]]
    assert (overlaps(boxes, truth) > 0.5).all()
    assert frame_precisions([frame(truth, [1, 1], boxes, [0.9, 0.8])], [0])[0] == 0.5


def test_classes_frames_and_what_is_kept():
    one = frame([LEFT], [[1, 0, 0]], [LEFT, RIGHT], [[0.9, 0.3, 0.2], [0.1, 0.2, 0.9]])
    two = frame([RIGHT], [[0, 1, 0]], [RIGHT], [[0.95, 0.8, 0.1]])
    found = frame_precisions([one, two], [0, 1, 2])
    np.testing.assert_array_equal(found, [0.5, 1.0, np.nan])  # the third has no ground truth
    np.testing.assert_array_equal(frame_precisions([one, two], [1, 0]), found[[1, 0]])
    # A detection of a frame that is kept alone: class 0 of the second frame is the higher one, class 1 is dropped.
    np.testing.assert_array_equal(frame_precisions([one, two], [0, 1], most=1), [0.5, 0.0])
    squeezed = [Frame(f.truth, f.labels, f.boxes, np.tanh(f.scores)) for f in (one, two)]
    np.testing.assert_array_equal(frame_precisions(squeezed, [0, 1, 2]), found)


def random_frames(count=200, classes=6, seed=0):
    """Frames whose detections are near, doubled, or false; about a tenth has no box of an evaluated class."""
    rng, frames = np.random.default_rng(seed), []
    for _ in range(count):
        corners = np.sort(rng.random((rng.integers(1, 5), 2, 2)), axis=1)
        truth = np.concatenate([corners[:, 0], corners[:, 1] + 0.05], axis=1).clip(0, 1)
        labels = rng.random((len(truth), classes)) < 0.3
        near = truth[rng.integers(len(truth), size=12)] + rng.normal(scale=0.04, size=(12, 4))
        boxes = np.concatenate([near, rng.random((3, 4))]).clip(0, 1).round(4)  # some have no area
        frames.append(
            Frame(truth.round(4), labels, boxes, rng.permutation(15 * classes).reshape(15, classes) / 97 + rng.random())
        )
    return frames


def naive(frames, column, classes, most):
    """The average precision of a class, one detection after the other."""
    detections, taken, positives = [], set(), 0
    for number, each in enumerate(frames):
        positives += int(each.labels[:, column].sum())
        rows = [(each.scores[d, c], d, c) for d in range(len(each.boxes)) for c in classes]
        rows = sorted(rows, reverse=True)[: most or None]
        detections += [(score, number, d) for score, d, c in rows if c == column]
    right, total, area, points = 0, 0, 0.0, []
    for _, number, d in sorted(detections, reverse=True):
        each = frames[number]
        left, top, width, height = each.boxes[d, 0], each.boxes[d, 1], *(each.boxes[d, 2:] - each.boxes[d, :2])
        if width <= 0 or height <= 0:
            continue
        best, found = -1.0, None
        for g in np.flatnonzero(each.labels[:, column]):
            box = each.truth[g]
            across = max(0.0, min(left + width, box[2]) - max(left, box[0]))
            down = max(0.0, min(top + height, box[3]) - max(top, box[1]))
            shared = across * down
            overlap = shared / (width * height + (box[2] - box[0]) * (box[3] - box[1]) - shared)
            if overlap > best:
                best, found = overlap, (number, g)
        total += 1
        if best >= 0.5 and found not in taken:
            taken.add(found)
            right += 1
        points.append((right / positives, right / total))
    before = 0.0
    for place, (recall, _) in enumerate(points):
        area += (recall - before) * max(precision for _, precision in points[place:])
        before = recall
    return area


@pytest.mark.parametrize("most", [0, 10, 50])
def test_random_frames_against_loops(most):
    frames, classes = random_frames(60), [0, 2, 3, 5]
    found = frame_precisions(frames, classes, most)
    expected = [naive(frames, column, classes, most) for column in classes]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert (found > 0).all()
    assert (found < 0.9).all()


def test_random_frames_against_the_official_evaluator(monkeypatch, capsys):
    folder = Path(os.environ.get("WT_JAX_OFFICIAL", "")) / "ActivityNet" / "Evaluation"
    if not folder.is_dir() or "WT_JAX_OFFICIAL" not in os.environ:
        pytest.skip("WT_JAX_OFFICIAL names no folder with a clone of ActivityNet")
    for path in (folder, folder / "ava"):
        monkeypatch.syspath_prepend(str(path))
    for name, value in {"float": float, "bool": bool, "NAN": np.nan}.items():  # which NumPy 2 no longer has
        monkeypatch.setattr(np, name, value, raising=False)
    official = pytest.importorskip("get_ava_performance")
    frames, classes = random_frames(), [0, 2, 3, 5]

    def rows(boxes, labels, scores):
        lines = []
        for number in range(len(frames)):
            for box, row, of_box in zip(boxes(frames[number]), labels(frames[number]), scores(frames[number]), strict=True):
                place = ",".join(map(repr, map(float, box)))
                lines += [f"v,{number},{place},{c + 1},{float(of_box[c])!r}" for c in np.flatnonzero(row)]
        return "\n".join([*lines, *(f"v,{number}" for number in range(len(frames)))])  # a frame may have no annotated class

    everything = rows(lambda f: f.boxes, lambda f: np.ones_like(f.scores), lambda f: f.scores)
    files = {
        "labelmap": "".join(f'item {{\n  name: "class{c + 1}"\n  id: {c + 1}\n}}\n' for c in classes),
        "groundtruth": rows(lambda f: f.truth, lambda f: f.labels, lambda f: np.ones(f.labels.shape)),
        "detections": everything + "\nv,999,0.1,0.1,0.9,0.9,1,9.0",  # of a frame that the ground truth lacks
    }
    opened = {name: io.StringIO(text) for name, text in files.items()}
    for name, file in opened.items():
        file.name = name
    official.run_evaluation(**opened)
    printed = eval(capsys.readouterr().out, {"nan": np.nan, "np": np})
    found = frame_precisions(frames, classes)
    for c, precision in zip(classes, found, strict=True):
        assert abs(float(printed[f"PascalBoxes_PerformanceByCategory/AP@0.5IOU/class{c + 1}"]) - precision) < 1e-9
    assert abs(float(printed["PascalBoxes_Precision/mAP@0.5IOU"]) - found.mean()) < 1e-9
