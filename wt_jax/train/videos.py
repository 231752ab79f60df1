"""The videos of a training: those of its lists, or of packs that are made of them first."""

import os

from wt_jax.cluster.processes import run_on_primary
from wt_jax.config import Config
from wt_jax.data.pack_locally import make_pack, open_pack, short_side_for
from wt_jax.data.records import VideoList
from wt_jax.data.sources.open import open_source
from wt_jax.errors import ConfigError, UserError
from wt_jax.experiment import build_method

_LONGEST = 7 * 24 * 3600.0  # seconds that the other processes wait for the primary one, which packs


def open_videos(config: Config, part: str) -> VideoList:
    """The videos of `config.data.train` or `.test` (`part`), from the pack in `config.data.pack` where that is named.

    The primary process makes a pack that is not there; the others wait for it and must see the same folder.

    Raises:
      ConfigError, SourceError, VideoError: the list cannot be read, or cannot be packed.
    """
    data = config.data
    videos = open_source(getattr(data, part), data.root, data.max_bad_fraction)
    if not data.pack:
        return videos
    try:
        short_side = short_side_for([*build_method(config).views.values(), config.test_view])
    except ValueError as error:
        raise ConfigError(f"config.data.pack: {error}") from None
    folder, workers = os.path.join(data.pack, part), data.workers or len(os.sched_getaffinity(0))
    run_on_primary(lambda: make_pack(videos, folder, short_side, workers), UserError, _LONGEST)
    return open_pack(videos, folder, data.max_bad_fraction)
