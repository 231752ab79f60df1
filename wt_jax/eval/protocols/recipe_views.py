"""The training views of published recipes, common to fine-tuning and the linear probe on clips."""

from wt_jax.config import ViewConfig
from wt_jax.specs import PixelSpec

# CoCLR's (arXiv 2010.09709, `get_transform` of eval/main_classifier.py in its public code).
COCLR_VIEW = ViewConfig(
    area=(0.2, 1.0),
    flip_probability=0.5,
    pixels=PixelSpec(jitter_probability=0.3, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
)

# A 224 x 224 crop of a 4:3 frame whose shorter side is 256 to 320, as a fraction of its area.
RHO_VIEW = ViewConfig(area=(0.37, 0.57), aspect=(1.0, 1.0), flip_probability=0.5)
