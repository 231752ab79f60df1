"""UCF101 pre-training (split 1), S3D, the weak teacher.

Command:   python -m wt_jax.main --config=configs/ucf101.py --workdir=DIR --config.data.train=TRAIN --config.data.test=TEST
Hardware:  meant for 2 accelerators of 32 GB, bfloat16; 16 CPU cores.
Expect:    NOT RUN YET. CoCLR's InfoNCE baseline in this setting: linear 46.8 (300 + 200 epochs), R@1 33.1.

CoCLR's InfoNCE setting for UCF101: 64 clips per step (2 GPUs x 32), queue 2,048; otherwise as configs/k400.py, whose header has
what is not CoCLR's, the augmentation above all.
"""

from ml_collections import ConfigDict
from wt_jax.configs.k400 import RECIPES
from wt_jax.configs.k400 import get_config as get_k400_config

from wt_jax.config import adapt


def get_config(method: str = "weak_teacher") -> ConfigDict:
    config = get_k400_config(method)
    config.data.workers = 8
    adapt(config.method, {"queue.size": 2048, "prototypes": 500})
    config.train.batch_size = 64
    config.optim.learning_rate = 4e-3  # 1e-3 at 64 clips
    config.update_from_flattened_dict(RECIPES.get(method, {}))
    return config
