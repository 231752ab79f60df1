"""What a request asks for, from its query parameters; everything that is not as it should be is refused."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from starlette.datastructures import QueryParams

from wt_jax.errors import SearchError
from wt_jax.search.engine import Engine, Filters, places_of
from wt_jax.search.scan import Scan
from wt_jax.search.web.errors import Refused
from wt_jax.search.web.uploads import Uploads

# An example: a moment of the index, or seconds of a clip; a minus makes it a counterexample.
_EXAMPLE = re.compile(
    r"(?P<sign>-?)(?:m(?P<moment>[0-9]{1,18})|c(?P<clip>[A-Za-z0-9_-]{1,40})@(?P<start>[0-9.]{1,12})-(?P<end>[0-9.]{1,12}))"
)
_MOST_EXAMPLES, MOST_RESULTS = 40, 500


@dataclass(frozen=True)
class Asked:
    """A query: examples and counterexamples (n, D) of length 1, or none of both; how many results, which, from which score."""

    examples: np.ndarray
    against: np.ndarray
    count: int
    filters: Filters
    threshold: float
    one_per_video: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked with."""
        return not len(self.examples) and not len(self.against)


def asked(parameters: QueryParams, session: str, engine: Engine, scan: Scan, uploads: Uploads) -> Asked:
    """What the parameters ask.

    Raises:
      Refused: one of them is wrong, or names what is not there any more.
    """
    sides: dict[str, list[np.ndarray]] = {"": [], "-": []}
    texts = parameters.getlist("q")
    if len(texts) > _MOST_EXAMPLES:
        raise Refused(400, f"At most {_MOST_EXAMPLES} examples, please.")
    for text in texts:
        match = _EXAMPLE.fullmatch(text)
        if not match:
            raise Refused(400, "An example is no moment and no clip.")
        if match["moment"]:
            found = moments(scan, [int(match["moment"])])
        else:
            start, end = _float(match["start"]), _float(match["end"])
            found = scan.normalized(uploads.features(session, match["clip"], start, end))
        sides[match["sign"]].append(found)
    nothing = [np.zeros((0, scan.snapshot.features.shape[1]), np.float32)]
    return Asked(
        np.concatenate(sides[""] or nothing),
        np.concatenate(sides["-"] or nothing),
        count_of(parameters, 24),
        _filters(parameters, scan),
        number(parameters, "threshold") if parameters.get("threshold") else -1.0,
        parameters.get("one_per_video") == "1",
    )


def to_locate(parameters: QueryParams, session: str, asked: Asked, scan: Scan, uploads: Uploads) -> list[np.ndarray]:
    """Rows of features (n, D) of length 1 of what is to be found within the videos: a clip's at several phases.

    Raises:
      Refused: nothing is to be found.
    """
    clips = [match for text in parameters.getlist("q") if (match := _EXAMPLE.fullmatch(text)) and match["clip"]]
    if len(clips) == 1 and not clips[0]["sign"]:
        found = uploads.phases(session, clips[0]["clip"], _float(clips[0]["start"]), _float(clips[0]["end"]))
        return [scan.normalized(row) for row in found]
    if not len(asked.examples):
        raise Refused(400, "Give the clip to find.")
    return [asked.examples]


def moments(scan: Scan, names: list[int]) -> np.ndarray:
    """Features of moments of the index; Refused where one is not there any more."""
    return scan.unit(places(scan, names))


def places(scan: Scan, names: list[int]) -> np.ndarray:
    """Places of moments; Refused where one is not there any more."""
    try:
        return places_of(scan.snapshot, names)
    except SearchError as error:
        raise Refused(410, f"{str(error).capitalize()}.") from None


def count_of(parameters: QueryParams, default: int) -> int:
    """How many results are asked for."""
    text = parameters.get("n", str(default))
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MOST_RESULTS and len(text) < 9):
        raise Refused(400, f"n is the number of results, from 1 to {MOST_RESULTS}.")
    return int(text)


def number(parameters: Mapping[str, str], name: str) -> float:
    """A finite number."""
    return _float(parameters.get(name, ""), name)


def _filters(parameters: QueryParams, scan: Scan) -> Filters:
    folder, roots = parameters.get("folder", ""), scan.snapshot.settings["roots"]
    columns: dict[str, tuple[str, ...]] = {}
    for name in parameters:
        if name.startswith("column."):
            columns[name.removeprefix("column.")] = tuple(parameters.getlist(name))

    def bounds(name: str, of: Callable[[str], float] = _float) -> tuple[float | None, float | None]:
        low, high = parameters.get(f"{name}_from", ""), parameters.get(f"{name}_to", "")
        return (of(low) if low else None, of(high) if high else None)

    return Filters(
        folders=tuple(f"{root.rstrip('/')}/{folder}" for root in roots) if folder else (),
        labels=tuple(parameters.getlist("label")),
        columns=columns,
        videos=tuple(_ids(parameters, "video")),
        not_videos=tuple(_ids(parameters, "not_video")),
        duration=bounds("duration"),
        changed=bounds("changed"),
    )


def _ids(parameters: QueryParams, name: str) -> list[int]:
    texts = parameters.getlist(name)
    if not all(text.isascii() and text.isdecimal() and len(text) < 18 for text in texts):
        raise Refused(400, f"{name} is the number of a video.")
    return [int(text) for text in texts]


def _float(text: str, name: str = "a time or bound") -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Refused(400, f"{name} is no number.")
    return value
