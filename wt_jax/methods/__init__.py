"""The methods, in one explicit table, and the names under which a configuration asks for them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from wt_jax.config import Config, ConfigError, closest
from wt_jax.methods.base import Method
from wt_jax.methods.weak_teacher import WeakTeacher, WeakTeacherSettings
from wt_jax.models import build_encoder
from wt_jax.models.embedder import Embedder
from wt_jax.models.heads import MLP


def _weak_teacher(config: Config, num_steps: int) -> Method:
    settings = config.method
    encoder = build_encoder(config.model)
    head = MLP(hidden=settings.hidden or encoder.feature_dim, out=settings.dim, layers=2, norm=settings.head_norm or None)
    return WeakTeacher(settings, Embedder(encoder, head), config.strong_view, config.weak_view, num_steps, config.model.weights)


class Entry(NamedTuple):
    """One name a configuration may ask for: settings class, changed defaults, and what builds the method."""

    settings: type
    changes: Mapping[str, Any]
    build: Callable[[Config, int], Method]


METHODS: dict[str, Entry] = {
    "weak_teacher": Entry(WeakTeacherSettings, {}, _weak_teacher),
    "moco": Entry(WeakTeacherSettings, {"label": "one_hot"}, _weak_teacher),
    "label_smoothing": Entry(WeakTeacherSettings, {"label": "uniform"}, _weak_teacher),
    "strong_teacher": Entry(WeakTeacherSettings, {"label": "strong_teacher"}, _weak_teacher),
    "relational": Entry(WeakTeacherSettings, {"label": "relational"}, _weak_teacher),
}


def default_settings(name: str) -> Any:
    """The settings of a method by name.

    Raises:
      ConfigError: there is no such method; the message names the closest one.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}{closest(name, METHODS)}; there are {', '.join(METHODS)}")
    return METHODS[name].settings(**METHODS[name].changes)


def build_method(config: Config, num_steps: int) -> Method:
    """The method that a configuration names, for a training of `num_steps` steps."""
    return METHODS[config.method_name].build(config, num_steps)
