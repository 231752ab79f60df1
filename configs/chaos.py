"""A very small run for `python -m wt_jax.bench.chaos`, which kills and restarts it again and again.

Command:   python -m wt_jax.bench.chaos --config=configs/chaos.py --kills=100
Hardware:  one CPU core; two simulated devices in one process, or one device in each of two.
Expect:    "the end state equals the undisturbed run bit for bit". Nothing is learnt.
"""

from ml_collections import ConfigDict
from wt_jax.configs.quickstart import get_config as get_quickstart_config


def get_config(method: str = "weak_teacher") -> ConfigDict:
    config = get_quickstart_config(method)
    config.clip.num_frames, config.clip.size, config.clip.gap = 4, 16, 0.0
    config.model.width = 8
    config.method.queue.size = 64
    config.train.batch_size, config.train.duration = 8, "300 steps"
    config.train.log_every, config.train.checkpoint_every, config.train.eval_every = 1, "3 steps", "100 steps"
    config.eval.features.windows, config.eval.features.batch_size = 2, 8
    return config
