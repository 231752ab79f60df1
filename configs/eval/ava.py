"""AVA: detection of actions, PySlowFast's setting; `configs/eval/ava.py:videomae` for VideoMAE's.

Command:   python -m wt_jax.tools.evaluate --config=configs/eval/ava.py --encoders=RUN --workdir=OUT --config.lists=LISTS
           --config.settings.detection.method.boxes=LISTS/ava_boxes.csv
           --config.settings.detection.classes=LISTS/ava_classes.csv
           --config.settings.detection.detected=LISTS/ava_detected.csv
           LISTS is what `wt-jax make-lists ava` wrote.
Hardware:  meant for 8 accelerators and 64 CPU cores.
Expect:    NOT RUN YET. With detected boxes, v2.2: Slow R50 4x16 with labels of Kinetics-400 19.5 (PySlowFast's model zoo);
           VideoMAE's ViT-B, pre-trained on Kinetics-400 without labels, 26.7 (its code's page).

What differs from the sources: wt_jax/eval/protocols/detection_recipes.py and wt_jax/methods/detection.py.
"""

from ml_collections import ConfigDict

from wt_jax.config import to_dict
from wt_jax.eval.config import default_evaluation
from wt_jax.eval.protocols.detection_recipes import SLOW_DETECTION, VIDEOMAE_DETECTION

RECIPES = {"slow": (SLOW_DETECTION, "slow_r50", 4, 16.0), "videomae": (VIDEOMAE_DETECTION, "vit_base", 16, 4.0)}


def get_config(recipe: str = "slow") -> ConfigDict:
    detection, model, frames, stride = RECIPES[recipe]
    config = default_evaluation()
    config.splits = (("ava_train.csv", "ava_val.csv"),)
    config.protocols = ("detection",)
    config.clip.num_frames, config.clip.stride, config.clip.size = frames, stride, 224
    config.model.name, config.model.dtype = model, "bfloat16"
    config.settings.detection = ConfigDict(to_dict(detection))
    config.workers, config.threads = 48, 4
    return config
