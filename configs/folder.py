"""A folder of one's own videos, no labels needed: R(2+1)D-18 at 112 x 112, the weak teacher.

Command:   python -m wt_jax.main --config=configs/folder.py --workdir=DIR --config.data.train=FOLDER
Hardware:  one GPU of 12 GB; on a CPU take a smaller network:
           --config.model.name=small_r2plus1d --config.model.width=24 --config.clip.size=64 --config.clip.num_frames=8
Expect:    depends on the videos. With labels and --config.data.test=OTHER_FOLDER the run ends with kNN, linear and
           retrieval scores, before and after. docs/results.md has what it gave on two small sets.

Sized for sets of a hundred to some ten thousand videos. All of it is our choice. GroupNorm, because small batches
on one device leak through BatchNorm: a query and its key share their batch's statistics.
"""

from ml_collections import ConfigDict

from wt_jax.config import adapt, adapt_model
from wt_jax.experiment import default_config


def get_config(method: str = "weak_teacher") -> ConfigDict:
    config = default_config(method)
    config.clip.num_frames, config.clip.stride, config.clip.size = 16, 2.0, 112
    config.views.strong.area, config.views.weak.area = (0.3, 1.0), (0.3, 1.0)
    config.data.workers, config.data.max_bad_fraction = 4, 0.1
    adapt_model(config.model, "r2plus1d_18")
    config.model.norm = "group"
    adapt(config.method, {"queue.size": 1024, "teacher.momentum": 0.99, "teacher.schedule": "constant", "prototypes": 256})
    adapt(config.method, {"head.hidden": 0, "head.dim": 128, "head.layers": 2, "head.norm": "batch", "head_norm": "batch"})
    if "label_weight" in config.method:  # the weak teacher and its controls; others keep their source's temperature
        config.method.temperature = 0.1
    config.train.duration, config.train.batch_size = "200 epochs", 32
    config.train.checkpoint_every, config.train.eval_every = "5 epochs", "20 epochs"
    config.optim.name, config.optim.learning_rate, config.optim.warmup = "adamw", 8e-3, "5 %"
    return config
