"""Attentive probe: a classifier that attends to the stored feature maps of a frozen encoder.

The probe of V-JEPA (Bardes et al. 2024, arXiv 2404.08471; public code `src/models/attentive_pooler.py`): one learned query
attends to all tokens of all clips of a video, then come a residual, an MLP with one GELU and another residual, and a linear
classifier. AdamW, learning rate 1e-3 falling to 0 by a cosine, weight decay 0.01, 20 epochs, 256 videos a step, 16 heads (its
public configs for ViT-L). No projection follows the attention: its code has one that it never applies. Ours: the search around
those values on a validation fifth of the training set, float32, no extra views of the training videos, 12 heads (which divides
the width of every encoder here).

As there is but one query, its product with the key map is taken first and the value map is applied to what was pooled: the
same function, without keys and values for each token. The token's LayerNorm needs no scale and offset of its own then, for the
maps absorb them.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from wt_jax.eval.protocols.base import Encoded, Predicted, Split, check_two_classes, over_splits
from wt_jax.eval.similarity import check_labels
from wt_jax.eval.statistics import Result
from wt_jax.eval.validation_split import accuracy_and_likelihood, stratified_split, top_classes
from wt_jax.progress import format_duration

log = logging.getLogger(__name__)

_INIT = 0.02  # standard deviation of the first weights, V-JEPA's
_REPORT_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Attentive:
    """Attentive probe on feature maps; the fields are arguments of `attentive_probe`."""

    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    weight_decays: tuple[float, ...] = (0.01, 0.1)
    epochs: int = 20
    batch_size: int = 256
    heads: int = 12

    reads: ClassVar = "tokens"

    def headings(self) -> dict[str, str]:
        """Its top-1."""
        return {"top1": "attentive"}

    def check(self, shapes: Mapping[str, tuple[int, ...]], labels: np.ndarray, splits: Sequence[Split]) -> None:
        """Raise ValueError if the heads do not divide the channels, or a training set has fewer than two classes."""
        _check_heads(self.heads, shapes["tokens"][-1])
        check_two_classes(labels, splits)

    def run(
        self, features: Encoded, labels: np.ndarray, classes: Sequence[str], splits: Sequence[Split], *, seed: int = 0
    ) -> Result:
        """The probe of every split; see `wt_jax.eval.protocols.base.Protocol`."""

        def fit(train: Encoded, train_labels: np.ndarray, test: Encoded) -> list[Predicted]:
            if train.tokens is None or train.rows is None or test.rows is None:
                raise ValueError("the attentive probe needs feature maps; extract the features with tokens")
            rows = (train.tokens, train.rows, train_labels, train.tokens, test.rows)
            probe = attentive_probe(*rows, **vars(self), seed=seed)
            return [Predicted({"": probe.ranked}, [probe.choice])]

        return over_splits(fit, features, labels, splits)


@dataclass(frozen=True)
class AttentiveProbe:
    """What `attentive_probe` predicts and what it chose.

    Attributes:
      ranked: (M, min(5, C)) int32, the most likely classes of the test items, the likeliest first.
      learning_rate: the chosen learning rate.
      weight_decay: the chosen weight decay.
      validation_accuracy: accuracy of that choice on the validation split; None if nothing was to choose.
    """

    ranked: np.ndarray
    learning_rate: float
    weight_decay: float
    validation_accuracy: float | None

    @property
    def choice(self) -> dict[str, float | None]:
        """What was chosen, for the results."""
        return {name: value for name, value in vars(self).items() if name != "ranked"}


def attentive_probe(
    train_tokens: np.ndarray,
    train_rows: np.ndarray,
    train_labels: np.ndarray,
    test_tokens: np.ndarray,
    test_rows: np.ndarray,
    *,
    learning_rates: Sequence[float] = (3e-4, 1e-3, 3e-3),
    weight_decays: Sequence[float] = (0.01, 0.1),
    epochs: int = 20,
    batch_size: int = 256,
    heads: int = 12,
    seed: int = 0,
) -> AttentiveProbe:
    """Trains a probe on stored tokens and predicts the classes of the test items. Test labels are not an argument.

    All candidates are trained side by side on the same batches; the best on a stratified fifth of the training set (accuracy,
    then cross-entropy) is trained anew on all of it. One batch of tokens is in memory at a time.

    Args:
      train_tokens: (R, M, C) float16 or float32, any part of it finite; may be mapped from disk.
      train_rows: (N,) integers, which rows of it are the training set.
      train_labels: (N,) integer classes, at least two different ones.
      test_tokens: (R', M, C), may be the same array.
      test_rows: (K,) integers, the test items.
      learning_rates: candidates, for the batch as it is.
      weight_decays: candidates, of AdamW, on matrices only.
      epochs: passes over the training set.
      batch_size: upper bound of the batch; the remainder of an epoch is left out.
      heads: of the attention; divides C.
      seed: of the validation split, the first weights and the order of the batches.

    Raises:
      ValueError: tokens that are not finite or do not fit, heads that do not divide C, fewer than two classes, a search without
        a class that has two items, or a fit that diverged.
    """
    train_rows, test_rows = np.asarray(train_rows), np.asarray(test_rows)
    labels = check_labels("train_labels", train_labels, len(train_rows))
    for name, tokens, rows in (("train_tokens", train_tokens, train_rows), ("test_tokens", test_tokens, test_rows)):
        _check_tokens(name, tokens, rows, batch_size)
    if train_tokens.shape[1:] != test_tokens.shape[1:]:
        raise ValueError(f"train_tokens are {train_tokens.shape[1:]} and test_tokens {test_tokens.shape[1:]} per item")
    _check_heads(heads, train_tokens.shape[2])
    classes, targets = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"train_labels has only class {classes[0]}; an attentive probe needs at least two classes")

    options = {"num_classes": len(classes), "epochs": epochs, "batch_size": batch_size, "heads": heads, "seed": seed}
    grid = [(rate, decay) for rate in learning_rates for decay in weight_decays]
    choice, accuracy = 0, None
    if len(grid) > 1:
        validation = stratified_split(targets, fraction=0.2, seed=seed)
        if not validation.any():
            raise ValueError("train_labels has no class with two items to hold one out; fix one rate and one decay")
        fitted = _fit(train_tokens, train_rows[~validation], targets[~validation], grid, **options)
        logits = _predict(fitted, train_tokens, train_rows[validation], batch_size, heads)
        scores = [accuracy_and_likelihood(candidate, targets[validation]) for candidate in logits]
        choice = scores.index(max(scores))
        accuracy = scores[choice][0]
    fitted = _fit(train_tokens, train_rows, targets, [grid[choice]], **options)
    (logits,) = _predict(fitted, test_tokens, test_rows, batch_size, heads)
    if not np.isfinite(logits).all():
        raise ValueError(f"the attentive probe diverged at learning rate {grid[choice][0]}; pass smaller learning_rates")
    return AttentiveProbe(top_classes(logits, classes), *grid[choice], accuracy)


def init_probe(rng: np.random.Generator, channels: int, num_classes: int) -> dict[str, np.ndarray]:
    """First weights, float32: normal of deviation 0.02, cut at two; "shrink", less by the root of 2."""
    shapes = {
        "query": (1, channels),
        "to_query": (channels, channels),
        "to_key": (channels, channels),
        "to_value": (channels, channels),
        "expand": (channels, 4 * channels),
        "shrink": (4 * channels, channels),
        "classify": (channels, num_classes),
    }
    weights = {name: _INIT * np.clip(rng.normal(size=shape), -2, 2) for name, shape in shapes.items()}
    weights["shrink"] /= np.sqrt(2)
    offsets = {f"{name}_offset": np.zeros(shape[1]) for name, shape in shapes.items() if name not in ("query", "to_key")}
    probe = {**weights, **offsets, "norm_scale": np.ones(channels), "norm_offset": np.zeros(channels)}
    return {name: value.astype(np.float32) for name, value in probe.items()}


def apply_probe(p: dict[str, Array], tokens: Array, heads: int) -> Array:
    """Logits (B, num_classes) of normalized tokens (B, M, C) float32."""
    channels = tokens.shape[-1]
    query = (p["query"] @ p["to_query"] + p["to_query_offset"][None]).reshape(heads, -1)
    keys = p["to_key"].reshape(channels, heads, -1)
    scores = jnp.einsum("bmc,chd,hd->bmh", tokens, keys, query) / jnp.sqrt(jnp.float32(channels // heads))
    pooled = jnp.einsum("bmh,bmc->bhc", jax.nn.softmax(scores, axis=1), tokens)
    values = jnp.einsum("bhc,chd->bhd", pooled, p["to_value"].reshape(channels, heads, -1)).reshape(-1, channels)
    x = p["query"] + values + p["to_value_offset"][None]
    hidden = normalize(x) * p["norm_scale"][None] + p["norm_offset"][None]
    x = x + jax.nn.gelu(hidden @ p["expand"] + p["expand_offset"][None], approximate=False) @ p["shrink"]
    x = x + p["shrink_offset"][None]
    return x @ p["classify"] + p["classify_offset"][None]


def normalize(x: Array) -> Array:
    """LayerNorm without scale and offset, over the last axis, in float32, with the epsilon of V-JEPA's probe, 1e-5."""
    x = x.astype(jnp.float32)
    return (x - jnp.mean(x, axis=-1, keepdims=True)) * jax.lax.rsqrt(jnp.var(x, axis=-1, keepdims=True) + 1e-5)


def _check_heads(heads: int, channels: int) -> None:
    if heads < 1 or channels % heads:
        fitting = max(count for count in range(1, max(heads, 1) + 1) if channels % count == 0)
        remedy = f"--config.settings.attentive.heads={fitting} does"
        raise ValueError(f"heads {heads} does not divide the {channels} channels of the tokens; {remedy}")


def _check_tokens(name: str, tokens: np.ndarray, rows: np.ndarray, batch_size: int) -> None:
    if tokens.ndim != 3 or not tokens.size or not len(rows):
        raise ValueError(f"{name} has shape {tokens.shape} with {len(rows)} rows to read; pass (items, tokens, channels)")
    for some in _pieces(rows, batch_size):
        finite = np.isfinite(tokens[some]).all(axis=(1, 2))
        if not finite.all():
            raise ValueError(f"{name} has NaN or infinity in row {some[~finite][0]}; drop or re-extract it")


def _pieces(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _fit(tokens, rows, targets, grid, *, num_classes, epochs, batch_size, heads, seed) -> dict[str, Array]:
    """Weights of one probe per (learning rate, weight decay) of `grid`, along a first axis."""
    per_epoch = -(-len(rows) // batch_size)
    size, total = len(rows) // per_epoch, epochs * per_epoch
    rates, decays = np.asarray(grid, np.float32).T
    rng = np.random.default_rng(seed)
    first = init_probe(rng, tokens.shape[2], num_classes)
    probes: Any = {name: np.stack([value] * len(grid)) for name, value in first.items()}
    moments = optax.scale_by_adam().init(probes)
    start = last = time.perf_counter()
    step = 0
    for _ in range(epochs):
        order = rng.permutation(len(rows))[: per_epoch * size].reshape(per_epoch, size)
        for chosen in np.sort(order, axis=1):  # sorted rows are read faster from disk
            factor = np.float32((1 + np.cos(np.pi * step / total)) / 2)
            batch = (tokens[rows[chosen]], targets[chosen].astype(np.int32))
            probes, moments = _step(probes, moments, batch, factor * rates, decays, heads=heads)
            step += 1
            if time.perf_counter() - last >= _REPORT_EVERY:
                last = time.perf_counter()
                log.info(
                    "attentive probe: step %d/%d  left %s", step, total, format_duration((last - start) / step * (total - step))
                )
    return probes


@partial(jax.jit, static_argnames="heads")
def _step(probes, moments, batch, rates, decays, *, heads):
    """One step of AdamW for every probe, all on the same batch."""
    tokens, targets = normalize(batch[0]), batch[1]

    def loss(probe):
        log_p = jax.nn.log_softmax(apply_probe(probe, tokens, heads))
        return -jnp.mean(jnp.take_along_axis(log_p, targets[:, None], axis=1))

    gradients = jax.vmap(jax.grad(loss))(probes)
    updates: Any
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by its integer counter
        updates, moments = optax.scale_by_adam().update(gradients, moments)
    fitted = {}
    for name, value in probes.items():
        rate, decay = (x.reshape(-1, *(1,) * (value.ndim - 1)) for x in (rates, decays))
        # Weight decay is for matrices; the query is none, whatever its shape.
        decayed = updates[name] + decay * value if value.ndim == 3 and name != "query" else updates[name]
        fitted[name] = value - rate * decayed
    return fitted, moments


def _predict(probes, tokens, rows, batch_size, heads) -> np.ndarray:
    """Logits (G, N, num_classes) of some rows by each of G probes."""
    return np.concatenate([np.asarray(_logits(probes, tokens[some], heads=heads)) for some in _pieces(rows, batch_size)], 1)


@partial(jax.jit, static_argnames="heads")
def _logits(probes, tokens, *, heads):
    tokens = normalize(tokens)
    return jax.vmap(lambda probe: apply_probe(probe, tokens, heads))(probes)
