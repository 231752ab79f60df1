"""The public loss library: pure functions of arrays, one value per sample, no state and no configuration object."""

from wt_jax.losses.contrastive import info_nce, similarity_logits, soft_cross_entropy
from wt_jax.losses.weak_teacher import artificial_labels, label_smoothing, relational_loss, weak_teacher_loss

__all__ = [
    "artificial_labels",
    "info_nce",
    "label_smoothing",
    "relational_loss",
    "similarity_logits",
    "soft_cross_entropy",
    "weak_teacher_loss",
]
