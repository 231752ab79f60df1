"""The methods, in one explicit table, and the names under which a configuration asks for them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from wt_jax.config import CLIP_MEAN, CLIP_STD, ModelConfig, ViTConfig, closest
from wt_jax.errors import ConfigError
from wt_jax.methods.base import Method, Setup
from wt_jax.methods.byol import BYOL, BYOLSettings
from wt_jax.methods.clsa import CLSA, CLSASettings
from wt_jax.methods.co2 import CO2, CO2Settings
from wt_jax.methods.detection import Detection, DetectionSettings
from wt_jax.methods.hdc import HDC, HDCSettings
from wt_jax.methods.lss import LSS, LSSSettings
from wt_jax.methods.moco import MoCo, MoCoSettings
from wt_jax.methods.modist import MoDist, MoDistSettings
from wt_jax.methods.order_geometry import OrderGeometry, OrderGeometrySettings
from wt_jax.methods.ressl import ReSSL, ReSSLSettings
from wt_jax.methods.scale import Scale, ScaleSettings
from wt_jax.methods.seed import SEED, SEEDSettings
from wt_jax.methods.self_distillation import CropSettings
from wt_jax.methods.settings import TeacherSettings
from wt_jax.methods.simclr import SimCLR, SimCLRSettings
from wt_jax.methods.supervised import Supervised, SupervisedSettings
from wt_jax.methods.svt import SVT, SVTSettings
from wt_jax.methods.swav import SwAV, SwAVSettings
from wt_jax.methods.v3s import V3S, V3SSettings
from wt_jax.methods.video_speech import VideoSpeech, VideoSpeechSettings
from wt_jax.methods.videomae import VideoMAE, VideoMAESettings
from wt_jax.methods.vjepa import VJEPA, PredictorSettings, VJEPASettings
from wt_jax.methods.vtdl import VTDL, VTDLSettings
from wt_jax.methods.weak_teacher import WeakTeacher, WeakTeacherSettings


class Entry(NamedTuple):
    """One name a configuration may ask for: what builds the method, its settings class, changed defaults, default model."""

    build: Callable[[Any, Setup], Method]
    settings: type
    changes: Mapping[str, Any] = {}
    model: ModelConfig = ModelConfig()


# Forms that methods need; the sizes are those of their sources.
_VIDEOMAE = ModelConfig("vit_base", vit=ViTConfig(init="xavier"))
_VJEPA = ModelConfig("vit_large", vit=ViTConfig(positions="grid"))
_VJEPA2 = ModelConfig("vit_large", vit=ViTConfig(positions="rotary_tiled", key_bias=True, init="scaled"))
_TIMESFORMER = ViTConfig((1, 16, 16), "learned", (8, 14, 14), cls=True, attention="divided", drop_path=0.1)
_CLIP = ViTConfig(
    (1, 16, 16),
    "learned",
    (8, 14, 14),
    cls=True,
    attention="frame_divided",
    activation="quick_gelu",
    pre_norm=True,
    patch_bias=False,
    project=512,
    drop_path=0.1,
    epsilon=1e-5,
)
_SVT, _LSS = ModelConfig("vit_base", vit=_TIMESFORMER), ModelConfig("vit_base", mean=CLIP_MEAN, std=CLIP_STD, vit=_CLIP)
_WEAK = {"crops": CropSettings(teacher="weak")}


METHODS: dict[str, Entry] = {
    "weak_teacher": Entry(WeakTeacher, WeakTeacherSettings),
    "one_hot": Entry(WeakTeacher, WeakTeacherSettings, {"label": "one_hot"}),
    "label_smoothing": Entry(WeakTeacher, WeakTeacherSettings, {"label": "uniform"}),
    "strong_teacher": Entry(WeakTeacher, WeakTeacherSettings, {"label": "strong_teacher"}),
    "relational": Entry(WeakTeacher, WeakTeacherSettings, {"label": "relational"}),
    "oracle": Entry(WeakTeacher, WeakTeacherSettings, {"label": "oracle"}),
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
    "videomae": Entry(VideoMAE, VideoMAESettings, model=_VIDEOMAE),
    "vjepa": Entry(VJEPA, VJEPASettings, model=_VJEPA),
    "vjepa2": Entry(
        VJEPA,
        VJEPASettings,
        {"predictor": PredictorSettings(heads=12, mask_tokens=1), "teacher": TeacherSettings(0.99925)},
        _VJEPA2,
    ),
    "svt": Entry(SVT, SVTSettings, model=_SVT),
    "svt_weak_teacher": Entry(SVT, SVTSettings, _WEAK, _SVT),
    "lss": Entry(LSS, LSSSettings, model=_LSS),
    "supervised": Entry(Supervised, SupervisedSettings),
    "detection": Entry(Detection, DetectionSettings),
}


def default_settings(name: str) -> Any:
    """The settings of a method by name.

    Raises:
      ConfigError: there is no such method; the message names the closest one.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}{closest(name, METHODS)}; there are {', '.join(METHODS)}")
    return METHODS[name].settings(**METHODS[name].changes)
