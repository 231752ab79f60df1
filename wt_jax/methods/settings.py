"""Settings that several methods are composed of, and their checks, which run before any device is touched."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any


@dataclass(frozen=True)
class MLPSettings:
    """A head: linear maps with ReLU between.

    Attributes:
      hidden: width between them; 0: that of the encoder's feature.
      layers: number of linear maps.
      norm: before each ReLU, "batch" or "" for none.
    """

    hidden: int = 0
    layers: int = 2
    norm: str = ""

    def __post_init__(self):
        check(self, least={"hidden": 0, "layers": 1}, norm=("", "batch"))


@dataclass(frozen=True)
class HeadSettings(MLPSettings):
    """A head with a width of its own.

    Attributes:
      dim: of the embedding.
    """

    hidden: int = 2048
    dim: int = 128

    def __post_init__(self):
        super().__post_init__()
        check(self, least={"dim": 1})


@dataclass(frozen=True)
class QueueSettings:
    """A queue of past embeddings.

    Attributes:
      size: slots, a multiple of the batch; where a method allows 0, the keys of the batch's other videos alone.
      drop_same_video: whether older clips of a video are no negatives of it (CoCLR carries video names for this).
      in_batch: whether the keys of the batch's other videos are compared with too (CLSA); without a queue they always are.
    """

    size: int = 65536
    drop_same_video: bool = True
    in_batch: bool = False

    def __post_init__(self):
        check(self, least={"size": 0})


@dataclass(frozen=True)
class TeacherSettings:
    """The teacher as a moving average of the student.

    Attributes:
      momentum: per step.
      schedule: "constant", or rises to 1: by a "cosine" (BYOL), or "linear" (V-JEPA).
      stretch: length of the schedule over that of the training; above 1 it ends before 1 is reached.
    """

    momentum: float = 0.999
    schedule: str = "constant"
    stretch: float = 1.0

    def __post_init__(self):
        check(self, fractions=("momentum",), least={"stretch": 1}, schedule=("constant", "cosine", "linear"))


def check(
    settings: Any, *, fractions: tuple[str, ...] = (), least: Mapping[str, float] | None = None, **choices: tuple[str, ...]
) -> None:
    """Check fields of settings, "name" or "name.name"; those whose name ends in temperature or epsilon must be above 0.

    Args:
      settings: the dataclass.
      fractions: fields that must lie in [0, 1].
      least: fields with their smallest value.
      choices: fields with their allowed values.

    Raises:
      ValueError: the message begins with the field's name.
    """

    def require(condition: bool, name: str, rule: str) -> None:
        if not condition:
            raise ValueError(f"{name} must {rule}, got {attrgetter(name)(settings)!r}")

    for name, allowed in choices.items():
        require(getattr(settings, name) in allowed, name, f"be one of {', '.join(map(repr, allowed))}")
    for name in fractions:
        require(0 <= attrgetter(name)(settings) <= 1, name, "lie in [0, 1]")
    for name, low in (least or {}).items():
        require(attrgetter(name)(settings) >= low, name, f"be {low} or more")
    for name in settings.__dataclass_fields__:
        if name.endswith(("temperature", "epsilon")):
            require(getattr(settings, name) > 0, name, "be above 0")
