"""Kinetics-400: kNN, linear and low-shot probes and retrieval on stored features.

Command:   python -m wt_jax.tools.evaluate --config=configs/eval/k400.py --encoders=random,RUN --workdir=OUT
           --config.lists=LISTS
           LISTS holds train.txt and val.txt (`path label`).
Hardware:  meant for 8 accelerators and 32 or more CPU cores for decoding.
Expect:    NOT RUN YET.

8 frames at stride 8, 224 x 224, 10 clips x 3 crops: the rho study (arXiv 2104.14558), whose linear probe is on clips:
configs/eval/k400_linear.py.
"""

from ml_collections import ConfigDict

from wt_jax.eval.config import default_evaluation


def get_config() -> ConfigDict:
    config = default_evaluation()
    config.splits = (("train.txt", "val.txt"),)
    config.clip.num_frames, config.clip.stride, config.clip.size = 8, 8.0, 224
    config.features.windows, config.features.crops, config.workers = 10, 3, 32
    config.model.name, config.model.dtype = "slow_r50", "bfloat16"
    return config
