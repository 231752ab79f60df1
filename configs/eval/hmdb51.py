"""HMDB51, splits 1 to 3: kNN, linear and low-shot probes and retrieval on stored features, CoCLR's clips.

Command:   python -m wt_jax.tools.evaluate --config=configs/eval/hmdb51.py --encoders=random,RUN --workdir=OUT
           --config.lists=LISTS
           LISTS holds train1.txt, test1.txt and so on (`path label`).
Hardware:  any accelerator, 16 CPU cores.
Expect:    NOT RUN YET, and no published number of this form is at hand.

As configs/eval/ucf101.py.
"""

from ml_collections import ConfigDict
from wt_jax.configs.eval.small_sets import stored


def get_config() -> ConfigDict:
    return stored()
