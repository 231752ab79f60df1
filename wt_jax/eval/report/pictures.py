"""The parts of a report that show videos and what the trained encoder makes of them.

Each builder returns plain values for the template, or a sentence with the reason why the part is left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from wt_jax.augment import finish_view, finish_views, to_uint8
from wt_jax.data.pipeline import eval_batches, train_batches
from wt_jax.data.records import VideoList
from wt_jax.eval.features.extract import Features
from wt_jax.eval.report.media import SIDE, sheet, strip
from wt_jax.eval.report.saliency import contributions, focus, heat, motion, overlay
from wt_jax.eval.run import EvaluatedRun
from wt_jax.eval.run_features import RunFeatures
from wt_jax.eval.similarity import centered, nearest
from wt_jax.methods.base import encoder_variables, evaluated_tree
from wt_jax.specs import Choice, ClipView, PixelSpec
from wt_jax.train.step import TrainState

# How much is shown. With `media`'s bounds a report stays below 8 MB whatever the videos are (a test computes it).
QUERIES, NEIGHBOURS = 6, 5
VIDEOS, MOST_VIEWS = 4, 6
POINTS, TILE, TILE_COLUMNS = 400, 40, 20
_REFERENCE = 16  # clips whose mean feature is taken off before it is asked what makes a clip special


@dataclass(frozen=True)
class Subject:
    """What a report shows: a run, its trained state, and the features of the run's videos at that state."""

    run: EvaluatedRun
    state: TrainState
    features: RunFeatures

    @property
    def queries(self) -> tuple[Features, VideoList]:
        """The test videos; the training videos where there is no test list."""
        found = self.features
        if found.test is None or found.videos.test is None:
            return found.train, found.videos.train
        return found.test, found.videos.test


def views(subject: Subject) -> dict[str, Any] | str:
    """What the network reads in training: some videos, all views of each that are clips, after color and blur."""
    run = subject.run
    clips_of = {name: view for name, view in run.program.method.views.items() if isinstance(view, ClipView | Choice)}
    specs = dict(list(clips_of.items())[:MOST_VIEWS])
    if not specs:
        return "The network reads stored features, no clips."
    videos = min(VIDEOS, len(run.videos))
    batch = next(train_batches(run.videos, specs, seed=run.config.seed, batch_size=videos, num_steps=1, threads=1))
    finished = jax.jit(lambda batch: finish_views(batch, specs, jax.random.key(run.config.seed)))(batch)
    clips = {name: to_uint8(finished[name]) for name in specs}
    rows = [
        {"name": _name(run.videos, video), "strips": {name: strip(clips[name][row]) for name in specs}}
        for row, video in enumerate(batch["video"])
    ]
    kinds = {name: _describe(spec) for name, spec in specs.items()}
    return {"rows": rows, "kinds": kinds, "count": len(clips_of)}


def retrieval(subject: Subject) -> dict[str, Any] | str:
    """Some queries with the videos of the training list that are nearest to them."""
    (queries, query_videos), gallery = subject.queries, subject.features.train
    gallery_videos = subject.features.videos.train
    one_list = queries is gallery
    k = min(NEIGHBOURS, len(gallery.videos) - one_list)
    if k < 1:
        return "There is only one video, so there is nothing to compare it with."
    chosen = _spread(len(queries.videos), QUERIES)
    values, gallery_values = _comparable(subject, queries)[chosen], _comparable(subject, gallery)
    found = nearest(values, gallery_values, k + one_list, center=False)
    # Within one list the nearest video is the query itself.
    found = [[n for n in row if not (one_list and n == q)][:k] for q, row in zip(chosen, found, strict=True)]
    view = _small(subject)
    query_clips = _clips(query_videos, queries.videos[chosen], view)
    near_clips = iter(_clips(gallery_videos, gallery.videos[np.concatenate(found)], view))
    labelled = bool(query_videos.classes) and bool(gallery_videos.classes)
    rows = []
    for query, row, clip in zip(chosen, found, query_clips, strict=True):
        near = [
            {
                "name": _name(gallery_videos, int(gallery.videos[n])),
                "strip": strip(next(near_clips)),
                "same": bool(gallery.labels[n] == queries.labels[query]) if labelled else None,
            }
            for n in row
        ]
        rows.append({"name": _name(query_videos, int(queries.videos[query])), "strip": strip(clip), "near": near})
    return {"rows": rows, "count": len(queries.videos), "gallery": len(gallery.videos), "one_list": one_list}


def embedding(subject: Subject) -> dict[str, Any] | str:
    """The features in two dimensions, with a still of each video."""
    features, videos = subject.queries
    if len(features.videos) < 3:
        return "There are fewer than three videos, too few for a map."
    chosen = _spread(len(features.videos), POINTS)
    points_2d, explained = plane(_comparable(subject, features)[chosen])
    stills = _clips(videos, features.videos[chosen], replace(_small(subject), num_frames=1))[:, 0]
    points = [
        {"x": x, "y": y, "name": _name(videos, video), "label": int(label)}
        for (x, y), video, label in zip(points_2d.tolist(), features.videos[chosen], features.labels[chosen], strict=True)
    ]
    return {
        "points": points,
        "explained": explained,
        "sheet": sheet(stills, TILE, TILE_COLUMNS),
        "classes": list(videos.classes),
        "count": len(features.videos),
    }


