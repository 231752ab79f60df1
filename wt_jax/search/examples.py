"""Features of seconds of a clip that is not in the index."""

from collections.abc import Callable

import numpy as np

from wt_jax.data.video.reader import open_video
from wt_jax.errors import SearchError
from wt_jax.search.clips import Windows, chosen_times, duration_of, phased_times, read_moments
from wt_jax.search.engine import Engine


def clip_features(engine: Engine, path: str, start: float = 0.0, end: float = 0.0) -> np.ndarray:
    """Features (n, D) of the windows of a video between two times; `end` 0 is the video's end.

    Raises:
      SearchError: no time is left between them.
      VideoError: the video cannot be read.
    """
    (features,) = _features(engine, path, start, end, lambda *times: [chosen_times(*times)])
    return features


def phased_features(engine: Engine, path: str, start: float = 0.0, end: float = 0.0) -> list[np.ndarray]:
    """Features (n, D) of the rows of windows that `wt_jax.search.clips.phased_times` makes; otherwise as `clip_features`."""
    return _features(engine, path, start, end, phased_times)


def _features(
    engine: Engine, path: str, start: float, end: float, rows: Callable[[float, float, Windows], list[np.ndarray]]
) -> list[np.ndarray]:
    """Features of each row of windows.

    Raises:
      SearchError: no time is left between them.
      VideoError: the video cannot be read.
    """
    with open_video(path) as reader:
        duration = duration_of(reader.info)
        end = min(end or duration, duration)
        if not 0 <= start < end:
            raise SearchError(f"{path} lasts {duration:.2f} s: --from={start:g} --to={end:g} leaves nothing of it")
        times = rows(start, end, engine.windows)
        features = engine.encode(read_moments(reader, engine.windows, np.concatenate(times)))
        return np.split(features, np.cumsum([len(row) for row in times])[:-1])
