"""Features of whole data sets: every video exactly once, several clips and crops averaged, sharded over devices and hosts.

What is read is the encoder's pooled feature, any of its layers pooled over time and space, or the embedding of a method's
head. For attentive probes the feature map can be kept as tokens, those of all clips of a video in a row.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array
from jax.sharding import Mesh

from wt_jax.augment import finish_view
from wt_jax.augment.log_mel import log_mel
from wt_jax.data.pipeline import describe_failure, eval_batches
from wt_jax.data.records import VideoList
from wt_jax.errors import ConfigError
from wt_jax.eval.config import FeatureConfig
from wt_jax.methods.base import Embeds, EmbedsSound, Method, Tree, encoder_variables
from wt_jax.models.feature_maps import layer_maps
from wt_jax.progress import Progress
from wt_jax.specs import GEOMETRY, AudioView, ClipView, PixelSpec
from wt_jax.train.sharding import put_batch

log = logging.getLogger(__name__)

EMBEDDING = "embedding"

_AT_ONCE = 16  # windows of a video that are decoded at once

# "values" (B, w, D) float32 and, where they are kept, "tokens" (B, w * M, C) float16 or "sounds" (B, w, D) float32.
Clips = dict[str, Array]


@dataclass(frozen=True)
class Extractor:
    """From clips to features, in two jitted steps, between which the clips of a video may come in pieces.

    Attributes:
      of_clips: (params, model_state, {"clip": (B, w, T, S, S, 3) uint8[, "sound": (B, w, samples) int16]}) -> `Clips`.
      of_videos: (params, model_state, `Clips` of all pieces, their geometries (B, w, 7)) -> "values" (B, D) float32
        [, "tokens" (B, M, C) float16] [, "clips" (B, W, D) float16] [, "sounds" (B, D) float32].
    """

    of_clips: Callable[[Tree, Tree, Mapping[str, Array]], Clips]
    of_videos: Callable[[Tree, Tree, Sequence[Clips], Sequence[Array]], dict[str, Array]]

    def __call__(self, params: Tree, model_state: Tree, batch: Mapping[str, Array]) -> dict[str, Array]:
        """The features of a batch of `eval_batches` that holds all clips of its videos."""
        return self.of_videos(params, model_state, [self.of_clips(params, model_state, batch)], [batch["geometry"]])


@dataclass(frozen=True)
class Features:
    """Features of the videos that could be decoded, in the order of their list.

    Attributes:
      values: (N, D) float32.
      videos: (N,) int32, rows of the list.
      labels: (N,) int32.
      times: (N, windows, 2) float32, first and last frame of each window in seconds; see `eval_batches`.
    """

    values: np.ndarray
    videos: np.ndarray
    labels: np.ndarray
    times: np.ndarray


@dataclass(frozen=True)
class Reading:
    """How videos are read for features: see `eval_batches`; `batch_size` counts videos over all devices."""

    view: ClipView
    windows: int = 4
    crops: int = 1
    batch_size: int = 64
    workers: int = 0
    threads: int = 2
    sound: AudioView | None = None

    @property
    def pieces(self) -> int:
        """Equal pieces of at most 16 windows, in which the windows of a video are read."""
        return next(n for n in range(1, self.windows + 1) if self.windows % n == 0 and self.windows // n <= _AT_ONCE)

    @classmethod
    def of(cls, view: ClipView, features: FeatureConfig, workers: int, threads: int) -> "Reading":
        """As a configuration describes it."""
        return cls(view, features.windows, features.crops, features.batch_size, workers, threads)


def make_extractor(
    encoder: nn.Module, layer: str = "", *, method: Method | None = None, tokens: bool = False, clips: bool = False
) -> Extractor:
    """The jitted function from clips to features; made once, compiled once per shape of a batch.

    Clips go through the encoder one after the other, so that memory depends on the batch size alone. An encoder of unit "clip"
    is averaged over the clips of a video. One of unit "video" first makes the features of each clip, by its method
    `clip_features(clips, train) -> (B, D)`, and is then called once, as `encoder(features, geometry, train)` with those of all
    clips (B, W, D) and their geometry (B, W, 7).

    Args:
      encoder: a module of `wt_jax.models`; its variables are `encoder_variables(params, model_state)`.
      layer: "": the encoder's pooled feature; a name in `encoder.layers`: that layer's output, averaged over time and space;
        "embedding": the output of the method's head.
      method: whose head "embedding" means.
      tokens: also keep the feature map (of the encoder, or of `layer`) as (B, windows * crops * t * h * w, C) float16,
        which halves the files; larger numbers than float16 can hold become infinite, which the probe reports.
      clips: also keep the feature of each clip, what is averaged or what an encoder of unit "video" gets, as
        (B, windows * crops, D) float16.

    Raises:
      ConfigError: there is no such layer, or there is no map: neither the embedding nor an encoder of unit "video" has one.
    """
    whole = encoder.unit == "video" and layer != EMBEDDING
    if whole and (tokens or layer):
        raise ConfigError(
            f"{type(encoder).__name__} has one feature per video: no layers, no maps; set config.features.layer ''"
        )
    if layer == EMBEDDING and (tokens or not isinstance(method, Embeds)):
        reason = "has no map to attend to" if tokens else "needs the workdir of a method with a head"
        raise ConfigError(f"config.features.layer {EMBEDDING!r} {reason}; name another layer")
    if layer not in ("", EMBEDDING, *encoder.layers):
        raise ConfigError(
            f"config.features.layer {layer!r} is unknown; {type(encoder).__name__} has {', '.join(encoder.layers)}"
        )

    def forward(params: Tree, model_state: Tree, clips: Array) -> dict[str, Array]:
        if layer == EMBEDDING:
            assert isinstance(method, Embeds)
            return {"values": method.embed(params, model_state, clips)}
        variables = encoder_variables(params, model_state)
        found: Any = None
        seen: dict[str, Any]
        if layer:
            found = layer_maps(encoder, variables, clips, [layer])[1][layer]
            seen = {"values": jnp.mean(found.astype(jnp.float32), axis=(1, 2, 3))}
        else:
            seen = {"values": encoder.apply(variables, clips, False, method="clip_features" if whole else None)}
        if tokens:
            found = encoder.apply(variables, clips, False, pool=False) if found is None else found
            seen["tokens"] = rearrange(found, "b t h w c -> b (t h w) c").astype(jnp.float16)
        return seen

    def of_video(params: Tree, model_state: Tree, features: Array, geometry: Array) -> Array:
        values: Any = encoder.apply(encoder_variables(params, model_state), features, geometry, False)
        return values

    return _over_clips(forward, of_video if whole else None, clips)


def make_pair_extractor(method: EmbedsSound) -> Extractor:
    """Embeddings of clips and, as "sounds", of the sound of their windows, both averaged over the windows of a video."""

    def of_sounds(params: Tree, model_state: Tree, samples: Array) -> Array:
        return method.embed_sound(params, model_state, log_mel(samples, method.sound))

    return _over_clips(
        lambda params, model_state, clips: {"values": method.embed(params, model_state, clips)}, of_sounds=of_sounds
    )


def item_shapes(
    extractor: Extractor,
    params: Tree,
    model_state: Tree,
    view: ClipView,
    features: FeatureConfig,
    sound: AudioView | None = None,
) -> dict[str, tuple[int, ...]]:
    """Shapes of what an extractor makes of one video, by name; nothing is computed."""
    shape = (1, features.windows * features.crops, view.num_frames, view.size, view.size, 3)
    samples = (1, features.windows, 0 if sound is None else sound.samples)
    geometry = jax.ShapeDtypeStruct((*shape[:2], len(GEOMETRY)), jnp.float32)
    batch = {"clip": jax.ShapeDtypeStruct(shape, jnp.uint8), "geometry": geometry}
    batch |= {} if sound is None else {"sound": jax.ShapeDtypeStruct(samples, jnp.int16)}
    found = jax.eval_shape(extractor, params, model_state, batch)
    return {name: value.shape[1:] for name, value in found.items()}


def mean_over_clips(forward: Callable[[Tree, Tree, Array], Array]) -> Extractor:
    """An extractor whose "values" are the means over each video's clips of `forward(params, model_state, clips)` (B, D).

    Clips are (B, T, S, S, 3) float32 in [0, 1].
    """
    return _over_clips(lambda params, model_state, clips: {"values": forward(params, model_state, clips)})


def _over_clips(
    forward: Callable[[Tree, Tree, Array], dict[str, Array]],
    of_video: Callable[[Tree, Tree, Array, Array], Array] | None = None,
    clips: bool = False,
    of_sounds: Callable[[Tree, Tree, Array], Array] | None = None,
) -> Extractor:
    """Values are averaged over the clips of a video, or given to `of_video` with their geometry; tokens are put in a row."""

    @jax.jit
    def of_clips(params: Tree, model_state: Tree, batch: Mapping[str, Array]) -> Clips:
        def one(clips: Array) -> dict[str, Array]:
            still = jnp.zeros(clips.shape[:1], jnp.int32)
            return forward(params, model_state, finish_view(clips, still, jax.random.key(0), PixelSpec()))

        seen = jax.lax.map(one, rearrange(batch["clip"], "b w t h c d -> w b t h c d"))
        if of_sounds is not None:
            sounds = rearrange(batch["sound"], "b w s -> w b s")
            seen["sounds"] = jax.lax.map(partial(of_sounds, params, model_state), sounds)
        shapes = {"values": "w b d -> b w d", "tokens": "w b m c -> b (w m) c", "sounds": "w b d -> b w d"}
        return {name: rearrange(array, shapes[name]) for name, array in seen.items()}

    @jax.jit
    def of_videos(params: Tree, model_state: Tree, pieces: Sequence[Clips], geometry: Sequence[Array]) -> dict[str, Array]:
        whole = {name: jnp.concatenate([piece[name] for piece in pieces], axis=1) for name in pieces[0]}
        values = whole.pop("values")
        if "sounds" in whole:
            whole["sounds"] = jnp.mean(whole["sounds"], axis=1)
        if of_video is None:
            features = {"values": jnp.mean(values, axis=1)}
        else:
            features = {"values": of_video(params, model_state, values, jnp.concatenate(list(geometry), axis=1))}
        return {**features, **whole, **({"clips": values.astype(jnp.float16)} if clips else {})}

    return Extractor(of_clips, of_videos)


def feature_batches(
    extractor: Extractor,
    params: Tree,
    model_state: Tree,
    videos: VideoList,
    reading: Reading,
    mesh: Mesh,
    *,
    start: int = 0,
    named: set[str] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this host's features, one global batch after the other; the device always has the next batch queued.

    Args:
      extractor, params, model_state: what is evaluated.
      videos: which videos; over all hosts each is read once.
      reading: how they are read.
      mesh: the devices.
      start: the first batch.
      named: paths of videos whose failure has been logged; a video that cannot be decoded is logged once and added.

    Yields:
      "values", "tokens", "clips" and "sounds" as the extractor makes them, "video" (n,) int32, "time" (n, windows, 2) and
      "geometry" (n, windows * crops, 7) float32, only for videos that could be decoded: n may be 0. "left_out" (m,) int32:
      those that could not.
    """
    named = set() if named is None else named
    batches = eval_batches(
        videos,
        reading.view,
        windows=reading.windows,
        crops=reading.crops,
        batch_size=reading.batch_size,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
        workers=reading.workers,
        threads=reading.threads,
        start=start,
        pieces=reading.pieces,
        sound=reading.sound,
    )

    def settle(batch: dict[str, np.ndarray], features: dict[str, Array]) -> dict[str, np.ndarray]:
        valid = batch["valid"]
        left_out = batch["video"][~valid & (batch["video"] >= 0)]
        for video in left_out:
            record = videos[int(video)]
            if record.path not in named:
                named.add(record.path)
                log.warning("left out of the evaluation: %s", describe_failure(record, {"clip": reading.view}))
        rows = {name: local_rows(value)[valid] for name, value in features.items()}
        return {**rows, **{name: batch[name][valid] for name in ("video", "time", "geometry")}, "left_out": left_out}

    pending = None
    for parts in zip(*[batches] * reading.pieces, strict=True):  # the pieces of each batch of videos
        seen: list[Clips] = []
        for part in parts:
            jax.block_until_ready(seen[-2:-1])  # of many pieces two at a time are on their way
            inputs = put_batch({name: part.pop(name) for name in ("clip", "sound") if name in part}, mesh)
            seen.append(extractor.of_clips(params, model_state, inputs))
        geometry = [put_batch({"geometry": part["geometry"]}, mesh)["geometry"] for part in parts]
        features = extractor.of_videos(params, model_state, seen, geometry)
        if pending is not None:
            yield settle(*pending)
        pending = (_joined(parts), features)
    if pending is not None:
        yield settle(*pending)


