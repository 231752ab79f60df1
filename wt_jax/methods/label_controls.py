"""The controls of the weak teacher: what stands in the place of its label, so that each part of it can be told from the rest.

Each takes the settings (`wt_jax.methods.weak_teacher.WeakTeacherSettings`) and what a step has seen; it returns the loss (B,)
and the labels (B, 1 + K) that it is a cross-entropy against.
"""

from typing import Any

from jax import Array

from wt_jax.methods import targets
from wt_jax.methods.queue_contrast import Seen, same_class


def uniform(settings: Any, seen: Seen) -> tuple[Array, Array]:
    """Plain label smoothing."""
    return targets.smoothed(seen, temperature=settings.temperature, label_weight=settings.label_weight)


def one_hot(settings: Any, seen: Seen) -> tuple[Array, Array]:
    """InfoNCE."""
    return targets.smoothed(seen, temperature=settings.temperature, label_weight=0.0)


def relational(settings: Any, seen: Seen) -> tuple[Array, Array]:
    """The second teacher's similarities alone."""
    t, t_w = settings.temperature, settings.weak_temperature
    return targets.related(seen, "weak", temperature=t, weak_temperature=t_w)


def oracle(settings: Any, seen: Seen) -> tuple[Array, Array]:
    """The mass is spread evenly over the negatives of the same class: an upper bound for any teacher, which needs labels."""
    t, weight = settings.temperature, settings.label_weight
    return targets.smoothed(seen, temperature=t, label_weight=weight, among=same_class(seen))
