"""UCF101, splits 1 to 3: fine-tuning, CoCLR's setting.

Command:   python -m wt_jax.tools.evaluate --config=configs/eval/ucf101_finetune.py --encoders=random,RUN --workdir=OUT
           --config.lists=LISTS
Hardware:  meant for an accelerator of 32 GB, 16 CPU cores.
Expect:    NOT RUN YET. S3D pre-trained on Kinetics-400: CoCLR has 87.9.

Adam, 1e-3 for the classifier and 1e-4 for the encoder at 64 clips, weight decay 1e-3, dropout 0.9, 500 epochs with drops at 400
and 450; what differs is in wt_jax/eval/protocols/finetune.py, which also has MaCLR's and the rho study's settings.
"""

from ml_collections import ConfigDict
from wt_jax.configs.eval.small_sets import trained

from wt_jax.eval.protocols.finetune import COCLR_FINETUNE


def get_config() -> ConfigDict:
    return trained("finetune", COCLR_FINETUNE)
