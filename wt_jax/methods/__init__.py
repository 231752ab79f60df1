"""The methods, in one explicit table, and the names under which a configuration asks for them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from wt_jax.config import closest
from wt_jax.errors import ConfigError
from wt_jax.methods.base import Method, Setup
from wt_jax.methods.byol import BYOL, BYOLSettings
from wt_jax.methods.clsa import CLSA, CLSASettings
from wt_jax.methods.co2 import CO2, CO2Settings
from wt_jax.methods.hdc import HDC, HDCSettings
from wt_jax.methods.moco import MoCo, MoCoSettings
from wt_jax.methods.modist import MoDist, MoDistSettings
from wt_jax.methods.order_geometry import OrderGeometry, OrderGeometrySettings
from wt_jax.methods.ressl import ReSSL, ReSSLSettings
from wt_jax.methods.scale import Scale, ScaleSettings
from wt_jax.methods.seed import SEED, SEEDSettings
from wt_jax.methods.simclr import SimCLR, SimCLRSettings
from wt_jax.methods.supervised import Supervised, SupervisedSettings
from wt_jax.methods.swav import SwAV, SwAVSettings
from wt_jax.methods.v3s import V3S, V3SSettings
from wt_jax.methods.video_speech import VideoSpeech, VideoSpeechSettings
from wt_jax.methods.vtdl import VTDL, VTDLSettings
from wt_jax.methods.weak_teacher import WeakTeacher, WeakTeacherSettings


class Entry(NamedTuple):
    """One name a configuration may ask for: what builds the method, its settings class, and changed defaults."""

    build: Callable[[Any, Setup], Method]
    settings: type
    changes: Mapping[str, Any] = {}


METHODS: dict[str, Entry] = {
    "weak_teacher": Entry(WeakTeacher, WeakTeacherSettings),
    "one_hot": Entry(WeakTeacher, WeakTeacherSettings, {"label": "one_hot"}),
    "label_smoothing": Entry(WeakTeacher, WeakTeacherSettings, {"label": "uniform"}),
    "strong_teacher": Entry(WeakTeacher, WeakTeacherSettings, {"label": "strong_teacher"}),
    "relational": Entry(WeakTeacher, WeakTeacherSettings, {"label": "relational"}),
    "simclr": Entry(SimCLR, SimCLRSettings),
    "moco": Entry(MoCo, MoCoSettings),
    "byol": Entry(BYOL, BYOLSettings),
    "swav": Entry(SwAV, SwAVSettings),
    "ressl": Entry(ReSSL, ReSSLSettings),
    "clsa": Entry(CLSA, CLSASettings),
    "co2": Entry(CO2, CO2Settings),
    "seed": Entry(SEED, SEEDSettings),
    "modist": Entry(MoDist, MoDistSettings),
    "hdc": Entry(HDC, HDCSettings),
    "vtdl": Entry(VTDL, VTDLSettings),
    "v3s": Entry(V3S, V3SSettings),
    "order_geometry": Entry(OrderGeometry, OrderGeometrySettings),
    "video_speech": Entry(VideoSpeech, VideoSpeechSettings),
    "scale": Entry(Scale, ScaleSettings),
    "supervised": Entry(Supervised, SupervisedSettings),
}


def default_settings(name: str) -> Any:
    """The settings of a method by name.

    Raises:
      ConfigError: there is no such method; the message names the closest one.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}{closest(name, METHODS)}; there are {', '.join(METHODS)}")
    return METHODS[name].settings(**METHODS[name].changes)
