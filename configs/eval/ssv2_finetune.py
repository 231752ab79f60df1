"""Something-Something v2: fine-tuning, the rho study's setting.

Command:   python -m wt_jax.tools.evaluate --config=configs/eval/ssv2_finetune.py --encoders=RUN --workdir=OUT
           --config.lists=LISTS
           LISTS holds train.txt and val.txt (`path label`).
Hardware:  meant for 8 accelerators and 64 CPU cores.
Expect:    NOT RUN YET. Slow R50 8x8 pre-trained on Kinetics-400, 200 epochs, rho = 2: MoCo 52.7, BYOL 54.4, SimCLR 51.4,
           SwAV 52.5 (model zoo of arXiv 2104.14558).

22 epochs, learning rate 0.12 per 64 clips, drops at 14 and 18, weight decay 1e-6 but for BatchNorm, no flips, one test view;
the frames are one of each of 8 equal segments of the whole video, drawn in training and the middle ones in the test, as in
the released configuration (PySlowFast, configs/contrastive_ssl). What differs: wt_jax/eval/protocols/finetune.py.
"""

from ml_collections import ConfigDict
from wt_jax.configs.eval.k400 import get_config as get_k400_config

from wt_jax.config import to_dict
from wt_jax.eval.protocols.finetune import RHO_FINETUNE_SSV2


def get_config() -> ConfigDict:
    config = get_k400_config()
    config.protocols = ("finetune",)
    config.clip.unit, config.clip.stride = "segments", 1.0
    config.settings.finetune = ConfigDict(to_dict(RHO_FINETUNE_SSV2))
    return config
