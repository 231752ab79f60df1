"""The loss that learns from the weak teacher's artificial labels.

Source: "Systems and methods for video representation learning with a weak teacher", US20220156593A1 / US12210976B2,
claim 1, and H. Liu, "Improving self-supervision in video representation learning", NTU 2021 (abstract). Neither prints
an equation that could be read: the equations here are our inference from the claim and the abstract. In short:

    z_i  = [q_i.k_i, q_i.Qs_1, ..., q_i.Qs_K] / t           p_i = softmax(z_i)
    s_ij = exp(w_i.Qw_j / t_w) / sum_m exp(w_i.Qw_m / t_w)   over negatives only
    y_i  = [1 - l, l s_i1, ..., l s_iK]                      the artificial label
    L_i  = - sum_j y_ij log p_ij

q: student, strong view; k: teacher, strong view; w: the weak teacher (the same parameters), weak view; Qs and Qw: queues
of past k and w, slot j of both from one video.
"""

import jax
from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses.contrastive import similarity_logits, soft_cross_entropy
from wt_jax.losses.targets import artificial_labels


def weak_teacher_loss(
    query: Array,
    key: Array,
    weak_key: Array,
    strong_queue: Array,
    weak_queue: Array,
    *,
    temperature: ArrayLike = 0.07,
    weak_temperature: ArrayLike = 0.07,
    label_weight: ArrayLike = 0.2,
    mask: Array | None = None,
    include_positive: bool = False,
) -> Array:
    """Contrastive loss of the student against the weak teacher's artificial labels (equations above).

    It equals (1 - l) InfoNCE + l sum_j s_ij (-log p_ij). With label_weight 0 it is exactly `info_nce`; with an infinite
    weak temperature it is InfoNCE with plain label smoothing; with label_weight 1 only the relations teach.

    Args:
      query: (B, D) float, the student's strong view, L2-normalized by the caller like all the others. The only argument
        that receives a gradient: (p - y) / temperature with respect to the similarities.
      key: (B, D) float, the first teacher's strong view.
      weak_key: (B, Dw) float, the second (weak) teacher's weak view; Dw may differ from D.
      strong_queue: (K, D) float, past keys.
      weak_queue: (K, Dw) float, past weak keys; slot j comes from the same video as slot j of `strong_queue`.
      temperature, weak_temperature: positive scalars. Both defaults are our inference (0.07 is MoCo's).
      label_weight: scalar in [0, 1]; the default is our inference.
      mask: (B, K) bool, True where a queue slot may serve as a negative.
      include_positive: whether the label's similarities are to the key too (s over [key, weak_queue], y_0 = 1 - l + l s_0);
        then Dw is D. Claim 1 compares with negatives, which is the default.

    Returns:
      (B,) float32.
    """
    key, strong_queue = jax.lax.stop_gradient((key, strong_queue))
    logits = similarity_logits(query, key, strong_queue, temperature=temperature, mask=mask)
    compared = key if include_positive else None
    labels = artificial_labels(
        weak_key, weak_queue, temperature=weak_temperature, label_weight=label_weight, mask=mask, key=compared
    )
    return soft_cross_entropy(logits, labels)
