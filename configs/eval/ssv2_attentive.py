"""Something-Something v2: attentive probe on stored feature maps, beside the cheap probes on features.

Command:   python -m wt_jax.tools.evaluate --config=configs/eval/ssv2_attentive.py --encoders=random,RUN --workdir=OUT
           --config.lists=LISTS
           LISTS holds train.txt and val.txt (`path label`).
Hardware:  meant for 8 accelerators and 64 CPU cores; for Slow R50 and two clips the feature maps take 6.4 MB a video.
Expect:    NOT RUN YET. V-JEPA 2's attentive probe has 77.3 (ViT-g/384) and 73.7 (ViT-L), from its own pre-training.

V-JEPA's public config (16x2x3): 16 frames at stride 4, two clips, learning rate 1e-3, weight decay 0.01, 20 epochs. Ours: one
center crop instead of three, no augmentation, a search around those values on a validation split of the training set.
"""

from ml_collections import ConfigDict
from wt_jax.configs.eval.k400_attentive import get_config as get_k400_attentive_config


def get_config() -> ConfigDict:
    config = get_k400_attentive_config()
    config.protocols, config.features.windows = ("knn", "linear", "attentive", "retrieval"), 2
    return config
