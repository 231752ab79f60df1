"""Store the features of clips of videos, to train SCALE on them:

    python -m wt_jax.tools.store_clips --encoder=RUN --videos=LIST STORE [--windows=16] [--crops=3]

RUN is the workdir of a run, whose clips are taken, or a folder of exported weights: then --num_frames, --stride and --size say
which clips its encoder takes. Videos may be of any length; their windows are evenly spread. STORE holds the encoder too, so
that `--config.method.store=STORE` is all that a training needs. Interrupted, the same command goes on where it was.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from absl import app, flags

from wt_jax.cli import parse_flags, set_up_logging, user_errors
from wt_jax.data.sources.open import open_source
from wt_jax.data.views import check_crops
from wt_jax.errors import ConfigError
from wt_jax.eval.config import EvaluationConfig
from wt_jax.eval.encoders import RANDOM, load_candidate
from wt_jax.eval.features.clip_store import store_clips
from wt_jax.eval.features.extract import Reading
from wt_jax.specs import CROPS, UNITS, ClipView
from wt_jax.train.workdir import read_config

log = logging.getLogger("wt_jax")

_ENCODER = flags.DEFINE_string("encoder", None, "Workdir of a run, or folder of exported weights.")
_VIDEOS = flags.DEFINE_string("videos", None, "A list, a folder, an index or a pack of videos, as config.data.train.")
_ROOT = flags.DEFINE_string("root", "", "Folder that relative paths of a list start from; empty: the list's own.")
_WINDOWS = flags.DEFINE_integer("windows", 16, "Clips of a video, evenly spread.", lower_bound=1)
_CROPS = flags.DEFINE_integer("crops", 1, "Squares of a clip, 1 or 3.")
_NUM_FRAMES = flags.DEFINE_integer("num_frames", None, "Frames of a clip; of a run's encoder the default is the run's.")
_STRIDE = flags.DEFINE_float("stride", None, "Distance between two frames, in units.")
_UNIT = flags.DEFINE_enum("unit", None, UNITS, "Unit of the stride.")
_SIZE = flags.DEFINE_integer("size", None, "Height and width of a clip.")
_CROP = flags.DEFINE_enum("crop", None, [crop for crop in CROPS if crop != "random"], "How a frame becomes a square.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Videos at once, over all devices.", lower_bound=1)
_WORKERS = flags.DEFINE_integer("workers", 0, "Processes that decode; 0: threads.", lower_bound=0)


def _view(encoder: Path) -> ClipView:
    """The clips of a run, as flags change them; ConfigError where neither says which."""
    given = {f.name: f.value for f in (_NUM_FRAMES, _STRIDE, _UNIT, _SIZE, _CROP) if f.value is not None}
    if (encoder / "config.json").exists() and not (encoder / "model.json").exists():
        return replace(read_config(encoder).test_view, **given)
    missing = [f"--{name}" for name in ("num_frames", "stride", "size") if name not in given]
    if missing:
        raise ConfigError(f"{encoder} does not say which clips its encoder takes; add {', '.join(missing)}")
    return ClipView(**{"crop": "center", **given})


def main(argv: Sequence[str]) -> None:
    """Write the store that the flags describe."""
    set_up_logging()
    with user_errors():
        if not _ENCODER.value or not _VIDEOS.value or len(argv) != 2:
            raise ConfigError("usage: python -m wt_jax.tools.store_clips --encoder=RUN --videos=LIST STORE; see --help")
        if _ENCODER.value == RANDOM:
            raise ConfigError("--encoder=random learns nothing; name the workdir of a run or a folder of exported weights")
        folder, encoder = Path(argv[1]), Path(_ENCODER.value)
        try:
            view = _view(encoder)
            check_crops(view.crop, _CROPS.value)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        candidate = load_candidate(encoder.resolve().name, _ENCODER.value, EvaluationConfig())
        videos = open_source(_VIDEOS.value, _ROOT.value, 1.0)
        reading = Reading(view, _WINDOWS.value, _CROPS.value, _BATCH_SIZE.value, _WORKERS.value)
        store_clips(folder, candidate, videos, reading)
        clip = " ".join(f"--config.clip.{name}={getattr(view, name)}" for name in ("num_frames", "stride", "unit", "size"))
        log.info(
            "train on it: wt-jax train --config=k400:scale --config.method.store=%s --config.data.train=%s %s "
            "--config.eval.features.windows=%d --config.eval.features.crops=%d --workdir=DIR",
            folder, _VIDEOS.value, clip, _WINDOWS.value, _CROPS.value,
        )  # fmt: skip


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
