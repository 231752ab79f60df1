"""Detection from the authors' files to frame-mAP: lists, a training, what is scored, and the page."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from support.figures import CLASSES, SIZE, write_figures

from wt_jax.data.boxes import find_boxes
from wt_jax.data.pipeline import eval_batches
from wt_jax.data.sources.open import open_source
from wt_jax.errors import ConfigError, SourceError
from wt_jax.eval import box_training
from wt_jax.eval.config import default_evaluation, resolve_evaluation
from wt_jax.eval.evaluate import evaluate
from wt_jax.eval.protocols.detection import Detection, Detections
from wt_jax.eval.report import render as render_report
from wt_jax.eval.report.detections import COLORS, drawn
from wt_jax.eval.results import read_results
from wt_jax.methods.detection import DetectionSettings
from wt_jax.specs import BoxView, ClipView
from wt_jax.tools.make_lists import make_lists


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    notes = write_figures(folder)
    lines = make_lists("ava", notes, folder / "videos", folder / "lists")
    return folder / "lists", lines


def config_of(folder, **changes):
    config = default_evaluation()
    config.lists, config.splits = str(folder), (("ava_train.csv", "ava_val.csv"),)
    config.clip.num_frames, config.clip.size, config.clip.stride = 4, 32, 2.0
    config.model.name, config.model.width, config.model.norm = "small_r2plus1d", 8, "group"
    config.protocols = ("detection",)
    settings = config.settings.detection
    settings.method.boxes, settings.classes = str(folder / "ava_boxes.csv"), str(folder / "ava_classes.csv")
    settings.method.num_classes, settings.method.most = 5, 3
    settings.train.duration, settings.train.batch_size, settings.optim.name = "3 steps", 4, "adamw"
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return resolve_evaluation(config)


def test_official_files_become_lists_and_tables(figures):
    lists, lines = figures
    assert "ava_train.csv: 23 key frames of 12 videos, 12 annotated, officially 235" in lines[0]
    videos = open_source(str(lists / "ava_val.csv"))
    assert [record.time for record in videos][:3] == [1.0, 1.0, 2.0]  # the second of the first video is excluded
    assert not videos.classes
    with (lists / "ava_boxes.csv").open() as file:
        rows = list(csv.reader(file))
    assert {row[0] for row in rows} == {f"train{i}" for i in range(12)} | {f"val{i}" for i in range(6)}
    assert not [row for row in rows if row[:2] == ["val0", "2"]]
    with (lists / "ava_classes.csv").open() as file:
        assert {int(number): name for number, name in csv.reader(file)} == CLASSES
    # A box lies where its square is in the key frame: the square alone is brighter than the ground.
    record = videos[4]
    boxes, labels = find_boxes(record, BoxView(str(lists / "ava_boxes.csv"), 3, 5))
    clip = next(eval_batches(videos.select([4]), ClipView(num_frames=1, size=SIZE, crop="resize"), windows=1, batch_size=1))
    frame = clip["clip"][0, 0, 0].mean(axis=-1)
    assert labels.shape == (3, 5)
    assert labels.any(axis=1).all()
    for left, top, right, bottom in np.rint(boxes * SIZE).astype(int):
        assert frame[top + 1 : bottom - 1, left + 1 : right - 1].min() > 80
    inside = sum((right - left) * (bottom - top) for left, top, right, bottom in np.rint(boxes * SIZE).astype(int))
    assert (frame > 80).sum() <= inside + 30


def test_cut_videos_missing_ones_and_detected_boxes(tmp_path):
    notes = write_figures(tmp_path, train=2, val=1)
    (tmp_path / "videos" / "train1.mp4").unlink()
    below = notes / "person_box"
    below.mkdir()
    rows = ["val0,0001,0.1,0.1,0.5,0.5,,0.95", "val0,0001,0.1,0.1,0.5,0.6,,0.5", "val0,0002,0.1,0.1,0.5,0.5,,0.95"]
    (below / "ava_detection_val_boxes_and_labels.csv").write_text("\n".join(rows) + "\n")
    lines = make_lists("ava", notes, tmp_path / "videos", tmp_path / "out", start=1)
    assert "1 key frames of 1 videos, 2 annotated, officially 235; 1 missing (train1)" in lines[0]
    assert (tmp_path / "out" / "ava_train_missing.txt").read_text() == "train1\n"
    # Seconds count from the start; of detected boxes the likely ones of frames that are not excluded are there.
    assert (tmp_path / "out" / "ava_detected.csv").read_text() == "val0,0,0.1,0.1,0.5,0.5,,0.95\n"
    with pytest.raises(SourceError, match=r"--start=1\.5: train0 has a key frame before it"):
        make_lists("ava", notes, tmp_path / "videos", tmp_path / "out", start=1.5)
    next(notes.glob("*.pbtxt")).unlink()
    with pytest.raises(SourceError, match="the classes that are evaluated"):
        make_lists("ava", notes, tmp_path / "videos", tmp_path / "out")


@pytest.fixture(scope="module")
def evaluated(figures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    return folder, evaluate(config_of(figures[0]), {"random": "random"}, folder)


def test_a_detector_is_trained_scored_and_kept(evaluated, figures, monkeypatch):
    folder, results = evaluated
    summary = results.encoders["random"]["detection"]
    assert not results.failures
    assert set(summary.numbers) == {"frame_map", "frame_map_all", "chance_map"}
    assert 0 < summary.numbers["frame_map"].value <= 1
    assert read_results(folder).headline("random")["frame-mAP@0.5, annotated boxes"] == summary.numbers["frame_map"]
    (file,) = folder.glob("detection/random/*/split1/detections.csv")
    with file.open() as opened:
        rows = list(csv.reader(opened))
    assert len(rows) == 11 * 3 * 5  # key frames, boxes, classes
    scores = np.array([float(row[7]) for row in rows])
    assert ((scores > 0) & (scores < 1)).all()
    monkeypatch.setattr(box_training, "train", None)  # nothing is left to train
    again = evaluate(config_of(figures[0]), {"random": "random"}, folder)
    assert again.encoders["random"]["detection"].numbers == summary.numbers


def test_perfect_scores_have_map_1_through_the_whole_chain(figures):
    lists, _ = figures
    videos = open_source(str(lists / "ava_val.csv"))
    protocol = Detection(DetectionSettings(str(lists / "ava_boxes.csv"), 5), classes=str(lists / "ava_classes.csv"))
    truths = [find_boxes(record, protocol.truth) for record in videos]
    perfect = Detections(list(videos), [boxes for boxes, _ in truths], [labels.astype(np.float32) for _, labels in truths])
    numbers = protocol.score(perfect).numbers()
    assert numbers["frame_map"].value == numbers["frame_map_all"].value == 1
    assert 0.1 < numbers["chance_map"].value < 0.7
    shifted = replace(perfect, boxes=[boxes + 0.4 for boxes in perfect.boxes])
    assert protocol.score(shifted).numbers()["frame_map"].value < 0.1


def test_the_report_shows_boxes_on_moving_frames(evaluated):
    folder, _ = evaluated
    page = render_report(folder, "An evaluation has no pictures of its own.")
    section = page[page.index('<section id="detections">') :]
    section = section[: section.index("</section>")]
    assert section.count('<span class="clip"') == box_training.SHOWN
    assert section.count('<span class="detected">') == 3 * box_training.SHOWN
    kept = json.loads(next(folder.glob("detection/*/*/*/detection_examples.json")).read_text())
    assert all(frame["path"].endswith(".mp4") and len(frame["boxes"]) == 3 for frame in kept)
    assert {found["name"] for box in kept[0]["boxes"] for found in box["likeliest"]} <= set(CLASSES.values())
    clip = np.zeros((2, 21, 21, 3), np.uint8)
    shown = drawn(clip, np.array([[0.25, 0.5, 0.75, 1.0]]))
    assert (shown[:, 10, 5:16] == COLORS[0]).all()
    assert not shown[:, :10].any()
    assert not clip.any()


def test_what_cannot_work_is_named(figures, tmp_path):
    lists, _ = figures

    def fails(match, **changes):
        with pytest.raises(ConfigError, match=match):
            evaluate(config_of(lists, **changes), {"random": "random"}, tmp_path)

    fails("boxes is empty", settings__detection__method__boxes="")
    fails("nowhere.csv: the boxes cannot be read", settings__detection__detected="nowhere.csv")
    fails("has class 4, .* is 3", settings__detection__method__num_classes=3)
    fails("reads key frames, the others videos", protocols=("detection", "knn"))
    (tmp_path / "list.csv").write_text(f"path,label\n{lists.parent / 'videos' / 'val0.mp4'},a\n")
    fails("has no column 'time'", lists=str(tmp_path), splits=(("list.csv", "list.csv"),))


@pytest.mark.slow
def test_detection_is_learned_above_chance(tmp_path):
    notes = write_figures(tmp_path, train=160, val=80)
    lists = tmp_path / "lists"
    make_lists("ava", notes, tmp_path / "videos", lists)
    learned = {
        "train__duration": "300 steps",
        "train__batch_size": 16,
        "optim__learning_rate": 0.03,
        "optim__schedule": "cosine",
        "optim__warmup": "5 %",
        "optim__weight_decay": 0.01,
        "method__bins": 3,
        "strong__area": (0.5, 1.0),
    }
    changes = {f"settings__detection__{key}": value for key, value in learned.items()}
    config = config_of(lists, clip__num_frames=8, clip__stride=1.0, model__width=16, **changes)
    numbers = evaluate(config, {"random": "random"}, tmp_path / "out").encoders["random"]["detection"].numbers
    assert numbers["frame_map"].value > numbers["chance_map"].value + 0.3
