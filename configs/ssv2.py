"""Something-Something v2 pre-training, Slow R50 8x8, the weak teacher.

Command:   python -m wt_jax.main --config=configs/ssv2.py --workdir=DIR --config.data.train=LIST
Hardware:  meant for 8 accelerators of 40 GB or more, bfloat16; 64 CPU cores for decoding.
Expect:    NOT RUN YET. Of the rivals, rho-MoCo pre-trained on Kinetics-400 reaches 52.7 on SSv2 after fine-tuning.

Backbone, frame size, queue and temperature of the weak teacher and its controls follow the rho study (arXiv 2104.14558 and
configs/contrastive_ssl of PySlowFast): teacher's momentum rising from 0.994 by a cosine, temperature 0.1, queue 65,536, SGD
0.4 per 512 clips, weight decay 1e-4 but for BatchNorm, 200 epochs, 35 of warm-up. Different from the study, and ours: its
rate acts on losses summed over the clips of a video, ours on a mean; its cosine starts at epoch 0 and the warm-up meets it
there, ours starts after the warm-up; it has LARS at 4.8 for BYOL and SimCLR, this file one optimizer for all. Other methods
keep the momentum, queue and temperature of their sources (SwAV's queue is 4,096, since 512 does not divide 3,840). Flips are
off, since classes differ by side ("from left to right"). SSv2 clips last about 4 s at 12 frames per second, so the stride is
4 instead of 8. These two changes are ours; so is the two-layer head.
"""

from ml_collections import ConfigDict

from wt_jax.config import adapt, adapt_model
from wt_jax.experiment import default_config


def get_config(method: str = "weak_teacher") -> ConfigDict:
    config = default_config(method)
    config.clip.num_frames, config.clip.stride, config.clip.size = 8, 4.0, 224
    config.views.strong.flip_probability = 0.0
    config.data.workers = 32
    adapt_model(config.model, "slow_r50")
    config.model.dtype = "bfloat16"
    if "label_weight" in config.method:  # the weak teacher and its controls; others keep their source's
        adapt(config.method, {"queue.size": 65536, "teacher.momentum": 0.994, "teacher.schedule": "cosine"})
        config.method.temperature, config.method.weak_temperature = 0.1, 0.1
    if "prototypes" in config.method:
        config.method.queue.size = 4096
    config.train.duration, config.train.batch_size = "200 epochs", 512
    config.optim.learning_rate, config.optim.warmup, config.optim.weight_decay = 0.2, "35 epochs", 1e-4
    config.optim.decay_norms = False
    config.train.eval_every = "10 epochs"
    return config
