"""Quick start: the weak teacher on the embedded data set, on a CPU; `configs/quickstart.py:METHOD` for any other method.

Command:   launch/quickstart.sh   (or python -m wt_jax.tools.quickstart)
Hardware:  two CPU cores.
Expect:    docs/results.md has the scores over 20 seeds and the time it took.

Methods share data, steps, backbone, optimizer, evaluation, and the sizes of queue and head, all sized for this small set;
temperatures and what is a method's own are its source's; the weak teacher and its controls have no published ones.

The weak teacher and its controls take their negatives from the batch, and the teacher is the student at first and slows down
as the training goes on: so runs learn from the first hundred steps on (docs/results.md).
"""

from ml_collections import ConfigDict

from wt_jax.config import adapt
from wt_jax.experiment import default_config

# Each the best of five trials on other videos and another seed than are reported (docs/results.md).
LABELS = {
    "weak_teacher": {"temperature": 0.2, "weak_temperature": 0.05, "label_weight": 0.25},
    "strong_teacher": {"temperature": 0.2, "weak_temperature": 0.05, "label_weight": 0.5},
    "relational": {"temperature": 0.3, "weak_temperature": 0.025},
    "label_smoothing": {"temperature": 0.2, "label_weight": 0.1},
    "oracle": {"temperature": 0.1, "label_weight": 0.8},
    "one_hot": {"temperature": 0.2},
}

# Whose negatives are the batch's other keys. With a queue these learned late or not at all: we suppose that BatchNorm in the
# head lets a network distinguish keys of its own batch from the queue's, without any motion. The others need their queue.
IN_BATCH = (*LABELS, "moco")


def get_config(method: str = "weak_teacher") -> ConfigDict:
    config = default_config(method)
    config.clip.num_frames, config.clip.stride, config.clip.size = 8, 1.0, 24
    # Longer than a clip and a shape's life together: two windows of a video share no shape.
    config.clip.gap = 20.0
    config.views.strong.area, config.views.weak.area = (0.6, 1.0), (0.6, 1.0)
    if config.model.name.startswith("vit"):  # The method needs a transformer: a small one, of as small tubelets.
        config.model.name, config.model.width = "small_vit", 24
        config.model.vit.tubelet = (config.model.vit.tubelet[0], 3, 3)
        config.model.vit.learned_grid = (8, 8, 8)
    else:
        config.model.name, config.model.width, config.model.norm = "small_r2plus1d", 24, "group"
    adapt(config.method, {"decoder.width": 48, "decoder.heads": 2, "decoder.blocks": 2})
    adapt(config.method, {"predictor.width": 48, "predictor.heads": 2, "predictor.blocks": 2})
    adapt(config.method, {"crops.local_clips": 4, "crops.local_size": 12, "head.prototypes": 256})
    adapt(config.method, {"queue.size": 240, "teacher.momentum": 0.97, "teacher.schedule": "constant"})
    if config.method_name in IN_BATCH:
        adapt(config.method, {"queue.size": 0, "teacher.momentum": 0.0, "teacher.schedule": "cosine"})
    adapt(config.method, LABELS.get(config.method_name, {}))
    adapt(config.method, {"head.hidden": 0, "head.dim": 128, "head.layers": 2, "head.norm": "batch", "head_norm": "batch"})
    adapt(config.method, {"prototypes": 64, "motion_rate": 1, "narrowing": 4})
    config.train.batch_size, config.train.duration = 48, "560 steps"
    config.optim.name, config.optim.learning_rate, config.optim.warmup = "adamw", 0.016, "5 %"
    config.train.log_every, config.train.checkpoint_every = 20, "100 steps"
    config.data.workers, config.data.threads, config.data.cache_gib = 1, 2, 0.5
    return config
