"""Common to the evaluations on UCF101 and HMDB51: three splits, CoCLR's clips and encoder. No evaluation by itself."""

from ml_collections import ConfigDict

from wt_jax.config import to_dict
from wt_jax.eval.config import default_evaluation
from wt_jax.eval.protocols.clips import ClipTraining


def stored() -> ConfigDict:
    """The protocols on stored features."""
    config = default_evaluation()
    config.splits = tuple((f"train{split}.txt", f"test{split}.txt") for split in (1, 2, 3))
    config.clip.num_frames, config.clip.stride, config.clip.size = 32, 1.0, 128
    config.features.windows, config.workers = 10, 16
    config.model.name, config.model.dtype = "s3d", "bfloat16"
    config.settings.linear.learning_rates = (0.01, 0.1, 0.3, 1.0)
    config.settings.linear.weight_decays = (1e-4, 1e-3, 1e-2, 1e-1)
    return config


def trained(protocol: str, recipe: ClipTraining) -> ConfigDict:
    """One protocol that trains on clips."""
    config = stored()
    config.protocols = (protocol,)
    config.settings[protocol] = ConfigDict(to_dict(recipe))
    return config
