"""Detection on AVA: the published settings, as `Detection`.

The sources give the learning rate at their own batch; ours is per 256 clips, and the factor is written out. Each comment names
what the source does not: our inference. Both sources also train on detected boxes, ours on annotated ones alone.
"""

from wt_jax.config import OptimConfig, TrainConfig, ViewConfig
from wt_jax.eval.protocols.detection import Detection
from wt_jax.eval.protocols.recipe_views import RHO_VIEW
from wt_jax.methods.detection import DetectionSettings
from wt_jax.specs import PixelSpec

# PySlowFast, configs/AVA/SLOW_8x8_R50_SHORT.yaml (which reads 4 frames, 16 apart): Slow R50, 64 clips, 20 epochs; it warms up
# from 1.25e-4, ours from 0. Its last stage has stride 1 and dilation 2, ours stride 2; its test frame is 256 high, ours is
# squeezed to a square.
SLOW_DETECTION = Detection(
    optim=OptimConfig(
        name="sgd",
        learning_rate=0.1 * 256 / 64,
        weight_decay=1e-7,
        warmup="5 epochs",
        schedule="step",
        milestones=("10 epochs", "15 epochs"),
    ),
    train=TrainConfig(duration="20 epochs", batch_size=64),
    strong=RHO_VIEW,
)

# VideoMAE (arXiv 2203.12602; MCG-NJU/VideoMAE-Action-Detection, scripts/ava/videomae_vit_base_k400_pretrain): 16 frames, 4
# apart, 32 GPUs x 4 clips; encoders that were fine-tuned on Kinetics first have 5e-4. Its frames keep their sides' ratio, ours
# are squeezed to a square; its drop path of 0.2 is left out. Inference: no dropout, as its code names none for the boxes' head;
# and the jitter's strengths, which are in other units there.
VIDEOMAE_DETECTION = Detection(
    method=DetectionSettings(dropout=0.0),
    optim=OptimConfig(
        name="adamw",
        learning_rate=2.5e-4,
        start_rate=1e-6,
        final_rate=1e-6,
        weight_decay=0.05,
        decay_norms=False,
        warmup="5 epochs",
        layer_decay=0.75,
    ),
    train=TrainConfig(duration="30 epochs", batch_size=128),
    strong=ViewConfig(
        crop="resize",
        flip_probability=0.5,
        pixels=PixelSpec(jitter_probability=1.0, brightness=0.1, saturation=0.1, hue=0.05),
    ),
)
