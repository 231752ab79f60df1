"""Something-Something v2: fine-tuning, the rho study's setting.

Command:   python -m wt_jax.tools.evaluate --config=configs/eval/ssv2_finetune.py --encoders=RUN --workdir=OUT
           --config.lists=LISTS
           LISTS holds train.txt and val.txt (`path label`).
Hardware:  meant for 8 accelerators and 64 CPU cores.
Expect:    NOT RUN YET. Slow R50 8x8 pre-trained on Kinetics-400, 200 epochs, rho = 2: MoCo 52.7, BYOL 54.4, SimCLR 51.4,
           SwAV 52.5 (model zoo of arXiv 2104.14558).

22 epochs, learning rate 0.12, drops at 14 and 18, no flips. Frames at stride 8 are too far apart for these short clips, so that
the stride is 4, as in configs/ssv2.py: ours. More inference: wt_jax/eval/protocols/finetune.py.
"""

from ml_collections import ConfigDict
from wt_jax.configs.eval.k400 import get_config as get_k400_config

from wt_jax.config import to_dict
from wt_jax.eval.protocols.finetune import RHO_FINETUNE_SSV2


def get_config() -> ConfigDict:
    config = get_k400_config()
    config.protocols, config.clip.stride = ("finetune",), 4.0
    config.settings.finetune = ConfigDict(to_dict(RHO_FINETUNE_SSV2))
    return config
