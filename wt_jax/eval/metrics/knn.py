"""Top-1 of the weighted kNN, without the sweep: the online measure of a representation."""

from dataclasses import replace

from wt_jax.eval.protocols.table import FeatureProtocols
from wt_jax.eval.run_features import RunFeatures


def knn(features: RunFeatures, settings: FeatureProtocols) -> dict[str, float]:
    """{"knn_top1": accuracy in [0, 1] on the test videos}."""
    result = features.run(replace(settings.knn, ks=(), temperatures=()))
    return {"knn_top1": float(result.values["top1"].mean())}
