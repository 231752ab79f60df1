"""The core of every method with a queue: a student is compared with a queue of a teacher's past embeddings.

A step embeds the student's and the teacher's views, asks the method for its loss against the queue as it is, and then puts the
teacher's embeddings over the oldest slots (MoCo: He et al. 2020, arXiv 1911.05722). A method adds its views, which of them the
student and the teacher see, and `contrast`: its loss. B: videos of the batch, K: slots, D: width of the embeddings.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.methods.base import Batch, MethodState, Metrics, Needs, Tree
from wt_jax.methods.forward import Averaged, student_then_teacher
from wt_jax.queue import Queue, empty_queue, enqueue, negatives_mask

Embeddings = dict[str, Array]  # (B, D) float32, L2-normalized, by the name of the view


class Seen(NamedTuple):
    """What the loss of a step is made of.

    Attributes:
      queries: the student's embeddings; gradient flows into them alone.
      keys: the teacher's.
      queue: columns (K, D) of what is compared with, by name: past keys, and before them those of the batch where they count;
        "label" (K,) are their classes.
      mask: (B, K) bool, slots that may be compared with each video.
      label: (B,) int32, classes of the videos; -1: unknown. For metrics and controls: a method without labels reads none.
      step: number of steps before this one.
    """

    queries: Embeddings
    keys: Embeddings
    queue: Queue
    mask: Array
    label: Array
    step: ArrayLike


class Contrast(NamedTuple):
    """A loss, and what its metrics are made of.

    Attributes:
      loss: (B,) float32.
      metrics: of the method's own.
      logits: (B, 1 + K), positive first, for the instance accuracy; None: there is no positive.
      labels: (B, 1 + K), the soft target, for its metrics; None: there is none.
    """

    loss: Array
    metrics: Metrics
    logits: Array | None = None
    labels: Array | None = None


@dataclass(frozen=True)
class QueueContrast(Averaged):
    """All but views and loss of a method with a queue.

    Attributes:
      student_views: the views of the student's pass.
      teacher_views: the views of each pass of the teacher.
    """

    student_views = ("query",)
    teacher_views = (("key",),)

    @property
    def needs(self) -> Needs:
        """A batch that divides the queue; without one, other videos in the batch."""
        size, passes = self.settings.queue.size, len(self.teacher_views)
        return Needs(size, 1 if size else 2, "negatives come from the batch", teacher_passes=passes)

    @property
    def columns(self) -> dict[str, int]:
        """Widths of the queue's columns: one for each view of the teacher."""
        return {name: self.settings.head.dim for names in self.teacher_views for name in names}

    @property
    def separate_passes(self) -> bool:
        """Whether a BatchNorm normalizes each view by itself."""
        return True

    @property
    def parts(self) -> int:
        """Of the batch, each of which the encoder's BatchNorm normalizes by itself."""
        return self.model.sub_batches if self.model.norm == "sub_batch" else 1

    def prepare(self, batch: Batch, rng: Array) -> Batch:
        """The batch with what a method does to its clips on the device."""
        return batch

    def embed_views(self, params: Tree, state: MethodState, batch: Batch) -> tuple[Embeddings, Embeddings, Tree]:
        """Queries, keys, and the student's new model state."""
        clips = [batch[name] for name in self.student_views]
        passes = [[batch[name] for name in names] for names in self.teacher_views]
        student = {"params": params, **state.model_state}
        options = {"separate": self.separate_passes, "parts": self.parts}
        arguments = (self.student, student, clips, self.network, state.teacher, passes)
        found, keys, model_state = student_then_teacher(*arguments, **options)
        names = [name for group in self.teacher_views for name in group]
        return dict(zip(self.student_views, found, strict=True)), dict(zip(names, keys, strict=True)), model_state

    def contrast(self, seen: Seen) -> Contrast:
        """The loss of each video."""
        raise NotImplementedError

    def directions(self, queries: Embeddings, keys: Embeddings) -> list[tuple[Embeddings, Embeddings]]:
        """Queries and keys that `contrast` is called with; the loss is the mean over them."""
        return [(queries, keys)]

    def entries(self, keys: Embeddings) -> list[Embeddings]:
        """What of the keys of a direction enters the queue, batch by batch."""
        return [keys]

    def with_batch(self, now: Array, past: Array | None, axis: int = 0) -> Array:
        """What is of the batch, where its own keys are compared with, before what is of the queue."""
        if past is None:
            return now
        return jnp.concatenate([now, past], axis) if self.settings.queue.in_batch else past

    def init(self, rng: Array, batch: Batch, pretrained: Mapping[str, Tree]) -> MethodState:
        """Student and teacher start equal; the queue starts empty."""
        size = self.settings.queue.size
        buffers = empty_queue(size, self.columns) if size else {}
        return super().init(rng, batch, pretrained)._replace(buffers=buffers)

    def loss(
        self, params: Tree, state: MethodState, batch: Batch, rng: Array, step: ArrayLike
    ) -> tuple[Array, tuple[MethodState, Metrics]]:
        """Mean loss of the batch against the queue before it; then the batch enters the queue."""
        video, label, past = batch["video"], batch["label"], None
        teacher, queue = jax.lax.stop_gradient((state.teacher, state.buffers))
        queries, keys, model_state = self.embed_views(params, state._replace(teacher=teacher), self.prepare(batch, rng))
        if queue:
            past = negatives_mask(queue, video, drop_same_video=self.settings.queue.drop_same_video)
        mask = self.with_batch(video[:, None] != video[None, :], past, axis=1)
        directions, found = self.directions(queries, keys), []
        for queries, keys in directions:
            columns = {name: self.with_batch(now, queue.get(name)) for name, now in {**keys, "label": label}.items()}
            seen = Seen(queries, keys, {**queue, **columns}, mask, label, step)
            found.append(contrast_metrics(self.contrast(seen), seen))
        metrics = jax.tree.map(lambda *values: jnp.mean(jnp.stack(values)), *found)
        if past is not None:
            metrics |= queue_metrics(queue, past, step)
        for entries in [entry for _, keys in directions for entry in self.entries(keys)] if queue else []:
            queue = enqueue(queue, {**entries, "video": video, "label": label}, step)
        return metrics["loss"], (state._replace(model_state=model_state, buffers=queue), metrics)


