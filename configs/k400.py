"""Kinetics-400 pre-training, S3D, the weak teacher.

Command:   python -m wt_jax.main --config=configs/k400.py --workdir=DIR --config.data.train=LIST
           (configs/k400.py:one_hot, :label_smoothing, :strong_teacher and :relational are the controls; the names of all
           methods are in wt_jax/methods/__init__.py, their own settings are their sources')
Hardware:  meant for 8 accelerators of 16 GB or more, bfloat16; 32 or more CPU cores per 8 of them for decoding. The
           compiler's figure for eight TPU v5e is 4.0 GiB each (docs/scaling.md); on fewer, add --config.train.accumulate=N.
Expect:    NOT RUN YET: no result of this configuration is known. For comparison, CoCLR's InfoNCE baseline (S3D, the
           same clip, pre-trained on UCF101) reaches R@1 33.1 and linear 46.8 on UCF101 split 1.

Clip, head, queue and optimizer are those of CoCLR's InfoNCE baseline (arXiv 2010.09709, its public code): 32 frames at
stride 1, 128 x 128, Adam 1e-3 with weight decay 1e-5 at 128 clips per step (4 GPUs x 32), divided by 10 at epochs 250 and
280 of 300. The augmentation is not: only the strengths of jitter, gray and blur are. CoCLR shows, of half the videos, one
clip strong and the same one plain, of the other half two clips, each strong with probability 0.3; its gray copies a random
channel, and it resizes bicubically. Its numbers were made with that mixture, ours would not be. That the weak teacher's
authors used any of this is not known. What is the weak teacher's own (label weight, its temperature) is our inference; see
wt_jax/methods/weak_teacher.py. Methods whose source has other clips or another optimizer have them below, as far as they are
known.
"""

from typing import Any

from ml_collections import ConfigDict

from wt_jax.config import adapt, adapt_model
from wt_jax.experiment import default_config

RECIPES: dict[str, dict[str, Any]] = {
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


def _clip(frames: int, stride: float, size: int) -> dict[str, Any]:
    return {"clip.num_frames": frames, "clip.stride": stride, "clip.size": size}


def _adamw(rate: float, warmup: str, decay: float) -> dict[str, Any]:
    """AdamW with a cosine; `rate` is per 256 clips."""
    kind = {"optim.name": "adamw", "optim.schedule": "cosine", "optim.decay_norms": False}
    return {**kind, "optim.learning_rate": rate, "optim.warmup": warmup, "optim.weight_decay": decay}


_VJEPA_VIEW = {"views.weak.area": (0.3, 1.0), "views.weak.aspect": (0.75, 1.35), "views.weak.flip_probability": 0.5}
# SVT's script: 20 epochs of its released model, 32 clips a step; the last rate is 1e-6.
_SVT = {
    **_clip(8, 1.0, 224),
    "views.strong.pixels.hue": 0.0,
    "views.strong.pixels.saturation": 0.2,
    "views.strong.pixels.blur_probability": 0.0,
    "train.duration": "20 epochs",
    "train.batch_size": 32,
    **_adamw(5e-4, "10 epochs", 0.04),
    "optim.final_rate": 8e-6,
    "optim.final_weight_decay": 0.4,
    "optim.clip_norm": 3.0,
    "optim.clip_each": "tensor",
}

RECIPES |= {
    # VideoMAE's scripts, ViT-B, 800 epochs. Its corner crops of four scales are random crops of their areas here.
    "videomae": {
        **_clip(16, 4.0, 224),
        "views.weak.area": (0.43, 1.0),
        "train.duration": "800 epochs",
        "train.batch_size": 2048,
        **_adamw(1.5e-4, "40 epochs", 0.05),
        "optim.betas": (0.9, 0.95),
        "optim.start_rate": 1e-6,
        "optim.final_rate": 1e-5,
    },
    # V-JEPA's configuration, ViT-L: rates are 2e-4 to 6.25e-4 to 1e-6 at 3,072 clips. Its data are a mixture of three sets.
    "vjepa": {
        **_clip(16, 4.0, 224),
        **_VJEPA_VIEW,
        "train.duration": "90000 steps",
        "train.batch_size": 3072,
        **_adamw(6.25e-4 / 12, "12000 steps", 0.04),
        "optim.start_rate": 2e-4 / 12,
        "optim.final_rate": 1e-6 / 12,
        "optim.final_weight_decay": 0.4,
        "optim.stretch": 1.25,
        "optim.clip_norm": 10.0,
        "optim.clip_each": "part",
        "optim.clip_from": "12000 steps",
    },
    # V-JEPA 2's main phase, ViT-L: 1e-4 to 5.25e-4 at 3,072 clips, then constant. How many steps it had could not be read.
    "vjepa2": {
        **_clip(16, 0.25, 256),
        "clip.unit": "seconds",
        **_VJEPA_VIEW,
        "train.duration": "90000 steps",
        "train.batch_size": 3072,
        **_adamw(5.25e-4 / 12, "12000 steps", 0.04),
        "optim.schedule": "constant",
        "optim.start_rate": 1e-4 / 12,
    },
    "svt": _SVT,
    "svt_weak_teacher": _SVT,
    # SVT's recipe from CLIP's weights, at a tenth of its rate: our inference. Name both tables in config.method.tables.
    "lss": {**_SVT, "optim.learning_rate": 5e-5, "optim.final_rate": 8e-7},
}


def get_config(method: str = "weak_teacher") -> ConfigDict:
    config = default_config(method)
    config.clip.num_frames, config.clip.stride, config.clip.size = 32, 1.0, 128
    config.data.workers = 16
    adapt_model(config.model, "s3d")
    config.model.dtype = "bfloat16"
    adapt(config.method, {"queue.size": 16384, "motion_rate": 1})  # at stride 1 there are no frames between
    config.train.duration, config.train.batch_size = "300 epochs", 128
    # 1e-3 at 128 clips; config.optim.learning_rate is per 256.
    config.optim.name, config.optim.learning_rate, config.optim.weight_decay = "adam", 2e-3, 1e-5
    config.optim.schedule, config.optim.milestones = "step", ("250 epochs", "280 epochs")
    config.train.eval_every = "10 epochs"
    config.update_from_flattened_dict(RECIPES.get(method, {}))
    return config
