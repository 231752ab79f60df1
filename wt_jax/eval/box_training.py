"""Training a detector of actions by the ordinary trainer, and its classes for the boxes of test frames.

The settings are `wt_jax.eval.protocols.detection.Detection`.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from wt_jax.augment import finish_view
from wt_jax.cluster.processes import is_primary_process
from wt_jax.config import ClipConfig, Config, DataConfig, ModelConfig, ViewsConfig
from wt_jax.data.boxes import crop_boxes, find_boxes
from wt_jax.data.pipeline import describe_failure, eval_batches
from wt_jax.data.records import VideoList
from wt_jax.data.sources.text import headless_csv
from wt_jax.errors import EvaluationError
from wt_jax.eval.config import EvalConfig, FeatureConfig
from wt_jax.eval.features.extract import gather_rows, local_rows
from wt_jax.eval.protocols.base import Split
from wt_jax.eval.protocols.detection import Detection, Detections
from wt_jax.eval.protocols.frame_precision import OVERLAP, overlaps
from wt_jax.eval.run import EvaluatedRun, prepare
from wt_jax.eval.split_trainer import SplitTrainer
from wt_jax.files import write_atomic
from wt_jax.methods.base import evaluated_tree
from wt_jax.methods.detection import Detection as Method
from wt_jax.progress import Progress
from wt_jax.specs import BoxView, PixelSpec
from wt_jax.train.loop import train
from wt_jax.train.sharding import put_batch
from wt_jax.train.step import TrainState
from wt_jax.train.workdir import open_workdir

log = logging.getLogger(__name__)

# In the workdir of a training: all detections, in AVA's columns; and some frames, for the report.
DETECTIONS, EXAMPLES = "detections.csv", "detection_examples.json"
SHOWN, BEST = 6, 3  # frames, and the likeliest classes of each of their boxes


class FrameDetector(SplitTrainer):
    """Trains detectors; a `wt_jax.eval.protocols.detection.DetectorTrainer`. Its videos are key frames."""

    def detect(self, training: Detection, split: Split, seed: int) -> Detections:
        """Train on `split.train`, from the last checkpoint if there is one, and classify the boxes of `split.test`."""
        workdir, test = self.workdir / split.name, self.videos.select(split.test)
        run = prepare(detection_config(training, self.data, self.clip, self.model, seed), self.videos.select(split.train))
        open_workdir(workdir, run.config)
        found = classify(run, train(run, workdir), test, training)
        if is_primary_process():
            write_atomic(workdir / DETECTIONS, detections_csv(found))
            write_atomic(workdir / EXAMPLES, json.dumps(examples(found, training), indent=1) + "\n")
        return found


def detection_config(training: Detection, data: DataConfig, clip: ClipConfig, model: ModelConfig, seed: int = 0) -> Config:
    """The training; the encoder starts from `model.weights`, or at random if it is empty."""
    views = ViewsConfig(strong=training.strong, test=training.test)
    test = EvalConfig(features=FeatureConfig(windows=1, batch_size=training.batch_size), online=(), protocols=())
    train_config = replace(training.train, eval_every="0 steps")
    return Config("detection", training.method, seed, data, clip, views, model, training.optim, train_config, test)


def classify(run: EvaluatedRun, state: TrainState, test: VideoList, training: Detection) -> Detections:
    """Classes of the boxes of test frames, as far as the frame can be decoded and the crop shows the box.

    Raises:
      EvaluationError: no frame could be decoded.
    """
    table = training.detected or training.method.boxes
    wanted = [find_boxes(record, BoxView(table, 1, training.method.num_classes))[0] for record in test]
    most, view = max(1, max(map(len, wanted))), run.config.test_view
    method, mesh, data = cast(Method, run.program.method), run.program.mesh, run.config.data
    trees = evaluated_tree(method.evaluated, state)

    @jax.jit
    def predict(params: Any, model_state: Any, clips: jax.Array, boxes: jax.Array) -> jax.Array:
        still = jnp.zeros(len(clips), jnp.int32)
        finished = finish_view(clips, still, jax.random.key(0), PixelSpec())
        return method.predict(params, model_state, finished, boxes)

    progress, rows = Progress("detection", len(test), "frame"), []
    batches = eval_batches(
        test,
        view,
        windows=1,
        batch_size=training.batch_size,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
        workers=data.workers,
        threads=data.threads,
    )
    for batch in batches:
        valid, frames = batch["valid"], batch["video"]
        for frame in frames[~valid & (frames >= 0)]:
            log.warning("left out of the evaluation: %s", describe_failure(test[int(frame)], {"clip": view}))
        boxes = np.zeros((len(frames), most, 4), np.float32)
        part = np.zeros((len(frames), most), np.float32)
        for row in np.flatnonzero(valid):
            own = wanted[frames[row]]
            boxes[row, : len(own)], part[row, : len(own)] = crop_boxes(own, batch["geometry"][row, 0])
        inputs = put_batch({"clip": batch["clip"][:, 0], "boxes": boxes}, mesh)
        scores = local_rows(predict(*trees, inputs["clip"], inputs["boxes"]))
        rows.append({"scores": scores[valid], "part": part[valid], "video": frames[valid]})
        progress.advance(training.batch_size)
    whole = gather_rows({name: np.concatenate([row[name] for row in rows]) for name in rows[0]}, len(test))
    if not len(whole["video"]):
        raise EvaluationError("no test frame could be decoded, see the lines above; there is nothing to evaluate")
    kept = [part > 0 for part in whole["part"]]
    return Detections(
        [test[int(frame)] for frame in whole["video"]],
        [wanted[frame][shown[: len(wanted[frame])]] for frame, shown in zip(whole["video"], kept, strict=True)],
        [scores[shown] for scores, shown in zip(whole["scores"], kept, strict=True)],
    )


def examples(found: Detections, training: Detection) -> list[dict[str, Any]]:
    """Some frames, evenly chosen: path, time, and of each box its edges, its likeliest evaluated classes with their
    probabilities and whether the annotated box that it overlaps has them."""
    names, shown = training.evaluated(), []
    columns = np.array(list(names))
    for place in np.unique(np.linspace(0, len(found.records) - 1, SHOWN).round().astype(int)):
        record, boxes, scores = found.records[place], found.boxes[place], found.scores[place]
        truth, labels = find_boxes(record, training.truth)
        near = overlaps(boxes, truth) if len(truth) else np.zeros((len(boxes), 1))
        rows = []
        for box, row, close in zip(boxes, scores, near, strict=True):
            best = columns[np.argsort(-row[columns], kind="stable")[:BEST]]
            right = labels[close.argmax()] if close.max() >= OVERLAP else np.zeros(len(row), bool)
            likeliest = [{"name": names[c], "score": float(row[c]), "right": bool(right[c])} for c in best.tolist()]
            rows.append({"edges": box.tolist(), "likeliest": likeliest})
        shown.append({"path": record.path, "time": record.time, "boxes": rows})
    return shown


def detections_csv(found: Detections) -> str:
    """Detections in AVA's columns: video, second, left, top, right, bottom, class, score."""

    def rows() -> Iterator[list[object]]:
        for record, boxes, scores in zip(found.records, found.boxes, found.scores, strict=True):
            name = PurePosixPath(record.path).stem
            for box, row in zip(boxes, scores, strict=True):
                edges = [f"{edge:.4f}" for edge in box]
                for label, score in enumerate(row, 1):
                    yield [name, f"{record.time:g}", *edges, label, f"{score:.6f}"]

    return headless_csv(rows())
