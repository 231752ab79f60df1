"""Tar shards of WebDataset (https://github.com/webdataset/webdataset) as a `VideoList`, with random access and no dependency.

A sample is the members of one name up to its first dot: `0001.mp4`, and `0001.cls` with its class as an integer where there are
labels. The headers are read once here; a video's name holds its place in the file, so that no tar file is parsed later.
"""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Sequence

import numpy as np
from etils import epath

from wt_jax.data.records import VideoList
from wt_jax.data.video.reader import EXTENSIONS
from wt_jax.errors import SourceError

log = logging.getLogger(__name__)

SUFFIX = ".tar"


def open_tar(shards: Sequence[epath.Path]) -> VideoList:
    """The videos of shards, in their order.

    Raises:
      SourceError: a shard is compressed or damaged, holds no video, or only some of the videos have a class.
    """
    paths: list[str] = []
    labels: list[int] = []
    for shard in shards:
        videos, classes = _members(shard)
        if not videos:
            raise SourceError(f"{shard}: no video in it; looked for {' '.join(EXTENSIONS)}")
        paths += videos.values()
        labels += [classes.get(key, -1) for key in videos]
    known = sum(label >= 0 for label in labels)
    if known not in (0, len(labels)):
        raise SourceError(f"{shards[0]}: {known} of {len(labels)} videos have a class, a member .cls; label all or none")
    classes = tuple(map(str, range(max(labels) + 1)))
    log.info("%s: %d videos in %d shards, %d classes", shards[0].parent, len(paths), len(shards), len(classes))
    return VideoList(tuple(paths), np.array(labels, np.int32), classes)


def _members(shard: epath.Path) -> tuple[dict[str, str], dict[str, int]]:
    """Names of a shard's videos, and their classes, by sample."""
    videos: dict[str, str] = {}
    classes: dict[str, int] = {}
    key = ""
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                key = f"{folder}/{name.partition('.')[0]}"
                if member.isfile() and name.lower().endswith(EXTENSIONS):
                    videos[key] = f"{shard}#{member.name}@{member.offset_data}+{member.size}"
                elif member.isfile() and name.endswith(".cls"):
                    content = archive.extractfile(member)
                    assert content is not None  # it is a file
                    classes[key] = int(content.read())
    except (tarfile.TarError, OSError) as error:
        raise SourceError(f"{shard}: no tar file that can be read ({error}); a compressed one has no random access") from None
    except ValueError:
        raise SourceError(f"{shard}: {key}.cls holds no integer") from None
    if any(label < 0 for label in classes.values()):
        raise SourceError(f"{shard}: a member .cls holds a negative class")
    return videos, classes
