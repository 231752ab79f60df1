"""What a data set is to the pipeline: names, labels and columns of videos, cheap to send to worker processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

TIME = "time"  # the column of the records' times


@dataclass(frozen=True)
class Record:
    """One video, or one moment of it.

    Attributes:
      index: row of the list.
      path: its name, see `wt_jax.data.video.reader.open_video`.
      label: its class, or -1.
      time: seconds from the video's first frame; windows are centered on it instead of being drawn. None: there is none.
    """

    index: int
    path: str
    label: int
    time: float | None = None


@dataclass(frozen=True, eq=False)
class VideoList(Sequence[Record]):
    """Videos with random access; a handful of tuples and arrays, whatever the videos are stored in.

    Attributes:
      paths: one name per video: a path, an address such as gs://..., or a record of a shard, FILE.array_record#NUMBER.
      labels: int32 [n], classes in [0, len(classes)), or -1 throughout where nothing is labelled.
      classes: class names; empty where nothing is labelled.
      columns: further columns of a CSV list, one text per video. A column "time" holds the records' times, "" where there is
        none.
      parts: of a mixture, (number of videos, weight) of each of its lists, in their order; else empty.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...] = ()
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    parts: tuple[tuple[int, float], ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        path = self.paths[index]  # Raises IndexError, which ends iteration.
        time = self.columns[TIME][index] if TIME in self.columns else ""
        return Record(int(index) % len(self), path, int(self.labels[index]), float(time) if time else None)

    def select(self, indices: Iterable[int]) -> VideoList:
        """The videos at these places, renumbered from 0; the classes stay as they are, the weights of a mixture do not."""
        chosen = [int(index) for index in indices]
        return VideoList(
            paths=tuple(self.paths[index] for index in chosen),
            labels=self.labels[chosen],
            classes=self.classes,
            columns={name: tuple(values[index] for index in chosen) for name, values in self.columns.items()},
        )


def mix(lists: Sequence[VideoList], weights: Sequence[float]) -> VideoList:
    """One list of several, of which training shows list i in the share weights[i] / sum(weights) of its clips.

    Classes of the same name are one class. If one of the lists is unlabelled the mixture is; columns that all lists have
    stay, and times where any list has them.
    """
    classes = tuple(dict.fromkeys(name for videos in lists for name in videos.classes))
    if not all(videos.classes for videos in lists):
        classes = ()
    number = {name: label for label, name in enumerate(classes)}
    labels = [
        np.array([number[name] for name in videos.classes], np.int32)[videos.labels]
        if classes
        else np.full(len(videos), -1, np.int32)
        for videos in lists
    ]
    shared = [name for name in lists[0].columns if name != TIME and all(name in videos.columns for videos in lists)]
    columns = {name: tuple(value for videos in lists for value in videos.columns[name]) for name in shared}
    if any(TIME in videos.columns for videos in lists):
        columns[TIME] = tuple(time for videos in lists for time in videos.columns.get(TIME, ("",) * len(videos)))
    return VideoList(
        paths=tuple(path for videos in lists for path in videos.paths),
        labels=np.concatenate(labels),
        classes=classes,
        columns=columns,
        parts=tuple((len(videos), float(weight)) for videos, weight in zip(lists, weights, strict=True)),
    )


def same_classes(lists: Sequence[VideoList]) -> list[VideoList]:
    """The lists with one numbering of their classes, so that a class means the same in each.

    Where the numberings agree (a name may be missing, or be the number itself) they stay. Otherwise names decide: a class
    that one list lacks has shifted the numbers of those after it.
    """
    classes: list[str] = []
    for videos in lists:
        classes += map(str, range(len(classes), len(videos.classes)))
        classes = [_name_of(number, name, videos.classes) for number, name in enumerate(classes)]
    if any(own not in (name, str(n)) for v in lists for n, (own, name) in enumerate(zip(v.classes, classes, strict=False))):
        classes = list(dict.fromkeys(name for videos in lists for name in videos.classes))
        numbers = [np.array([classes.index(name) for name in videos.classes], np.int32) for videos in lists]
    else:
        numbers = [np.arange(len(videos.classes), dtype=np.int32) for videos in lists]
    return [
        replace(v, labels=number[v.labels], classes=tuple(classes)) if v.classes else v
        for v, number in zip(lists, numbers, strict=True)
    ]


def _name_of(number: int, name: str, classes: Sequence[str]) -> str:
    """The name of a class, where `name` may be but its number and another list may know better."""
    return classes[number] if name == str(number) and number < len(classes) else name