def contrast_metrics(found: Contrast, seen: Seen) -> Metrics:
    """The mean loss under "loss", a method's own metrics, and those of logits and labels."""
    metrics = {"loss": jnp.mean(found.loss), **found.metrics}
    if found.logits is not None:
        metrics["instance_accuracy"] = jnp.mean(jnp.argmax(found.logits, axis=-1) == 0, dtype=jnp.float32)
    if found.labels is not None:
        metrics |= label_metrics(found.labels, seen)
    return metrics


def same_class(seen: Seen) -> Array:
    """(B, K) bool: the slots that may be compared with and whose videos are known to be of the same class."""
    return (seen.queue["label"][None, :] == seen.label[:, None]) & (seen.label[:, None] >= 0) & seen.mask


def queue_metrics(queue: Queue, mask: Array, step: ArrayLike) -> Metrics:
    """How many negatives a clip has, and how old they are, in steps."""
    age, filled = jnp.asarray(step - queue["step"], jnp.float32), queue["step"] >= 0
    return {
        "negatives": jnp.mean(jnp.sum(mask, axis=-1, dtype=jnp.float32)),
        "queue_age": jnp.sum(jnp.where(filled, age, 0.0)) / jnp.maximum(jnp.sum(filled, dtype=jnp.float32), 1.0),
    }


def label_metrics(labels: Array, seen: Seen) -> Metrics:
    """Entropy of the target; the fraction of its soft mass on videos of the same class, and that of chance (NaN: unknown)."""
    same = same_class(seen)

    def fraction(weights: Array) -> Array:
        return jnp.sum(jnp.where(same, weights, 0.0)) / jnp.sum(jnp.where(seen.label[:, None] >= 0, weights, 0.0))

    return {
        "label_entropy": jnp.mean(jnp.sum(jax.scipy.special.entr(labels), axis=-1)),
        "label_mass_same_class": fraction(labels[:, 1:]),
        "negatives_same_class": fraction(seen.mask.astype(jnp.float32)),
    }
