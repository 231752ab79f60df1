"""Features of seconds of a clip that is not in the index."""

import numpy as np

from wt_jax.data.video.reader import open_video
from wt_jax.errors import SearchError
from wt_jax.search.clips import chosen_times, duration_of, read_moments
from wt_jax.search.engine import Engine


def clip_features(engine: Engine, path: str, start: float = 0.0, end: float = 0.0) -> np.ndarray:
    """Features (n, D) of the windows of a video between two times; `end` 0 is the video's end.

    Raises:
      SearchError: no time is left between them.
      VideoError: the video cannot be read.
    """
    with open_video(path) as reader:
        duration = duration_of(reader.info)
        end = min(end or duration, duration)
        if not 0 <= start < end:
            raise SearchError(f"{path} lasts {duration:.2f} s: --from={start:g} --to={end:g} leaves nothing of it")
        times = chosen_times(start, end, engine.windows)
        return engine.encode(read_moments(reader, engine.windows, times))
