"""UCF101, splits 1 to 3: linear probe on augmented clips with a frozen encoder, CoCLR's form.

Command:   python -m wt_jax.tools.evaluate --config=configs/eval/ucf101_linear.py --encoders=RUN --workdir=OUT
           --config.lists=LISTS
Hardware:  meant for an accelerator of 32 GB, 16 CPU cores; eight candidates are trained before the last.
Expect:    NOT RUN YET. Split 1, S3D pre-trained on UCF101: CoCLR's InfoNCE baseline has 46.8, CoCLR 70.2.

SGD, 64 clips per step, 100 epochs, drops at 60 and 80; what is inference is in wt_jax/eval/protocols/linear_clips.py.
"""

from ml_collections import ConfigDict
from wt_jax.configs.eval.small_sets import trained

from wt_jax.eval.protocols.linear_clips import COCLR_LINEAR


def get_config() -> ConfigDict:
    return trained("linear_clips", COCLR_LINEAR)