def attention(subject: Subject) -> dict[str, Any] | str:
    """The saliency of some videos, before and after training, beside what moves."""
    run = subject.run
    if run.program.method.encoder.unit == "video":
        return "The encoder reads whole videos: there is no map of a clip."
    features, videos = subject.queries
    chosen = features.videos[_spread(len(features.videos), _REFERENCE)]
    clips = _clips(videos, chosen, run.config.test_view)
    fresh = run.program.first_state()
    states = {"before training": fresh, "after training": subject.state}
    shown = _spread(len(clips), VIDEOS)
    heats = {name: _heats(run, state, clips, shown) for name, state in states.items()}
    rows = []
    for row, index in enumerate(shown):
        clip = clips[index]
        moving = motion(clip)
        top = max(float(moving.max()), 1e-9)
        gray = np.repeat((255 * np.sqrt(moving / top)).astype(np.uint8)[..., None], 3, axis=-1)  # so that faint motion shows
        panels: list[tuple[str, Any, float | None]] = [("the clip", strip(clip), None), ("what moves", strip(gray), None)]
        for name, maps in heats.items():
            panels.append((name, strip(overlay(clip, maps[row])), focus(maps[row], moving)))
        rows.append({"name": _name(videos, int(chosen[index])), "panels": panels})
    return {"rows": rows}


def plane(values: np.ndarray) -> tuple[np.ndarray, float]:
    """The two principal components of (N, D) features of length 1, and the fraction of the variance in them.

    Returns:
      (N, 2) float64, moved and scaled alike in both directions so that [-1, 1] is filled; and the fraction.
    """
    values = values.astype(np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    values = values / np.where(length > 0, length, 1)
    left, strength, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    points = (left * strength)[:, :2]
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    points *= np.where(points[np.abs(points).argmax(axis=0), [0, 1]] < 0, -1, 1)  # one of two equal choices
    total = float(np.square(strength).sum())
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - (low + high) / 2) / max(float((high - low).max()) / 2, 1e-12)
    return points, float(np.square(strength[:2]).sum()) / total if total > 0 else 0.0


def _heats(run: EvaluatedRun, state: TrainState, clips: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Heat (len(shown), T, S, S) of the clips shown, of (B, T, S, S, 3) uint8 clips whose mean feature is taken off."""
    everywhere = NamedSharding(run.program.mesh, PartitionSpec())
    variables = encoder_variables(*evaluated_tree(run.program.method.evaluated, state))
    variables = jax.device_get(jax.jit(lambda v: v, out_shardings=everywhere)(variables))

    @jax.jit
    def maps(variables, clip):
        finished = finish_view(clip[None], jnp.zeros(1, jnp.int32), jax.random.key(0), PixelSpec())
        found: Any = run.program.method.encoder.apply(variables, finished, False, pool=False)
        return found.astype(jnp.float32)

    found = np.concatenate([np.asarray(maps(variables, clip)) for clip in clips])
    mean = found.mean(axis=(0, 1, 2, 3), dtype=np.float64) if len(clips) > 1 else None
    return heat(contributions(found[shown], mean), *clips.shape[1:3])


def _comparable(subject: Subject, features: Features) -> np.ndarray:
    """The features as the run's retrieval compares them: less the mean of their set, if it centers."""
    if True in subject.run.config.eval.settings.retrieval.center and len(features.values) > 1:
        return centered("features", features.values)
    return features.values


def _small(subject: Subject) -> ClipView:
    """The view of the evaluation, no larger than it is shown."""
    view = subject.run.config.test_view
    return replace(view, size=min(view.size, SIDE))


def _clips(videos: VideoList, indices: Iterable[int], view: ClipView) -> np.ndarray:
    """The middle clip of each video, (N, T, S, S, 3) uint8."""
    batches = eval_batches(videos.select(indices), view, windows=1, batch_size=1)
    return np.concatenate([batch["clip"][:, 0] for batch in batches])


def _spread(count: int, most: int) -> np.ndarray:
    """At most `most` of `count` indices, evenly spread from the first to the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def _name(videos: VideoList, index: int) -> str:
    """A video's folder and file, which in class folders name the class."""
    return "/".join(Path(videos[int(index)].path).parts[-2:])


def _describe(view: ClipView | Choice) -> str:
    if isinstance(view, Choice):
        return f"one of {len(view.views)}, such as {_describe(view.views[0])}"
    pixels = "color and blur vary" if view.pixels != PixelSpec() else "color as it is"
    crop = {"random": "random crop", "center": "center crop", "resize": "whole frame"}[view.crop]
    return f"window {view.window}, {view.num_frames} frames of {view.size} pixels, {crop}, {pixels}"
