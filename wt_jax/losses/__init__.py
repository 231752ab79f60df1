"""The public loss library: pure functions of arrays, one value per sample, no state and no configuration object."""

from wt_jax.losses.byol import byol_loss
from wt_jax.losses.contrastive import info_nce, nt_xent, similarities, similarity_logits, soft_cross_entropy
from wt_jax.losses.hdc import in_batch_info_nce, invariance_weights
from wt_jax.losses.modist import modist_loss, modist_terms
from wt_jax.losses.relational import clsa_loss, co2_loss, consistency, relational_loss, seed_loss
from wt_jax.losses.scale import masked_clip_loss, set_contrast
from wt_jax.losses.swav import sinkhorn, swapped_prediction
from wt_jax.losses.targets import artificial_labels, label_smoothing, relations, similarity_labels
from wt_jax.losses.video_speech import paced_margin_loss, video_speech_loss
from wt_jax.losses.vtdl import vtdl_loss
from wt_jax.losses.weak_teacher import weak_teacher_loss

__all__ = [
    "artificial_labels",
    "byol_loss",
    "clsa_loss",
    "co2_loss",
    "consistency",
    "in_batch_info_nce",
    "info_nce",
    "invariance_weights",
    "label_smoothing",
    "masked_clip_loss",
    "modist_loss",
    "modist_terms",
    "nt_xent",
    "paced_margin_loss",
    "relational_loss",
    "relations",
    "seed_loss",
    "set_contrast",
    "similarities",
    "similarity_labels",
    "similarity_logits",
    "sinkhorn",
    "soft_cross_entropy",
    "swapped_prediction",
    "video_speech_loss",
    "vtdl_loss",
    "weak_teacher_loss",
]
