"""Quick start: the weak teacher on the embedded data set, on a CPU.

Command:  launch/quickstart.sh
"""

from ml_collections import ConfigDict

from wt_jax.config import default_config


def get_config(method: str = "weak_teacher") -> ConfigDict:
    config = default_config(method)
    config.clip.num_frames, config.clip.stride, config.clip.size = 8, 1.0, 32
    config.model.name, config.model.width, config.model.norm = "r2plus1d_10", 16, "group"
    config.method.queue_size, config.method.momentum = 256, 0.99
    config.train.batch_size, config.train.duration = 32, "400 steps"
    config.optim.name, config.optim.learning_rate = "adamw", 0.016
    return config
