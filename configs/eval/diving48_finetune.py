"""Diving48: fine-tuning.

Command:   python -m wt_jax.tools.evaluate --config=configs/eval/diving48_finetune.py --encoders=random,RUN --workdir=OUT
           --config.lists=LISTS
Hardware:  meant for 8 accelerators and 32 CPU cores.
Expect:    NOT RUN YET, and no published number of this form is at hand.

No published setting is at hand. The training is the rho study's for UCF101 (arXiv 2104.14558), without flips, since dives
differ by the side they turn to; 16 frames at stride 4. All this is our choice.
"""

from ml_collections import ConfigDict
from wt_jax.configs.eval.k400 import get_config as get_k400_config

from wt_jax.config import to_dict
from wt_jax.eval.protocols.finetune import RHO_FINETUNE_UCF101


def get_config() -> ConfigDict:
    config = get_k400_config()
    config.protocols = ("finetune",)
    config.clip.num_frames, config.clip.stride = 16, 4.0
    config.settings.finetune = ConfigDict(to_dict(RHO_FINETUNE_UCF101))
    config.settings.finetune.strong.flip_probability = 0.0
    return config
