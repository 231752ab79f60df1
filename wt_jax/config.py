"""The sections of a configuration, as pure data: no method, no network, no decoder and no device is imported here.

`wt_jax.experiment` makes the ConfigDict that config files build on, and turns one into a checked `Config`.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict

from wt_jax.errors import ConfigError
from wt_jax.specs import ClipView, PixelSpec

RGB = tuple[float, float, float]
# Mean and deviation of ImageNet's pixels, the field's convention for RGB in [0, 1].
IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)
# Those of OpenAI's CLIP.
CLIP_MEAN: RGB = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: RGB = (0.26862954, 0.26130258, 0.27577711)


def closest(name: str, known: Iterable[str]) -> str:
    """', did you mean X?' for the closest known name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


VIT_CHOICES = {
    "positions": ("flat", "grid", "learned", "rotary", "rotary_tiled", "rotary_axial"),
    "attention": ("joint", "divided", "frame", "frame_divided"),
    "activation": ("gelu", "quick_gelu"),
    "init": ("normal", "xavier", "scaled"),
}


@dataclass(frozen=True)
class ViTConfig:
    """The form of a vision transformer, whatever its size; the defaults are VideoMAE's.

    Attributes:
      tubelet: frames, height and width of the box of pixels that becomes a token.
      positions: "flat", sinusoids of the token's index (VideoMAE); "grid", sinusoids of time, row and column (V-JEPA);
        "learned", a table of places and one of times; "rotary", turned queries and keys by time, row and column,
        "rotary_tiled" in the order of V-JEPA 2, "rotary_axial" by row and column from -1 to 1 (DINOv3).
      learned_grid: times, rows and columns of the learned tables; another grid takes the nearest entries.
      cls: a learned token beside the others, whose last state is the feature; without one it is the mean of all tokens.
      registers: learned tokens that are read nowhere (DINOv2 with registers, DINOv3).
      attention: "joint", all tokens to all; "divided", to the same place in other frames and then to the frame, with one CLS
        token for all frames (TimeSformer); "frame", each frame for itself, features averaged (CLIP, DINO); "frame_divided", the
        same with attention to the same place in other frames before, which starts as nothing.
      activation: "gelu", or "quick_gelu", x * sigmoid(1.702 x) (OpenAI's CLIP).
      pre_norm: a norm before the first block (CLIP).
      patch_bias: whether the map of tubelets has a bias.
      key_bias: whether keys have one. It changes no attention weight, but under rotary positions.
      layer_scale: first value of a learned factor of each residual branch and channel; 0: none.
      project: width of a last linear map without bias; 0: none.
      drop_path: chance that the last block's residual branches are left out for a clip, growing linearly from 0 at the first;
        for methods that draw it (`ViT.draw_alive`).
      epsilon: of the norms.
      init: of linear maps: "normal", truncated at deviation 0.02; "xavier", uniform (VideoMAE); "scaled", "normal" with the
        last maps of the branches divided by sqrt(2 * block) (V-JEPA 2).
    """

    tubelet: tuple[int, int, int] = (2, 16, 16)
    positions: str = "flat"
    learned_grid: tuple[int, int, int] = (8, 14, 14)
    cls: bool = False
    registers: int = 0
    attention: str = "joint"
    activation: str = "gelu"
    pre_norm: bool = False
    patch_bias: bool = True
    key_bias: bool = False
    layer_scale: float = 0.0
    project: int = 0
    drop_path: float = 0.0
    epsilon: float = 1e-6
    init: str = "normal"

    def __post_init__(self):
        for name, allowed in VIT_CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
        for name in ("tubelet", "learned_grid"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must hold numbers of 1 or more, got {getattr(self, name)}")
        for name in ("registers", "layer_scale", "project"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must lie in [0, 1), got {self.drop_path}")
        wanted = {"rotary": "joint", "rotary_tiled": "joint", "rotary_axial": "frame"}.get(self.positions, self.attention)
        if self.attention != wanted:
            raise ValueError(f"positions {self.positions!r} need attention {wanted!r}, got {self.attention!r}")


@dataclass(frozen=True)
class ModelConfig:
    """Which encoder; `wt_jax.models.build_encoder` builds it.

    Attributes:
      name: one of `wt_jax.models.MODELS`.
      width: scales all its channels; 64 is the published size of every model.
      norm: "batch", "sub_batch" (in `sub_batches` parts) or "group"; see `wt_jax.models.norm`. The ViTs have LayerNorm
        whatever it is.
      dtype: of the arithmetic; parameters, statistics and features stay float32.
      remat: recompute activations in the backward pass, which saves memory and takes time.
      mean, std: normalize RGB in [0, 1].
      weights: folder of exported weights (`wt_jax.weights.folder`), or hf://OWNER/NAME@REVISION (extra `hub`), that the encoder
        starts from; empty: random ones.
      aggregator: one of `wt_jax.models.AGGREGATORS`, which makes an encoder of whole videos of the clips' encoder; empty: none.
        The method sets it.
      vit: the form of a vision transformer; the other models have none.
    """

    name: str = "s3d"
    width: int = 64
    norm: str = "batch"
    sub_batches: int = 1
    dtype: str = "float32"
    remat: bool = False
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    weights: str = ""
    aggregator: str = ""
    vit: ViTConfig = ViTConfig()


@dataclass(frozen=True)
class DataConfig:
    """Where the videos are.

    Attributes:
      train, test: a list file, an index, a folder, a pack, tar shards, tfds:NAME or mix:0.7*ONE,0.3*OTHER; see
        `wt_jax.data.sources.open.open_source`.
      root: folder that relative paths of a list start from; empty: the list's own folder. TFDS: its data folder.
      pack: folder for packs of both lists, `train` and `test` in it, which are made before the first step where they are not
        there and read instead of the lists; empty: the lists' own videos are read. See `wt_jax.data.pack_locally.make_pack`.
      workers: processes that decode; 0: threads of the main process.
      threads: batches in flight per process.
      cache_gib: GiB of decoded training frames that each process that decodes keeps in memory (1.5 bytes per pixel, most
        often); a set that fits is decoded once. 0: each epoch decodes.
      max_bad_fraction: share of the videos that may be missing or undecodable before the run stops.
    """

    train: str = ""
    test: str = ""
    root: str = ""
    pack: str = ""
    workers: int = 0
    threads: int = 2
    cache_gib: float = 0.0
    max_bad_fraction: float = 0.01


@dataclass(frozen=True)
class ClipConfig:
    """The sampling that all views of a run share: see `wt_jax.specs.ClipView`."""

    num_frames: int = 16
    stride: float = 2.0
    unit: str = "frames"
    gap: float = 0.0
    most_gap: float = 0.0
    size: int = 112


@dataclass(frozen=True)
class ViewConfig:
    """The spatial and pixel part of one kind of view: see `wt_jax.specs.ClipView`."""

    crop: str = "random"
    area: tuple[float, float] = (0.2, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.0
    pixels: PixelSpec = PixelSpec()


# The strong list of US12210976B2, claim 1 (scaling, flip, color jitter, gray, blur) with CoCLR's strengths, and its weak
# list (scaling and cropping). The strengths are our inference: the claim names none.
STRONG = ViewConfig(
    flip_probability=0.5,
    pixels=PixelSpec(
        jitter_probability=0.8,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        gray_probability=0.2,
        blur_probability=0.5,
        blur_sigma=(0.1, 2.0),
    ),
)


@dataclass(frozen=True)
class ViewsConfig:
    """The kinds of view: strong and weak for training, test for evaluation."""

    strong: ViewConfig = STRONG
    weak: ViewConfig = ViewConfig()
    test: ViewConfig = ViewConfig(crop="center")


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer. Durations are "N steps", "N epochs" or "N %" of the training.

    Attributes:
      name: "sgd" (momentum 0.9), "lars", "adam" (weight decay as an L2 penalty, as in PyTorch) or "adamw".
      learning_rate: per 256 clips; the rate used is learning_rate * batch_size / 256.
      warmup: linear warm-up from 0.
      schedule: "cosine" (to 0), "constant", or "step" (divided by 10 at each of `milestones`).
      milestones: when a "step" schedule divides the rate.
      start_rate, final_rate: where the warm-up begins and a "cosine" ends, per 256 clips like `learning_rate`.
      stretch: length of the cosines of rate and weight decay over that of the training; above 1 it stops before their end.
      betas: of "adam" and "adamw".
      weight_decay: with `decay_norms` also on biases and normalization scales, as PyTorch does by default.
      final_weight_decay: to which it goes along a cosine; 0: it is constant.
      clip_norm: largest gradient norm; 0: no clipping.
      clip_each: whose norm: of "all" parameters, of each "part" (the encoder, the head, ...) or each "tensor".
      clip_from: no clipping before.
      layer_decay: the rate of each layer of the encoder as a share of that of the layer above it; 1: all alike. What lies
        on top of the encoder has the full rate, its last layer `layer_decay` of it (as in BEiT, arXiv 2106.08254).
      part_rates: (name, factor) of parts of the network whose rate differs: top-level entries of the method's parameters,
        such as ("encoder", 0.1).
    """

    name: str = "sgd"
    learning_rate: float = 0.03
    warmup: str = "0 steps"
    schedule: str = "cosine"
    milestones: tuple[str, ...] = ()
    momentum: float = 0.9
    start_rate: float = 0.0
    final_rate: float = 0.0
    stretch: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    final_weight_decay: float = 0.0
    decay_norms: bool = True
    clip_norm: float = 0.0
    clip_each: str = "all"
    clip_from: str = "0 steps"
    layer_decay: float = 1.0
    part_rates: tuple[tuple[str, float], ...] = ()

    def __post_init__(self):
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {self.layer_decay}")
        if self.stretch < 1:
            raise ValueError(f"stretch must be 1 or more, got {self.stretch}")
        if self.clip_each not in ("all", "part", "tensor"):
            raise ValueError(f"clip_each must be one of 'all', 'part', 'tensor', got {self.clip_each!r}")
        if any(factor < 0 for _, factor in self.part_rates):
            raise ValueError(f"part_rates must be 0 or more, got {self.part_rates}")


@dataclass(frozen=True)
class TrainConfig:
    """The training itself.

    Attributes:
      duration: "N steps" or "N epochs".
      batch_size: videos per step over all devices.
      accumulate: pieces that a batch is cut into, one after the other, to save memory.
      fsdp: devices over which parameters are sharded; 1: data-parallel; 0: all devices.
      log_every, eval_every, checkpoint_every: steps between two of them; eval_every "0 steps" means only at the end.
      keep_checkpoints: how many of the last ones stay (the best by online kNN stays beside them).
      profile: (first step, last step) of a profiler trace; empty: none.
      tensorboard: also write TensorBoard event files (needs the extra `tensorboard`).
      trackers: services to which metrics are sent too, "wandb", "mlflow" or both with a comma between (extras of these names).
      compile_cache: folder for compiled programs, so that the next start is quick (`wt_jax.train.executable_cache`).
    """

    duration: str = "200 epochs"
    batch_size: int = 256
    accumulate: int = 1
    fsdp: int = 1
    log_every: int = 10
    eval_every: str = "0 steps"
    checkpoint_every: str = "1 epochs"
    keep_checkpoints: int = 2
    profile: tuple[int, ...] = ()
    tensorboard: bool = False
    trackers: str = ""
    compile_cache: str = ""


@dataclass(frozen=True)
class Config:
    """A whole run, checked; `method` are the settings of a method, `eval` is a `wt_jax.eval.config.EvalConfig`."""

    method_name: str
    method: Any
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: Any = None

    def _view(self, kind: ViewConfig) -> ClipView:
        parts = {f.name: getattr(kind, f.name) for f in dataclasses.fields(kind)}
        return ClipView(**parts, **dataclasses.asdict(self.clip))

    @property
    def strong_view(self) -> ClipView:
        """Strong views, in a window that the method names."""
        return self._view(self.views.strong)

    @property
    def weak_view(self) -> ClipView:
        """Weak views, in a window that the method names."""
        return self._view(self.views.weak)

    @property
    def test_view(self) -> ClipView:
        """The deterministic view of evaluation."""
        return self._view(self.views.test)


def steps_of(duration: str, *, steps_per_epoch: float, total: int | None = None) -> int:
    """Steps of a duration "N steps", "N epochs" or, of a known total, "N %".

    Raises:
      ConfigError: it is none of these.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?|%)\s*", duration)
    if match is None or (match[2] == "%" and total is None):
        kinds = "'N steps' or 'N epochs'" + ("" if total is None else " or 'N %'")
        raise ConfigError(f"duration {duration!r} is not understood; write {kinds}")
    factor = {"s": 1.0, "e": steps_per_epoch, "%": (total or 0) / 100}[match[2][0]]
    return round(float(match[1]) * factor)


def has_key(section: ConfigDict, key: str) -> bool:
    """Whether a section has a key, "name" or "name.name"."""
    here: Any = section
    for name in key.split("."):
        if not isinstance(here, ConfigDict) or name not in here:
            return False
        here = here[name]
    return True


def adapt(section: ConfigDict, values: Mapping[str, Any]) -> None:
    """Set those of the keys ("name" or "name.name") that the section has: one config file serves different methods."""
    section.update_from_flattened_dict({key: value for key, value in values.items() if has_key(section, key)})


def adapt_model(model: ConfigDict, name: str) -> None:
    """Name the model, unless the method's source has a vision transformer, which the method then needs."""
    if not model.name.startswith("vit"):
        model.name = name


def to_dict(config: Any) -> dict[str, Any]:
    """The inverse of `resolve` and `from_dict`: nested plain values that JSON can hold."""
    return _as_dict(config)


def _as_dict(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _as_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


def from_dict(cls: type, values: Mapping[str, Any], types_of: Mapping[str, type] | None = None) -> Any:
    """An instance of a dataclass of settings from nested mappings; the inverse of `to_dict`.

    Args:
      cls: the dataclass.
      values: values by field; fields that are missing keep their default.
      types_of: dataclasses of fields whose annotation does not name one.

    Raises:
      ConfigError: a key is unknown (the closest is named) or a value has the wrong type.
    """
    return _build(cls, values, "config", types_of or {})


def _build(cls: type, values: Mapping[str, Any], key: str, types_of: Mapping[str, type]) -> Any:
    """An instance of dataclass `cls` from nested mappings, each key and type checked; `key` names it in errors."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{key} is a section with keys of its own, got {values!r}")
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in hints:
            raise ConfigError(f"unknown key {key}.{name}{closest(name, hints)}")
    parts = {}
    for name, value in values.items():
        hint = types_of.get(name, hints[name])
        if dataclasses.is_dataclass(hint):
            parts[name] = _build(typing.cast(type, hint), value, f"{key}.{name}", {})
        else:
            parts[name] = _convert(hint, value, f"{key}.{name}")
    try:
        return cls(**parts)
    except ValueError as error:
        raise ConfigError(f"{key}.{error}") from None


def _convert(hint: Any, value: Any, key: str) -> Any:
    """`value` as the annotated type; only an int is taken for a float, and a list for a tuple."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, tuple | list):
        if arguments[-1] is Ellipsis:
            return tuple(_convert(arguments[0], v, key) for v in value)
        if len(arguments) == len(value):
            return tuple(_convert(a, v, key) for a, v in zip(arguments, value, strict=True))
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and not isinstance(hint, types.GenericAlias) and type(value) is hint:
        return value
    expected = str(hint) if origin else hint.__name__
    raise ConfigError(f"{key} must be {expected}, got {value!r}")


def check_config(config: Config) -> None:
    """Check what can be checked without method and network.

    Raises:
      ConfigError: a value or a combination is impossible; the key is named.
    """
    train = config.train
    for key, value in {
        "train.batch_size": train.batch_size,
        "train.accumulate": train.accumulate,
        "train.log_every": train.log_every,
        "train.keep_checkpoints": train.keep_checkpoints,
        "data.threads": config.data.threads,
    }.items():
        if value < 1:
            raise ConfigError(f"config.{key} must be 1 or more, got {value}")
    if config.data.cache_gib < 0:
        raise ConfigError(f"config.data.cache_gib must be 0 or more, got {config.data.cache_gib}")
    if train.batch_size % train.accumulate:
        raise ConfigError(
            f"config.train.batch_size {train.batch_size} is not a multiple of config.train.accumulate {train.accumulate}"
        )
    if train.profile and (len(train.profile) != 2 or train.profile[0] > train.profile[1]):
        raise ConfigError(f"config.train.profile must be (first step, last step), got {train.profile}")
    if unknown := set(filter(None, train.trackers.split(","))) - {"wandb", "mlflow"}:
        raise ConfigError(f"config.train.trackers: {min(unknown)!r} is unknown; there are wandb and mlflow")
    if config.model.aggregator:
        raise ConfigError("config.model.aggregator is for exported encoders and evaluations; a training's method sets it")
    if config.views.test.crop == "random":
        raise ConfigError("config.views.test.crop must be 'center' or 'resize': evaluation draws nothing")
    for view in ("strong_view", "weak_view", "test_view"):
        try:
            getattr(config, view)
        except ValueError as error:
            raise ConfigError(f"config.clip or config.views.{view.removesuffix('_view')}: {error}") from None
    for key, duration in {
        "train.duration": train.duration,
        "train.eval_every": train.eval_every,
        "train.checkpoint_every": train.checkpoint_every,
        "optim.clip_from": config.optim.clip_from,
    }.items():
        try:
            steps_of(duration, steps_per_epoch=1)
        except ConfigError as error:
            raise ConfigError(f"config.{key}: {error}") from None
    choices = {"name": ("sgd", "lars", "adam", "adamw"), "schedule": ("cosine", "constant", "step")}
    for name, allowed in choices.items():
        value = getattr(config.optim, name)
        if value not in allowed:
            raise ConfigError(f"config.optim.{name} {value!r} is unknown; choose one of {', '.join(allowed)}")
