"""What there is to learn from: list files, indexes, class folders, packed shards, TFDS and mixtures -> a `VideoList`.

Local or remote: gs://, s3:// and what else `etils.epath` knows. Nothing here opens a video.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
from etils import epath

from wt_jax.data.records import Record, VideoList, mix
from wt_jax.data.sources.folders import find_videos, is_video_file
from wt_jax.data.sources.index import INDEX
from wt_jax.data.sources.lists import read_list
from wt_jax.data.sources.tar import SUFFIX, open_tar
from wt_jax.data.sources.tfds import open_tfds
from wt_jax.data.video.reader import EXTENSIONS, file_of, is_remote
from wt_jax.errors import SourceError

__all__ = ["Record", "SourceError", "VideoList", "open_source"]

log = logging.getLogger(__name__)

_PART = re.compile(r"\s*(?:(?P<weight>\d*\.?\d+)\s*\*)?\s*(?P<location>\S.*?)\s*")


def open_source(location: str, root: str = "", max_bad_fraction: float = 0.01) -> VideoList:
    """Lists the videos of a data source.

    * A list file has lines `path label`, separated by space, comma or tab; the label, a name or an integer from 0, may be
      left out (or -1) throughout. Blank lines and lines that start with # are skipped. A CSV file, separated by comma,
      semicolon or tab, has a header with a column `path` and may have `label`, `name` (of an integer label) and others. A
      `classes.txt` beside the list, one name per line, names integer labels. Integers that leave most numbers out are
      names of classes. A path may be that of a folder of frames, and lack its extension where the file is there.
    * Texts are UTF-8, or UTF-16 and UTF-32 with a mark. What else a name may hold is read as the bytes that it is.
    * An index, which `wt_jax.tools.check_videos` and `wt_jax.tools.pack` write, is such a CSV with a column `status`:
      videos that are not `ok` are left out and counted in the log, and no file is looked at.
    * A folder that `pack` wrote is its index. A folder whose videos all lie in two or more direct subfolders is a set of
      classes, numbered in sorted order. Any other tree is taken as unlabelled, sorted by path. A folder of numbered images
      is a video.
    * A tar shard of WebDataset, or a folder of them: see `wt_jax.data.sources.tar`.
    * `tfds:NAME[/CONFIG][:VERSION][#SPLIT]` is a prepared TFDS data set: see `wt_jax.data.sources.tfds`.
    * `mix:0.7*ONE,0.3*OTHER` mixes sources by the shares of the clips that training shows; without weights each source has
      the weight of its number of videos. No location within a mixture may hold a comma.

    What a list or folder gave, and what was left out of it and why, goes to the log.

    Args:
      location: one of these; files and folders may be remote.
      root: folder for relative paths in a list; by default the folder of the list. For TFDS its data folder.
      max_bad_fraction: share of listed files that may be missing, in [0, 1]. They stay in the list, and loading
        replaces and counts them. Remote files are not looked for.

    Raises:
      SourceError: there is nothing to read, or it contradicts itself.
    """
    if location.startswith("mix:"):
        return _from_mixture(location, root, max_bad_fraction)
    if location.startswith("tfds:"):
        return open_tfds(location, root)
    place = _place(location)
    if place.suffix.lower() == SUFFIX and not place.is_dir() and place.exists():
        videos = open_tar([place])
    elif place.is_dir() and (shards := _tar_shards(place)):
        videos = open_tar(shards)
    elif place.is_dir():
        packed = (place / INDEX).exists() and any(place.glob("*.array_record"))
        videos = read_list(place / INDEX) if packed else _from_folder(place)
    elif not place.exists():
        raise SourceError(f"{location}: there is no such file or folder; give a list file or a folder of videos")
    elif place.suffix.lower() in EXTENSIONS:
        raise SourceError(f"{location}: this is a single video; give the folder that holds it, or a list file")
    else:
        videos = read_list(place, root, max_bad_fraction)
    for path in {path.split("://")[0]: path for path in videos.paths if is_remote(path)}.values():
        _place(file_of(path))  # A missing library is told once here, not by every video.
    return videos


def _from_mixture(location: str, root: str, max_bad_fraction: float) -> VideoList:
    found = [_PART.fullmatch(part) for part in location.removeprefix("mix:").split(",")]
    parts = [part for part in found if part]
    if len(parts) < len(found):
        raise SourceError(f"{location}: a part is empty; write mix:0.7*ONE,0.3*OTHER")
    lists = [open_source(part["location"], root, max_bad_fraction) for part in parts]
    given = [part["weight"] for part in parts]
    if any(given) and not all(given):
        raise SourceError(f"{location}: give every part a weight, or none")
    weights = [float(weight) for weight in given] if all(given) else [len(videos) for videos in lists]
    if not all(weights):
        raise SourceError(f"{location}: a weight is 0; leave that part out")
    return mix(lists, weights)


def _tar_shards(folder: epath.Path) -> list[epath.Path]:
    """The tar files of a folder that holds no videos and no folders beside them."""
    shards = sorted(folder.glob(f"*{SUFFIX}"))
    if shards and any(is_video_file(path.name) or (not path.suffix and path.is_dir()) for path in folder.iterdir()):
        return []
    return shards


def _from_folder(folder: epath.Path) -> VideoList:
    left_out: Counter[str] = Counter()
    paths = sorted(_remote_videos(folder, left_out) if is_remote(str(folder)) else find_videos(str(folder), left_out))
    without = f"; without {', '.join(f'{count} {what}' for what, count in left_out.most_common())}" if left_out else ""
    if not paths:
        raise SourceError(
            f"{folder}: no video below this folder; looked for {' '.join(EXTENSIONS)} and folders of numbered images{without}"
        )
    below = [os.path.relpath(path, folder).split(os.sep) for path in paths]
    names = sorted({parts[-2] for parts in below if len(parts) > 1})
    if len(names) > 1 and all(len(parts) == 2 for parts in below):
        number = {name: label for label, name in enumerate(names)}
        log.info("%s: %d videos, %d classes, %d labels%s", folder, len(paths), len(names), len(paths), without)
        return VideoList(tuple(paths), np.array([number[parts[0]] for parts in below], np.int32), tuple(names))
    log.info("%s: %d videos, no labels, as they do not lie in folders of two or more classes%s", folder, len(paths), without)
    return VideoList(tuple(paths), np.full(len(paths), -1, np.int32))


def _remote_videos(folder: epath.Path, left_out: Counter[str]) -> Iterator[str]:
    """One listing per folder; of the path library's own walk the paths lack their gs://."""
    for path in folder.iterdir():
        if is_video_file(path.name):
            yield str(path)
        elif not path.suffix and path.is_dir():
            yield from _remote_videos(path, left_out)
        else:
            left_out[f"files of the kind {path.suffix.lower() or 'without extension'}"] += 1


def _place(location: str) -> epath.Path:
    """The path of a location; of a remote one the store is asked, so that it is known to be within reach."""
    try:
        place = epath.Path(location).expanduser()
        if is_remote(location):
            place.exists()
    except KeyError as error:
        raise SourceError(f"{location}: {location.split('://')[0]}:// is no kind of store that is known here") from error
    except ImportError as error:
        raise SourceError(f"{location}: its store needs a library ({error}); for gs:// gcsfs, for s3:// s3fs") from error
    return place
