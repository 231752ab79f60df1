"""The linear probe on augmented clips with a frozen encoder: the published settings, as `ClipTraining`.

The sources give the learning rate at their own batch; ours is per 256 clips, and the factor is written out. Each comment names
what the source does not: our inference. The published test is 10 clips x 3 crops unless a comment names another.
"""

from wt_jax.config import OptimConfig, TrainConfig, ViewConfig
from wt_jax.eval.protocols.clips import ClipTraining
from wt_jax.eval.protocols.recipe_views import COCLR_VIEW, RHO_VIEW
from wt_jax.methods.supervised import SupervisedSettings

# CoCLR's linear probe on clips (eval/main_classifier.py and the README of its public code): 2 GPUs x 32 clips; its authors
# tune the rate from 0.1 to 1 and the weight decay from 1e-4 to 1e-1 on each data set. The candidates are a coarse grid of
# those ranges: inference. Its test is that of its fine-tuning; ours is 10 x 3.
COCLR_LINEAR = ClipTraining(
    method=SupervisedSettings(freeze="encoder", head_norm="l2_batch"),
    optim=OptimConfig(
        name="sgd",
        learning_rate=0.1 * 256 / 64,
        weight_decay=1e-3,
        schedule="step",
        milestones=("60 epochs", "80 epochs"),
    ),
    train=TrainConfig(duration="100 epochs", batch_size=64),
    strong=COCLR_VIEW,
    search=tuple((rate * 256 / 64, decay) for rate in (0.1, 1.0) for decay in (1e-4, 1e-3, 1e-2, 1e-1)),
)

# MaCLR's linear probe, the same clip. Inference: the crop and flips, as above.
MACLR_LINEAR = ClipTraining(
    method=SupervisedSettings(freeze="encoder"),
    optim=OptimConfig(name="sgd", learning_rate=32.0, weight_decay=0.0),
    train=TrainConfig(duration="200 epochs", batch_size=256),
    strong=ViewConfig(area=(0.3, 1.0), aspect=(0.5, 2.0), flip_probability=0.5),
)

# The rho study's linear probe, Kinetics-400 (PySlowFast, configs/contrastive_ssl/linear_k400_Slow_8x8_R50_syn0.yaml): a rate
# of 0.5 per 64 clips, 30 views in the test. Its encoder stays in training mode: BatchNorm normalizes by the batch, and its
# running statistics go on moving until the test. Ours is frozen, statistics included. Its test crop is 256, ours that of the
# training.
RHO_LINEAR_K400 = ClipTraining(
    method=SupervisedSettings(freeze="encoder"),
    optim=OptimConfig(name="sgd", learning_rate=4.0 * 256 / 512, weight_decay=0.0, warmup="8 epochs"),
    train=TrainConfig(duration="60 epochs", batch_size=512),
    strong=RHO_VIEW,
)
