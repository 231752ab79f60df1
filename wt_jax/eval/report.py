"""What a run leaves for people: the table of scores, the curves, the views and the nearest neighbours."""

import json
import logging
from pathlib import Path

import jax
import numpy as np

from wt_jax.augment import finish_views, to_uint8
from wt_jax.data.pipeline import eval_batches, train_batches
from wt_jax.data.sources import VideoList
from wt_jax.eval.features import Features
from wt_jax.eval.figures import draw_curves, draw_neighbours, draw_views, format_table
from wt_jax.eval.retrieval import nearest
from wt_jax.train.loop import Run
from wt_jax.train.metrics import read_metrics
from wt_jax.train.step import TrainState

log = logging.getLogger(__name__)

COLUMNS = ("knn_top1", "linear_top1", "recall@1", "recall@5", "recall@10", "recall@20", "recall@50")


def write_report(run: Run, state: TrainState, workdir: Path) -> dict[str, dict[str, float]]:
    """Judge the random-initialised and the trained encoder; write `results.json`, `results.md` and the pictures.

    Returns:
      {"random-initialised": scores, "pre-trained": scores}, each score in [0, 1]; empty without labels.
    """
    figures = workdir / "figures"
    figures.mkdir(exist_ok=True)
    metrics = read_metrics(workdir / "metrics.jsonl")
    if metrics:
        keys = ("loss", "instance_accuracy", "label_entropy", "label_mass_same_class", "teacher_distance", "knn_top1")
        draw_curves(metrics, figures / "curves.png", keys)
    draw_views(_finished_views(run), figures / "views.png")

    features = run.evaluator.features(state.params, state.model_state)
    _neighbours(run, features, figures / "neighbours.png")
    if not run.evaluator.possible:
        log.info("no labelled training and test videos: no scores, see the pictures in %s", figures)
        return {}
    results = {}
    if run.config.eval.before:
        fresh = run.program.first_state()
        results["random-initialised"] = run.evaluator.scores(run.evaluator.features(fresh.params, fresh.model_state))
    results["pre-trained"] = run.evaluator.scores(features)
    (workdir / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (workdir / "results.md").write_text(table(results) + "\n")
    return results


def table(results: dict[str, dict[str, float]]) -> str:
    """The scores as a Markdown table in percent."""
    return format_table(list(results.items()), COLUMNS)


def _finished_views(run: Run, count: int = 4) -> dict[str, np.ndarray]:
    """Some training clips as the network reads them, after colour and blur, back in uint8."""
    views = run.program.method.views
    batches = train_batches(run.videos, views, seed=run.config.seed, batch_size=count, num_steps=1, threads=1)
    finished = jax.jit(lambda batch: finish_views(batch, views, jax.random.key(run.config.seed)))(next(batches))
    return {name: to_uint8(finished[name]) for name in views}


def _neighbours(run: Run, features: tuple[Features, Features | None], path: Path, count: int = 6, k: int = 5) -> None:
    """Some query videos with the videos of the training list that are nearest to them."""
    gallery, queries = features
    gallery_videos, query_videos = run.evaluator.train, run.evaluator.test
    same_list = queries is None
    if same_list:
        queries, query_videos = gallery, gallery_videos
    k = min(k, len(gallery.videos) - same_list)
    chosen = np.linspace(0, len(queries.videos) - 1, min(count, len(queries.videos))).round().astype(int)
    ranks = nearest(queries.values, gallery.values, min(k + same_list, len(gallery.videos)), centre=run.config.eval.centre)
    # Within one list the nearest video is the query itself.
    ranks = np.stack([[n for n in ranks[q] if not (same_list and n == q)][:k] for q in chosen])
    query_ids, neighbour_ids = queries.videos[chosen], gallery.videos[ranks]
    labels = (queries.labels[chosen][:, None], gallery.labels[ranks])
    draw_neighbours(
        _clips(run, query_videos, query_ids),
        _clips(run, gallery_videos, neighbour_ids.ravel()).reshape(*neighbour_ids.shape, *_clip_shape(run)),
        [_name(query_videos, i) for i in query_ids],
        [[_name(gallery_videos, i) for i in row] for row in neighbour_ids],
        (labels[0] == labels[1]) if run.evaluator.possible else None,
        path,
    )


def _name(videos: VideoList, index: int) -> str:
    """A video's folder and file, which in class folders says the class."""
    return "/".join(Path(videos[int(index)].path).parts[-2:])


def _clip_shape(run: Run) -> tuple[int, ...]:
    view = run.config.test_view
    return (view.num_frames, view.size, view.size, 3)


def _clips(run: Run, videos: VideoList, indices: np.ndarray) -> np.ndarray:
    """The middle clip of each video, (N, T, S, S, 3) uint8."""
    batches = eval_batches(videos.select(indices), run.config.test_view, windows=1, batch_size=1, threads=1)
    return np.concatenate([batch["clip"][:, 0] for batch in batches])
