"""Fine-tuning: the published settings, as `ClipTraining`.

The sources give the learning rate at their own batch; ours is per 256 clips, and the factor is written out. Each comment names
what the source does not: our inference. The published test is 10 clips x 3 crops unless a comment names another.
"""

from dataclasses import replace

from wt_jax.config import OptimConfig, TrainConfig, ViewConfig
from wt_jax.eval.protocols.clips import ClipTraining
from wt_jax.eval.protocols.recipe_views import COCLR_VIEW, RHO_VIEW
from wt_jax.methods.supervised import SupervisedSettings
from wt_jax.specs import PixelSpec

# CoCLR (arXiv 2010.09709, eval/main_classifier.py of its public code and its README's commands), UCF101 and HMDB51, 32 frames
# at stride 1, 128 x 128: 2 GPUs x 32 clips, Adam 1e-3 for the classifier and a tenth of it for the backbone. Its test is
# ten-crop (four corners and the center, each also mirrored, with a weak jitter in a third of the clips); ours is 10 x 3.
COCLR_FINETUNE = ClipTraining(
    method=SupervisedSettings(dropout=0.9),
    optim=OptimConfig(
        name="adam",
        learning_rate=1e-3 * 256 / 64,
        weight_decay=1e-3,
        schedule="step",
        milestones=("400 epochs", "450 epochs"),
        part_rates=(("encoder", 0.1),),
    ),
    train=TrainConfig(duration="500 epochs", batch_size=64),
    strong=COCLR_VIEW,
)

# MaCLR (arXiv 2106.09703, configs/UCF101 of its public code), UCF101 split 1, 32 frames at stride 8, 224 x 224. It warms up
# from 0.001, ours from 0; its test crop is 256, ours that of the training; it recomputes BatchNorm's statistics, we do not.
# Inference: the jitter's strengths, as in its pre-training; flips.
MACLR_FINETUNE = ClipTraining(
    method=SupervisedSettings(dropout=0.5),
    optim=OptimConfig(name="sgd", learning_rate=0.01 * 256 / 64, weight_decay=1e-4, warmup="34 epochs"),
    train=TrainConfig(duration="200 epochs", batch_size=64),
    strong=ViewConfig(
        area=(0.3, 1.0),
        aspect=(0.5, 2.0),
        flip_probability=0.5,
        pixels=PixelSpec(jitter_probability=0.6, brightness=0.4, contrast=0.4, saturation=0.4, gray_probability=0.5),
    ),
)

# The rho study (arXiv 2104.14558; PySlowFast, configs/contrastive_ssl/finetune_ucf_Slow_R50_syn8.yaml), Slow R50, 8 frames at
# stride 8, 224 x 224, UCF101 split 1. That file is for encoders with synchronized BatchNorm (BYOL, SimCLR, SwAV); the one of
# MoCo, *_syn0.yaml, has 0.005, weight decay 1e-4 and dropout 0.5. The paper's 0.025 with drops at 60, 120 and 180 is in
# neither. Its test crop is 256, ours that of the training. Inference: that every clip is jittered.
RHO_FINETUNE_UCF101 = ClipTraining(
    method=SupervisedSettings(dropout=0.8),
    optim=OptimConfig(name="sgd", learning_rate=0.01 * 256 / 64, weight_decay=0.0),
    train=TrainConfig(duration="200 epochs", batch_size=64),
    strong=replace(
        RHO_VIEW,
        pixels=PixelSpec(jitter_probability=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray_probability=0.2),
    ),
)

# The rho study, Something-Something v2 (finetune_SSv2_Slow_R50_syn0.yaml): one view in the test, flips off, since classes
# differ by side; BatchNorm is not decayed. Frames are of 8 segments of the whole video: `config.clip.unit` "segments", not of
# a recipe. It warms up from 1e-4, ours from 0; its test crop is 256, ours that of the training.
RHO_FINETUNE_SSV2 = ClipTraining(
    method=SupervisedSettings(dropout=0.5),
    optim=OptimConfig(
        name="sgd",
        learning_rate=0.12 * 256 / 64,
        weight_decay=1e-6,
        decay_norms=False,
        warmup="0.19 epochs",
        schedule="step",
        milestones=("14 epochs", "18 epochs"),
    ),
    train=TrainConfig(duration="22 epochs", batch_size=64),
    strong=replace(RHO_VIEW, flip_probability=0.0),
    windows=1,
    crops=1,
)


def _vtdl(rate: float) -> ClipTraining:
    """VTDL (arXiv 2008.02129; readme.md and src/option.py of its code), I3D, 64 frames, 224 x 224, a single clip per test
    video. Inference: the view."""
    return ClipTraining(
        method=SupervisedSettings(dropout=0.5),
        optim=OptimConfig(
            name="sgd",
            learning_rate=rate * 256 / 4,
            weight_decay=1e-8,
            schedule="step",
            milestones=tuple(f"{epoch} epochs" for epoch in (10, 20, 25, 30, 35, 40)),
        ),
        train=TrainConfig(duration="45 epochs", batch_size=4),
        strong=ViewConfig(flip_probability=0.5),
        windows=1,
        crops=1,
    )


VTDL_FINETUNE_UCF101 = _vtdl(5e-4)
VTDL_FINETUNE_HMDB51 = _vtdl(1e-3)
