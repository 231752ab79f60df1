"""Kinetics-400 pre-training, S3D, the weak teacher.

Command:   python -m wt_jax.main --config=configs/k400.py --workdir=DIR --config.data.train=LIST
           (configs/k400.py:one_hot, :label_smoothing, :strong_teacher and :relational are the controls; the names of all
           methods are in wt_jax/methods/__init__.py, their own settings are their sources')
Hardware:  meant for 8 accelerators of 32 GB or more, bfloat16; 32 or more CPU cores per 8 of them for decoding.
           On fewer, add --config.train.accumulate=N.
Expect:    NOT RUN YET: no result of this configuration is known. For comparison, CoCLR's InfoNCE baseline (S3D, the
           same clip, pre-trained on UCF101) reaches R@1 33.1 and linear 46.8 on UCF101 split 1.

Clip, augmentation, head, queue and optimizer are those of CoCLR's InfoNCE baseline (arXiv 2010.09709, its public code):
32 frames at stride 1, 128 x 128, Adam 1e-3 with weight decay 1e-5 at 128 clips per step (4 GPUs x 32), divided by 10 at
epochs 250 and 280 of 300. That the weak teacher's authors used them is not known. What is the weak teacher's own (label
weight, its temperature) is our inference; see wt_jax/methods/weak_teacher.py. Methods whose source has other clips or another
optimizer have them below, as far as they are known.
"""

from ml_collections import ConfigDict

from wt_jax.config import adapt
from wt_jax.experiment import default_config

RECIPES = {
    # SCALE's training script: AdamW 3e-4 at 512 videos, weight decay on matrices only. The clips are those of its backbones.
    "scale": {
        "clip.num_frames": 16,
        "clip.stride": 4.0,
        "clip.size": 224,
        "eval.features.windows": 5,
        "eval.features.crops": 3,
        "train.duration": "200 epochs",
        "train.batch_size": 512,
        "optim.name": "adamw",
        "optim.learning_rate": 1.5e-4,
        "optim.weight_decay": 1e-4,
        "optim.decay_norms": False,
        "optim.schedule": "cosine",
        "optim.warmup": "5 %",
    },
    # V3S's recipe could not be read: PRP's, its nearest relative (16 frames of 112, SGD 0.01 at 8 clips, R3D-18).
    "v3s": {
        "clip.num_frames": 16,
        "clip.size": 112,
        "model.name": "r3d_18",
        "train.duration": "300 epochs",
        "optim.name": "sgd",
        "optim.learning_rate": 0.32,
        "optim.weight_decay": 5e-4,
        "optim.schedule": "cosine",
        "optim.warmup": "5 epochs",
    },
    # 4 frames, every eighth, as the authors' group takes them of ultrasound; the optimizer is our choice.
    "order_geometry": {
        "clip.num_frames": 4,
        "clip.stride": 8.0,
        "clip.size": 224,
        "model.name": "r3d_18",
        "optim.name": "sgd",
        "optim.learning_rate": 0.03,
        "optim.weight_decay": 1e-4,
        "optim.schedule": "cosine",
        "optim.warmup": "5 epochs",
    },
    # Encoders, margin and schedule could not be read: all of it is our choice.
    "video_speech": {
        "clip.num_frames": 16,
        "clip.stride": 4.0,
        "clip.size": 112,
        "model.name": "r3d_18",
        "optim.name": "adamw",
        "optim.learning_rate": 1e-3,
        "optim.weight_decay": 1e-2,
        "optim.schedule": "cosine",
        "optim.warmup": "5 epochs",
    },
}


def get_config(method: str = "weak_teacher") -> ConfigDict:
    config = default_config(method)
    config.clip.num_frames, config.clip.stride, config.clip.size = 32, 1.0, 128
    config.data.workers = 16
    config.model.name, config.model.dtype = "s3d", "bfloat16"
    adapt(config.method, {"queue.size": 16384, "motion_rate": 1})  # at stride 1 there are no frames between
    config.train.duration, config.train.batch_size = "300 epochs", 128
    # 1e-3 at 128 clips; config.optim.learning_rate is per 256.
    config.optim.name, config.optim.learning_rate, config.optim.weight_decay = "adam", 2e-3, 1e-5
    config.optim.schedule, config.optim.milestones = "step", ("250 epochs", "280 epochs")
    config.train.eval_every = "10 epochs"
    config.update_from_flattened_dict(RECIPES.get(method, {}))
    return config
