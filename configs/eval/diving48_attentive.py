"""Diving48: attentive probe on stored feature maps, beside the cheap probes on features.

Command:   python -m wt_jax.tools.evaluate --config=configs/eval/diving48_attentive.py --encoders=random,RUN --workdir=OUT
           --config.lists=LISTS
           LISTS holds train.txt and val.txt (`path label`).
Hardware:  meant for an accelerator of 32 GB, 16 CPU cores; for Slow R50 and four clips the feature maps take 12.8 MB a video.
Expect:    NOT RUN YET. V-JEPA 2's attentive probe has 90.2 (ViT-g/384) and 89.0 (ViT-L), from its own pre-training.

The probe is as in configs/eval/ssv2_attentive.py. The clips are our choice, no setting for this data set is at hand: four clips
of 16 frames at stride 4.
"""

from ml_collections import ConfigDict
from wt_jax.configs.eval.ssv2_attentive import get_config as get_ssv2_config


def get_config() -> ConfigDict:
    config = get_ssv2_config()
    config.features.windows = 4
    return config
