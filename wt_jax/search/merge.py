"""Joins indexes that several machines made of parts of an archive."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wt_jax.errors import SearchError
from wt_jax.search.store import DATABASE, ENCODER, create_store, open_store

_SAME = ("fingerprint", "length", "every", "clips", "dim")
_TOGETHER = 256  # videos per commit


def merge(parts: Sequence[Path], out: Path) -> int:
    """Copy the videos of the indexes `parts` into the index `out`, which is made where there is none; returns how many.

    What `out` has in the same state is left as it is, so the same call goes on after an interruption. Parts stay.

    Raises:
      SearchError: a part is no index, or they were made with different encoders or settings.
    """
    copied = 0
    for folder in parts:
        with open_store(folder) as part:
            settings = part.settings()
            if not (out / DATABASE).exists():
                out.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / ENCODER, out / ENCODER)
                create_store(out, settings["dim"], settings)
            with open_store(out) as store, store.lock():
                own = store.settings()
                for name in _SAME:
                    if own[name] != settings[name]:
                        raise SearchError(f"{folder} and {out} differ in {name}: they cannot be joined")
                store.set_setting("roots", sorted({*own["roots"], *settings["roots"]}))
                known = {entry.path: entry.state for entry in store.videos()}
                snapshot, entries = part.snapshot(), []
                ids, first_places, counts = np.unique(snapshot.video_ids, return_index=True, return_counts=True)
                spans = {int(v): slice(f, f + c) for v, f, c in zip(ids, first_places, counts, strict=True)}
                for video in snapshot.videos.values():
                    if known.get(video.path) == video.state:
                        continue
                    span = spans[video.id]
                    entries.append((video, snapshot.features[snapshot.rows[span]], snapshot.times[span]))
                for start in range(0, len(entries), _TOGETHER):
                    store.add(entries[start : start + _TOGETHER])
                if snapshot.failures:
                    store.fail(snapshot.failures)
                copied += len(entries)
    return copied
