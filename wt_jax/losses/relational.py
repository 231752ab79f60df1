"""Losses that teach relations: how like a clip is to the clips of a queue. ReSSL, CLSA, CO2 and SEED.

All compare the student's `similarity_logits` with a target of `wt_jax.losses.targets`; gradient flows into the student's
embeddings alone. Embeddings are (B, D) float and L2-normalized by the caller, queues (K, D), masks (B, K) bool with True
where a slot may be compared; each loss is (B,) float32.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses.contrastive import info_nce, similarity_logits, soft_cross_entropy
from wt_jax.losses.targets import relations, similarity_labels


def relational_loss(
    query: Array,
    weak_key: Array,
    strong_queue: Array,
    weak_queue: Array,
    *,
    temperature: ArrayLike = 0.1,
    weak_temperature: ArrayLike = 0.04,
    mask: Array | None = None,
) -> Array:
    """The relations alone, with no positive slot: ReSSL (Zheng et al. 2021, arXiv 2107.09282, eq. 5).

        L = -sum_j softmax(w.Qw / t_w)_j log softmax(q.Qs / t)_j

    ReSSL keeps one queue: there `strong_queue` and `weak_queue` are the same array. A row whose mask allows no slot has
    loss 0. The temperatures are ReSSL's own.

    Args:
      query: the student's strong view.
      weak_key: the teacher's weak view.
      strong_queue, weak_queue: what each is compared with; slot j of both from one video.
      temperature, weak_temperature: positive scalars t and t_w.
      mask: see above.
    """
    strong_queue = jax.lax.stop_gradient(strong_queue)
    no_positive = jnp.zeros_like(query)
    logits = similarity_logits(query, no_positive, strong_queue, temperature=temperature, mask=mask)[:, 1:]
    labels = similarity_labels(weak_key, None, weak_queue, temperature=weak_temperature, mask=mask)[:, 1:]
    return jnp.sum(labels, axis=-1) * soft_cross_entropy(logits, labels)


def clsa_loss(
    strong: Array,
    weak: Array,
    key: Array,
    queue: Array,
    *,
    temperature: ArrayLike = 0.2,
    divergence_temperature: ArrayLike = 0.2,
    weight: ArrayLike = 1.0,
    mask: Array | None = None,
) -> Array:
    """CLSA (Wang & Qi 2021, arXiv 2104.07713): InfoNCE of the weak view, whose similarities teach the strong one.

        L = InfoNCE(weak, key; Q) + weight * CE( softmax(z_weak / t2), softmax(z_strong / t2) ),   z = [.k, .Q]

    With weight 0 it is `info_nce` of the weak view. Defaults are the authors'.

    Args:
      strong, weak: the student's strongly and weakly augmented views; the cross-entropy passes no gradient to `weak`.
      key: the teacher's view.
      queue: past keys.
      temperature, divergence_temperature: positive scalars.
      weight: scalar, 0 or more.
      mask: see above.
    """
    key, queue = jax.lax.stop_gradient((key, queue))
    labels = similarity_labels(weak, key, queue, temperature=divergence_temperature, mask=mask)
    logits = similarity_logits(strong, key, queue, temperature=divergence_temperature, mask=mask)
    return info_nce(weak, key, queue, temperature=temperature, mask=mask) + weight * soft_cross_entropy(logits, labels)


def consistency(query: Array, key: Array, queue: Array, *, temperature: ArrayLike, mask: Array | None = None) -> Array:
    """CO2's term: the symmetric divergence (KL(P|Q) + KL(Q|P)) / 2 of key's (P) and query's (Q) relations to the queue.

    Args:
      query: the student's view.
      key: the teacher's view of the same video; a constant.
      queue: past keys.
      temperature: positive scalar.
      mask: see above; a row without any slot has 0.
    """
    key, queue = jax.lax.stop_gradient((key, queue))
    p, q = (relations(anchor, queue, temperature=temperature, mask=mask) for anchor in (key, query))
    # Logarithms of the shares, kept away from 0 where a slot is excluded or its share underflows.
    log_p, log_q = (jnp.log(jnp.maximum(x, jnp.finfo(jnp.float32).tiny)) for x in (p, q))
    return 0.5 * jnp.sum((p - q) * (log_p - log_q), axis=-1)


def co2_loss(
    query: Array,
    key: Array,
    queue: Array,
    *,
    temperature: ArrayLike = 0.07,
    consistency_temperature: ArrayLike = 0.05,
    weight: ArrayLike = 1.0,
    mask: Array | None = None,
) -> Array:
    """CO2 (Wei et al. 2021, arXiv 2010.02217): InfoNCE + weight * `consistency`.

    With weight 0 it is `info_nce`. The authors' values of `weight` and `consistency_temperature` could not be read; the
    defaults are those of lightly's implementation.
    """
    term = consistency(query, key, queue, temperature=consistency_temperature, mask=mask)
    return info_nce(query, key, queue, temperature=temperature, mask=mask) + weight * term


def seed_loss(
    student: Array,
    teacher: Array,
    queue: Array,
    *,
    temperature: ArrayLike = 0.2,
    teacher_temperature: ArrayLike = 1e-4,
    mask: Array | None = None,
) -> Array:
    """SEED (Fang et al. 2021, arXiv 2101.04731): the student's relations to the teacher's embeddings.

        L = -sum_j softmax([t.t, t.Q] / t_T)_j log softmax([s.t, s.Q] / t_S)_j

    As `teacher_temperature` goes to 0 the teacher's label becomes one-hot and this is `info_nce`. Defaults are those of the
    authors' code.

    Args:
      student, teacher: embeddings of the same view; the teacher's is a constant.
      queue: past embeddings of the teacher.
      temperature, teacher_temperature: positive scalars t_S and t_T.
      mask: see above.
    """
    teacher, queue = jax.lax.stop_gradient((teacher, queue))
    labels = similarity_labels(teacher, teacher, queue, temperature=teacher_temperature, mask=mask)
    return soft_cross_entropy(similarity_logits(student, teacher, queue, temperature=temperature, mask=mask), labels)
