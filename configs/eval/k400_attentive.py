"""Kinetics-400: attentive probe on stored feature maps.

Command:   python -m wt_jax.tools.evaluate --config=configs/eval/k400_attentive.py --encoders=RUN --workdir=OUT
           --config.lists=LISTS
Hardware:  meant for 8 accelerators, 64 CPU cores and a disk for the feature maps: 6,272 tokens of 2,048 float16 numbers for
           Slow R50, 25.7 MB a video, 6 TB in all; a part of the videos or fewer clips take less, a ViT-B 19.3 MB a video.
Expect:    NOT RUN YET.

V-JEPA's public config for Kinetics-400 (16x8x3): 16 frames at stride 4, 8 clips of each video, all attended to at once,
learning rate 1e-3, weight decay 0.01, 20 epochs. Ours: one center crop instead of three, no augmentation, a search around those
values on a validation split of the training set.
"""

from ml_collections import ConfigDict
from wt_jax.configs.eval.k400 import get_config as get_k400_config


def get_config() -> ConfigDict:
    config = get_k400_config()
    config.protocols = ("attentive",)
    config.clip.num_frames, config.clip.stride = 16, 4.0
    config.features.windows, config.features.crops, config.features.batch_size = 8, 1, 32
    config.settings.attentive.heads = 16
    return config
