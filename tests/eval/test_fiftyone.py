"""Results as FiftyOne's files: the layout that it documents, and each video's true and predicted class."""

import dataclasses
import json

import numpy as np
import pytest

from wt_jax.data.records import VideoList
from wt_jax.errors import EvaluationError
from wt_jax.eval.config import default_evaluation, resolve_evaluation
from wt_jax.eval.fiftyone import moment_labels, write_evaluation
from wt_jax.eval.results import Results, summarize, write_outcome
from wt_jax.eval.splits import Splits, open_splits
from wt_jax.eval.statistics import Result, join

ROWS = [
    {"path": "a/x.1.mp4", "start": 1.0, "end": 2.5, "score": 0.9, "percentile": 99.5, "label": "walk", "moment": 3},
    {"path": "b/y.avi", "start": 0.0, "end": 1.5, "score": 0.7, "percentile": 90.0, "label": "", "moment": 8},
    {"path": "a/x.1.mp4", "start": 4.0, "end": 5.5, "score": 0.6, "percentile": 80.0, "label": "walk", "moment": 5},
]


@pytest.fixture
def evaluated(tmp_path):
    """An evaluation's configuration, folder and results: made by hand from 6 + 4 files, one of two encoders tested by kNN."""
    for part, count in (("train", 6), ("test", 4)):
        for number in range(count):
            path = tmp_path / "lists" / part / ("walk" if number % 2 else "run") / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    config = default_evaluation()
    changes = {
        "lists": str(tmp_path / "lists"),
        "splits": (("train", "test"), ("test", "train")),
        "protocols": ("knn", "retrieval"),
    }
    config.update_from_flattened_dict(changes)
    config = resolve_evaluation(config)
    splits, folder = open_splits(config), tmp_path / "evaluation"
    rng = np.random.default_rng(0)
    encoders: dict = {"2-nd": {}, "random": {}}
    for encoder, protocol in (("2-nd", "knn"), ("random", "knn"), ("random", "retrieval")):
        outcomes = []
        for split in splits.parts:
            items, labels = split.test, splits.videos.labels[split.test]
            predictions = rng.integers(0, 2, len(items)) if protocol == "knn" else None
            values = {"top1": predictions == labels} if protocol == "knn" else {"recall@1": rng.integers(0, 2, len(items))}
            outcomes.append(Result(items, np.zeros(len(items), np.int32), labels, values, predictions))
            write_outcome(folder / "outcomes" / encoder / f"{split.name}_{protocol}.npz", outcomes[-1], {})
        encoders[encoder][protocol] = summarize(getattr(config.settings, protocol), join(outcomes), 2)
    return config, folder, Results(list(splits.videos.classes), (), encoders)


def test_each_video_is_a_sample_with_its_classes_and_numbers(evaluated, tmp_path):
    config, folder, results = evaluated
    write_evaluation(config, folder, results, tmp_path / "out")
    metadata, samples = (json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("metadata", "samples"))
    assert "version" not in metadata  # with one FiftyOne would expect a schema
    assert metadata["info"]["classes"] == ["run", "walk"]
    assert metadata["info"]["numbers"]["random"]["knn"]["top1"] == results.encoders["random"]["knn"].numbers["top1"].value
    assert list(samples) == ["samples"]
    samples = {sample["filepath"]: sample for sample in samples["samples"]}
    assert sorted(samples) == sorted(map(str, (tmp_path / "lists").rglob("*.mp4")))
    for path, sample in samples.items():
        training = "/train/" in path
        assert sample["tags"] == (["split1_train", "split2_test"] if training else ["split1_test", "split2_train"])
        assert sample["ground_truth"] == {"_cls": "Classification", "label": path.split("/")[-2]}
        split = "split2" if training else "split1"
        fields = {f"encoder_2_nd_{split}_knn", f"random_{split}_knn", f"random_{split}_retrieval_recall_1"}
        assert sample.keys() == {"filepath", "tags", "ground_truth", *fields}
        assert all(sample[field]["_cls"] == "Classification" for field in fields if field.endswith("_knn"))
    for encoder, start in (("2-nd", "encoder_2_nd"), ("random", "random")):
        right = [
            [
                s[f"{start}_{split}_knn"]["label"] == s["ground_truth"]["label"]
                for s in samples.values()
                if f"{split}_test" in s["tags"]
            ]
            for split in ("split1", "split2")
        ]
        top1 = results.encoders[encoder]["knn"].numbers["top1"].value
        assert np.mean([np.mean(hits) for hits in right]) == pytest.approx(top1)
    found = [[s["random_split1_retrieval_recall_1"] for s in samples.values() if "split1_test" in s["tags"]]]
    with np.load(folder / "outcomes" / "random" / "split1_retrieval.npz") as file:
        assert sorted(found[0]) == sorted(file["value/recall@1"].tolist())


def test_what_fiftyone_could_not_open_or_confuses_is_refused(evaluated, tmp_path, monkeypatch):
    config, folder, results = evaluated
    (folder / "outcomes" / "2_nd").symlink_to(folder / "outcomes" / "2-nd")
    alike = Results(results.classes, (), {name: {"knn": results.encoders["2-nd"]["knn"]} for name in ("2-nd", "2_nd")})
    with pytest.raises(EvaluationError, match="two results have the field encoder_2_nd_split1_knn"):
        write_evaluation(config, folder, alike, tmp_path / "out")
    shard = VideoList(("shard.array_record#0",), np.zeros(1, np.int32), ("run",))
    monkeypatch.setattr("wt_jax.eval.fiftyone.open_splits", lambda _: Splits(shard, (), pooled=False))
    with pytest.raises(EvaluationError, match=r"shard.array_record#0 is no file that FiftyOne could open"):
        write_evaluation(config, folder, results, tmp_path / "out")
    detection = dataclasses.replace(config, protocols=("detection",))
    with pytest.raises(EvaluationError, match="of classes, not of videos"):
        write_evaluation(detection, folder, results, tmp_path / "out")


def test_moments_are_temporal_detections():
    assert moment_labels(ROWS) == {
        "labels": {
            "a/x.1": [
                {
                    "label": "walk",
                    "timestamps": [start, end],
                    "confidence": score,
                    "attributes": {"percentile": percentile, "moment": moment},
                }
                for start, end, score, percentile, moment in ((1.0, 2.5, 0.9, 99.5, 3), (4.0, 5.5, 0.6, 80.0, 5))
            ],
            "b/y": [
                {
                    "label": "moment",
                    "timestamps": [0.0, 1.5],
                    "confidence": 0.7,
                    "attributes": {"percentile": 90.0, "moment": 8},
                }
            ],
        }
    }
    assert list(moment_labels([{**ROWS[0], "path": "/archive/a/x.1.mp4"}])["labels"]) == ["/archive/a/x.1.mp4"]
