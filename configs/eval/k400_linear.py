"""Kinetics-400: linear probe on augmented clips with a frozen encoder, the rho study's.

Command:   python -m wt_jax.tools.evaluate --config=configs/eval/k400_linear.py --encoders=RUN --workdir=OUT
           --config.lists=LISTS
Hardware:  meant for 8 accelerators and 64 CPU cores.
Expect:    NOT RUN YET. Slow R50 8x8 pre-trained on Kinetics-400 for 200 epochs, rho = 2: MoCo 66.6, BYOL 67.4, SimCLR 61.5,
           SwAV 62.6 (model zoo of arXiv 2104.14558).

SGD, learning rate 4.0 per 512 clips, 60 epochs, 8 of warm-up, no weight decay, 30 views; what differs:
wt_jax/eval/protocols/linear_clips.py.
"""

from ml_collections import ConfigDict
from wt_jax.configs.eval.k400 import get_config as get_k400_config

from wt_jax.config import to_dict
from wt_jax.eval.protocols.linear_clips import RHO_LINEAR_K400


def get_config() -> ConfigDict:
    config = get_k400_config()
    config.protocols = ("linear_clips",)
    config.settings.linear_clips = ConfigDict(to_dict(RHO_LINEAR_K400))
    return config
