"""Features of whole data sets: every video exactly once, several clips averaged, sharded over all devices."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Mesh

from wt_jax.augment import finish_view
from wt_jax.config import Config
from wt_jax.data.pipeline import describe_failure, eval_batches
from wt_jax.data.sources import VideoList
from wt_jax.data.views import PixelSpec, ViewSpec
from wt_jax.methods.base import Method, encoder_variables
from wt_jax.train.sharding import put_batch

log = logging.getLogger(__name__)

Extractor = Callable[[dict, dict, dict], jax.Array]


@dataclass(frozen=True)
class Features:
    """Features of the videos that could be decoded: `values` (N, D) float32, `videos` and `labels` (N,) int32."""

    values: np.ndarray
    videos: np.ndarray
    labels: np.ndarray


def make_extractor(method: Method) -> Extractor:
    """The jitted function (params, model_state, batch of `eval_batches`) -> (B, D) float32; made once, compiled once."""

    def features(params, model_state, clips):
        return method.encoder.apply(encoder_variables(params, model_state), clips, False)

    return mean_over_clips(features)


def mean_over_clips(look: Callable[[dict, dict, jax.Array], jax.Array]) -> Extractor:
    """An extractor of the mean over each video's clips of what `look(params, model_state, clips)` (N, D) says of them."""

    def extract(params, model_state, batch):
        clips = rearrange(batch["clip"], "b w t h w2 c -> (b w) t h w2 c")
        still = jnp.zeros(clips.shape[:1], jnp.int32)
        finished = finish_view(clips, still, jax.random.key(0), PixelSpec())
        values = look(params, model_state, finished)
        return jnp.mean(rearrange(values, "(b w) d -> b w d", b=batch["video"].shape[0]), axis=1)

    return jax.jit(extract)


def extract_features(
    extractor: Extractor,
    params: dict,
    model_state: dict,
    videos: VideoList,
    view: ViewSpec,
    config: Config,
    mesh: Mesh,
    crops: int = 1,
) -> Features:
    """Features of all videos of a list, each the mean over `config.eval.windows` times `crops` clips.

    A video that cannot be decoded is named in the log and left out.
    """
    hosts = {"host": jax.process_index(), "num_hosts": jax.process_count()}
    options = {"windows": config.eval.windows, "crops": crops, "batch_size": config.eval.batch_size, **hosts}
    batches = eval_batches(videos, view, workers=config.data.workers, threads=config.data.threads, **options)
    values, indices = [], []
    for batch in batches:
        features = extractor(params, model_state, put_batch(batch, mesh))
        here = np.concatenate([np.asarray(shard.data) for shard in _in_order(features)])
        values.append(here[batch["valid"]])
        indices.append(batch["video"][batch["valid"]])
        for video in batch["video"][~batch["valid"] & (batch["video"] >= 0)]:
            log.warning("left out of the evaluation: %s", describe_failure(videos[int(video)]))
    values, indices = _gather(np.concatenate(values), np.concatenate(indices), len(videos))
    return Features(values, indices, videos.labels[indices])


def _in_order(array: jax.Array) -> list:
    """This process's shards by their place in the global array."""
    return sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)


def _gather(values: np.ndarray, indices: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of all processes, by video index; on one process, a sort."""
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import process_allgather

        table = np.full((count, values.shape[1]), np.nan, np.float32)
        table[indices] = values
        tables = process_allgather(table)
        values = np.nanmax(tables, axis=0)
        indices = np.flatnonzero(~np.isnan(values).any(axis=1)).astype(np.int32)
        return values[indices], indices
    order = np.argsort(indices, kind="stable")
    return values[order], indices[order]
