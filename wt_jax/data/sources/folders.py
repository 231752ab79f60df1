"""Finds the videos below a folder: video files, and folders of numbered images, one per frame."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from wt_jax.data.video.reader import EXTENSIONS, frame_files


def find_videos(folder: str, left_out: Counter[str]) -> Iterator[str]:
    """Yields the paths of all videos below a local folder, in sorted order; links are followed.

    Args:
      folder: where to look.
      left_out: counts what is not taken, by what it is and why.
    """
    yield from _below(folder, frozenset(), left_out)


def is_video_file(name: str) -> bool:
    """Whether a file of this name is taken for a video."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _below(folder: str, above: frozenset[tuple[int, int]], left_out: Counter[str]) -> Iterator[str]:
    try:
        status = os.stat(folder)
        names = sorted(os.listdir(folder))
    except OSError as error:
        left_out[f"folders that cannot be read ({error.strerror})"] += 1
        return
    here = status.st_dev, status.st_ino
    if here in above:
        left_out["links that lead back to a folder above them"] += 1
        return
    paths = {name: os.path.join(folder, name) for name in names}
    folders = {name for name, path in paths.items() if os.path.isdir(path)}
    videos = {name for name in names if name not in folders and is_video_file(name)}
    if above and not folders and not videos and len(frame_files(folder)) > 1:
        yield folder
        return
    for name, path in paths.items():
        if name in folders:
            if name.startswith("."):
                left_out["hidden folders"] += 1
            else:
                yield from _below(path, above | {here}, left_out)
        elif not os.path.exists(path):
            left_out["links to nothing"] += 1
        elif name in videos:
            yield path
        elif name.startswith("."):
            left_out["hidden files"] += 1
        else:
            left_out[f"files of the kind {Path(name).suffix.lower() or 'without extension'}"] += 1