def _joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The pieces of a batch of videos as one; a video is valid where all of it could be decoded."""
    joined = {name: np.concatenate([part[name] for part in parts], axis=1) for name in ("geometry", "time")}
    return {**parts[0], **joined, "valid": np.logical_and.reduce([part["valid"] for part in parts])}


def extract_features(
    extractor: Extractor,
    params: Tree,
    model_state: Tree,
    videos: VideoList,
    reading: Reading,
    mesh: Mesh,
    named: set[str] | None = None,
) -> Features:
    """Features of all videos of a list, in memory; the same on every host. Arguments are those of `feature_batches`.

    Raises:
      ConfigError: no video of the list could be decoded.
    """
    progress, batches = Progress("features", len(videos), "video"), []
    for batch in feature_batches(extractor, params, model_state, videos, reading, mesh, named=named):
        batches.append(batch)
        progress.advance(reading.batch_size)
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in ("values", "video", "time")}
    rows = gather_rows(rows, len(videos))
    if not len(rows["video"]):
        raise ConfigError("no video of the list could be decoded, see the lines above; there is nothing to evaluate")
    return Features(rows["values"], rows["video"], videos.labels[rows["video"]], rows["time"])


def local_rows(array: Array) -> np.ndarray:
    """This process's rows of a global array, in order; replicas count once."""
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[row]) for row in sorted(shards)])


def gather_rows(rows: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Rows of all processes, sorted by "video" in [0, count)."""
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import process_allgather

        valid = np.zeros(count, bool)
        valid[rows["video"]] = True
        tables = {}
        for name, values in rows.items():
            tables[name] = np.zeros((count, *values.shape[1:]), values.dtype)
            tables[name][rows["video"]] = values
        # Each video is one process's, so that every table but its own holds zeros there.
        everywhere = process_allgather({"valid": valid, **tables})
        valid = everywhere.pop("valid").any(axis=0)
        return {name: np.sum(values, axis=0, dtype=values.dtype)[valid] for name, values in everywhere.items()}
    order = np.argsort(rows["video"], kind="stable")
    return {name: values[order] for name, values in rows.items()}
