"""Self-distillation: a student's distribution over classes that nobody named follows a teacher's of another view.

DINO (Caron et al. 2021, arXiv 2104.14294), iBOT's term (Zhou et al. 2022, arXiv 2111.07832), and their public code.
B: videos, G: views of the teacher, the first ones of the student's V; K: classes.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def sharpened(logits: Array, center: Array, temperature: ArrayLike) -> Array:
    """The teacher's distribution, softmax((logits - center) / temperature), without gradient; float32."""
    return jax.lax.stop_gradient(
        jax.nn.softmax((logits.astype(jnp.float32) - center.reshape((1,) * (logits.ndim - 1) + (-1,))) / temperature, axis=-1)
    )


def self_distillation(student: Array, teacher: Array, *, temperature: ArrayLike = 0.1) -> Array:
    """Cross-entropy of each view of the student against each other view of the teacher, averaged over the pairs.

    Args:
      student: (B, V, K) float logits; gradient flows into them alone.
      teacher: (B, G, K) float, distributions (`sharpened`) of the first G views.
      temperature: of the student.

    Returns:
      (B,) float32.

    >>> import jax.numpy as jnp
    >>> float(self_distillation(jnp.zeros((1, 2, 1)), jnp.ones((1, 2, 1)))[0])
    0.0
    """
    views, others = student.shape[1], teacher.shape[1]
    logs = jax.nn.log_softmax(student.astype(jnp.float32) / temperature, axis=-1)
    pairs = -jnp.einsum("bgk,bvk->bgv", jax.lax.stop_gradient(teacher), logs)
    different = jnp.arange(others)[None, :, None] != jnp.arange(views)[None, None]
    return jnp.sum(jnp.where(different, pairs, 0.0), axis=(1, 2)) / (others * (views - 1))


def patch_distillation(student: Array, teacher: Array, mask: Array, *, temperature: ArrayLike = 0.1) -> Array:
    """iBOT's term: cross-entropy of the masked tokens of each view against the teacher's, who sees them.

    Args:
      student: (B, G, N, K) float logits.
      teacher: (B, G, N, K) float, distributions (`sharpened`).
      mask: (B, G, N) bool, the tokens that the student did not see.

    Returns:
      (B,) float32: the mean over a view's masked tokens (0 where there is none), then over views.
    """
    logs = jax.nn.log_softmax(student.astype(jnp.float32) / temperature, axis=-1)
    each = -jnp.sum(jax.lax.stop_gradient(teacher) * logs, axis=-1)
    chosen = mask.astype(jnp.float32)
    return jnp.mean(jnp.sum(each * chosen, axis=-1) / jnp.maximum(jnp.sum(chosen, axis=-1), 1.0), axis=-1)


def move_center(center: Array, logits: Array, *, momentum: ArrayLike = 0.9) -> Array:
    """The running mean (K,) after a step whose teacher returned logits (..., K)."""
    mean = jnp.mean(jax.lax.stop_gradient(logits).astype(jnp.float32), axis=tuple(range(logits.ndim - 1)))
    return center * momentum + mean * (1.0 - jnp.asarray(momentum, jnp.float32))


def concept_distillation(
    student: Array, teacher: Mapping[str, Array], concepts: Mapping[str, Array], *, temperature: ArrayLike = 0.1
) -> tuple[Array, Array]:
    """Distillation and alignment in the space of named concepts (LSS: Ranasinghe & Ryoo 2023, arXiv 2307.10922).

    The paper prints no equation that could be read: this form is our inference. With tables C and D whose rows n are two
    descriptions of one action, p the teacher's and q the student's distributions,

        distillation  CE(p_C, q_C) + CE(p_D, q_D)        alignment  CE(p_D, q_C) + CE(p_C, q_D)

    each averaged over the pairs of different views.

    Args:
      student: (B, V, d) float, L2-normalized features; gradient flows into them alone.
      teacher: by the names of `concepts`, (B, G, N) distributions (`sharpened`) of the first G views.
      concepts: two tables (N, d), rows L2-normalized.
      temperature: of the student.

    Returns:
      distillation (B,) and alignment (B,), float32.

    Raises:
      ValueError: there are not two tables.
    """
    first, second = concepts
    logits = {name: student.astype(jnp.float32) @ jax.lax.stop_gradient(table).T for name, table in concepts.items()}

    def term(goal: str, ours: str) -> Array:
        return self_distillation(logits[ours], teacher[goal], temperature=temperature)

    return term(first, first) + term(second, second), term(second, first) + term(first, second)
