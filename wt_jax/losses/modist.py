"""MoDist's four terms (Xiao, Tighe & Modolo 2021, arXiv 2106.09703).

The form is that of the same authors' patent US11971956B2; that negatives have the key's modality is how MSCL's public
re-implementation has it; the defaults are those of the authors' released configuration.
"""

from jax import Array
from jax.typing import ArrayLike

from wt_jax.losses.contrastive import info_nce


def modist_terms(
    queries: dict[str, Array],
    keys: dict[str, Array],
    queues: dict[str, Array],
    *,
    temperature: ArrayLike = 0.1,
    mask: Array | None = None,
) -> dict[str, Array]:
    """InfoNCE of each modality's query with each modality's key.

        "visual_visual" = InfoNCE(q_v, k_v; Q_v)     "visual_motion" = InfoNCE(q_v, k_m; Q_m)
        "motion_motion" = InfoNCE(q_m, k_m; Q_m)     "motion_visual" = InfoNCE(q_m, k_v; Q_v)

    Args:
      queries, keys: "visual" and "motion", each (B, D) float, L2-normalized; gradient flows into the queries alone.
      queues: "visual" and "motion", each (K, D) float: past keys, slot j of both from one video.
      temperature: positive scalar.
      mask: (B, K) bool, True where a slot may serve as a negative.

    Returns:
      Four terms (B,) float32.
    """
    kinds = ("visual", "motion")
    return {
        f"{query}_{key}": info_nce(queries[query], keys[key], queues[key], temperature=temperature, mask=mask)
        for query in kinds
        for key in kinds
    }


def modist_loss(terms: dict[str, Array], *, motion_weight: ArrayLike = 0.0, cross_weight: ArrayLike = 1.0) -> Array:
    """L_vv + motion_weight L_mm + cross_weight (L_vm + L_mv) of `modist_terms`, (B,) float32.

    With both weights 0 it is `info_nce` of the RGB clips.
    """
    cross = terms["visual_motion"] + terms["motion_visual"]
    return terms["visual_visual"] + motion_weight * terms["motion_motion"] + cross_weight * cross
