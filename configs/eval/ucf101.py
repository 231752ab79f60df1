"""UCF101, splits 1 to 3: kNN, linear and low-shot probes and retrieval on stored features, CoCLR's clips.

Command:   python -m wt_jax.tools.evaluate --config=configs/eval/ucf101.py --encoders=random,RUN --workdir=OUT
           --config.lists=LISTS
           LISTS holds train1.txt, test1.txt and so on (`path label`); for split 1 alone, as CoCLR's tables are,
           --config.splits="(('train1.txt','test1.txt'),)"
Hardware:  any accelerator, 16 CPU cores; 13,320 videos of 10 clips.
Expect:    NOT RUN YET. With S3D pre-trained on UCF101, split 1: CoCLR's InfoNCE baseline has R@1 33.1 and linear 46.8, CoCLR
           51.8 and 70.2 (arXiv 2010.09709).

32 frames at stride 1, 128 x 128, retrieval with centered sets: CoCLR. Ten clips are the field's usual number,
spread evenly; CoCLR has a window every 15 frames, cuts the middle 224 x 224 pixels of its stored frames (ours: the largest
square) and jitters the color of a part of the test clips too. The search of the linear probe covers CoCLR's ranges.
"""

from ml_collections import ConfigDict
from wt_jax.configs.eval.small_sets import stored


def get_config() -> ConfigDict:
    return stored()
