"""From a run, a folder of weights or an exported file to an exported encoder: the only module here that needs Flax."""

import dataclasses
import logging
from pathlib import Path

import jax
import jax.numpy as jnp

from wt_jax.augment import finish_view
from wt_jax.errors import SearchError
from wt_jax.experiment import build_method
from wt_jax.methods.base import encoder_variables
from wt_jax.models import build_encoder
from wt_jax.ops import PORTABLE, implementation
from wt_jax.search.exported import write_exported
from wt_jax.specs import ClipView, PixelSpec
from wt_jax.train.checkpoint import read_evaluated
from wt_jax.train.workdir import read_config
from wt_jax.weights.folder import load_encoder

log = logging.getLogger(__name__)


def export_encoder(place: Path, out: Path, view: ClipView | None = None) -> None:
    """Write the encoder of a workdir (its last checkpoint) or of a weights folder to the file `out`.

    Args:
      place: the workdir or folder.
      out: the file, see `wt_jax.search.exported`.
      view: the clips that a weights folder's encoder takes; None: those of its run, which only a workdir knows.

    Raises:
      SearchError, ConfigError, CheckpointError, WeightsError: there is no such encoder, or it cannot be read.
    """
    if (place / "model.json").exists():
        model, variables = load_encoder(place)
        if view is None:
            raise SearchError(f"{place} does not say which clips its encoder takes; add --frames, --stride and --size")
    elif (place / "config.json").exists():
        config = read_config(place)
        method = build_method(config)
        _, params, model_state = read_evaluated(place, method.evaluated)
        model, variables = method.model, encoder_variables(params, model_state)
        view = view or config.test_view
    else:
        raise SearchError(f"encoder {place}: neither the workdir of a run, nor a folder of weights, nor an exported file")
    encoder = build_encoder(model)
    of_clips = "of_clip" if encoder.unit == "video" else None  # a moment is a video of one clip

    def apply(variables, clips):
        still = jnp.zeros(clips.shape[:1], jnp.int32)
        finished = finish_view(clips, still, jax.random.key(0), PixelSpec())
        return jnp.asarray(encoder.apply(variables, finished, False, method=of_clips), jnp.float32)

    with implementation(PORTABLE):  # native code exists on one platform alone
        write_exported(out, f"{model.name} of {place.name}", dataclasses.replace(view, flip_probability=0.0), apply, variables)
    log.info("exported the encoder of %s to %s", place, out)
