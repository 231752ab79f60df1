"""Labelled videos: R(2+1)D-18 at 112 x 112, supervised, from scratch; the baseline that a pre-trained encoder should beat.

Command:   python -m wt_jax.main --config=configs/supervised.py --workdir=DIR --config.data.train=LIST --config.data.test=TEST
           (--config.model.weights=FOLDER starts from exported weights: fine-tuning;
           --config.method.freeze=encoder --config.method.head_norm=l2_batch: linear probe on augmented clips)
Hardware:  one GPU of 12 GB; on a CPU take a smaller network:
           --config.model.name=small_r2plus1d --config.model.width=24 --config.clip.size=48 --config.clip.num_frames=8
Expect:    depends on the videos; classes that differ by side need --config.views.strong.flip_probability=0.

All of it is our choice; wt_jax/eval/protocols/finetune.py has published settings.
"""

from ml_collections import ConfigDict

from wt_jax.experiment import default_config


def get_config() -> ConfigDict:
    config = default_config("supervised")
    config.clip.num_frames, config.clip.stride, config.clip.size = 16, 2.0, 112
    config.views.strong.area = (0.3, 1.0)
    config.data.workers, config.data.max_bad_fraction = 4, 0.1
    config.model.name = "r2plus1d_18"
    config.method.dropout = 0.5
    config.train.duration, config.train.batch_size = "100 epochs", 32
    config.train.checkpoint_every = "5 epochs"
    config.optim.name, config.optim.learning_rate, config.optim.warmup = "adamw", 8e-3, "5 %"
    config.optim.weight_decay = 0.05
    return config
