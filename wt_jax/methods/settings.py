"""Checks of method settings, one place for all; they run when the settings are made, before any device is touched.

Names that mean the same in every method:
  clips: clips of a video that are pulled together, each from a window of its own; rho in the rho study (arXiv 2104.14558).
  temperature: of the logits.
  momentum, momentum_schedule: of the teacher's average per step; "constant", or "cosine" (rises to 1, as in BYOL).
  queue_size: slots of the queue, a multiple of the batch.
  drop_same_video: keep older clips of the same video from being negatives (CoCLR carries video names for this).
  hidden, dim, head_layers, head_norm: the head, `head_layers` linear maps with ReLU between, `hidden` wide (0: as wide as
    the encoder's feature), to `dim` numbers; head_norm "batch" puts a BatchNorm before each ReLU, "" none.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

_CHOICES = {"momentum_schedule": ("constant", "cosine"), "head_norm": ("", "batch")}
_SHARES = ("momentum",)
_LEAST = {"clips": 2, "dim": 1, "head_layers": 1, "hidden": 0, "queue_size": 0}


def check(settings: Any, *, shares: Iterable[str] = (), least: dict[str, float] | None = None, **choices: tuple) -> None:
    """Check the fields of a settings dataclass: those named here and those whose name means the same everywhere.

    Args:
      settings: the instance.
      shares: further fields that must lie in [0, 1].
      least: further fields with their smallest value.
      choices: further fields with their allowed values.

    Raises:
      ValueError: the message begins with the field's name.
    """
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    for name, allowed in (_CHOICES | choices).items():
        if name in values and values[name] not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {values[name]!r}")
    for name in (*_SHARES, *shares):
        if name in values and not 0 <= values[name] <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {values[name]}")
    for name, low in (_LEAST | (least or {})).items():
        if name in values and values[name] < low:
            raise ValueError(f"{name} must be {low} or more, got {values[name]}")
    for name, value in values.items():
        if name.endswith(("temperature", "epsilon")) and value <= 0:
            raise ValueError(f"{name} must be above 0, got {value}")
