"""Encoders from other people's PyTorch weights: which kinds there are, and how a file's tensors become flax variables.

Each family of files has a table of its own (`torchvision.py`, `slow_r50.py`, `coclr.py`, `videomae.py`) that has for every
tensor of ours where theirs is. Nothing is guessed and nothing is silent: a tensor that is missing, left over or of another
shape is an error by name, and what is left out on purpose (classifier heads, queues, decoders) is logged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from wt_jax.config import CLIP_MEAN, CLIP_STD, ModelConfig, ViTConfig
from wt_jax.errors import WeightsError
from wt_jax.weights.convert import clip, coclr, dino, slow_r50, timesformer, torchvision, videomae, vjepa
from wt_jax.weights.convert.files import read_state
from wt_jax.weights.convert.tables import Sorted, Source, find_row, unwrapped
from wt_jax.weights.folder import encoder_shapes, first_faults


@dataclass(frozen=True)
class Kind:
    """What a file may hold: the models that it may be (the one that fits is taken), and whose names it may use."""

    models: tuple[ModelConfig, ...]
    sources: tuple[Source, ...]
    clip: str  # what the authors feed the network with


def _videomae(size: str) -> Kind:
    return Kind((ModelConfig(f"vit_{size}"), ModelConfig(f"vit_{size}_fc_norm")), videomae.SOURCES, videomae.CLIP)


def _torchvision(name: str, source: Source) -> Kind:
    return Kind((ModelConfig(name, mean=torchvision.MEAN, std=torchvision.STD),), (source,), torchvision.CLIP)


def _vit(size: str, form: ViTConfig, sources: tuple[Source, ...], clip: str, **options: Any) -> Kind:
    return Kind((ModelConfig(f"vit_{size}", vit=form, **options),), sources, clip)


def _vjepa2(size: str) -> Kind:
    form = ViTConfig(positions="rotary_tiled", key_bias=True)
    return _vit(size, form, vjepa.SECOND, vjepa.CLIP)


def _dinov2(size: str) -> Kind:
    form = ViTConfig((1, 14, 14), "learned", (1, 37, 37), cls=True, attention="frame", layer_scale=1.0)
    return _vit(size, form, dino.SECOND, dino.CLIP)


def _dinov3(size: str) -> Kind:
    form = ViTConfig((1, 16, 16), "rotary_axial", cls=True, registers=4, attention="frame", layer_scale=1.0, epsilon=1e-5)
    return _vit(size, form, dino.THIRD, dino.CLIP)


def _clip(size: str, patch: int, project: int, activation: str) -> Kind:
    form = ViTConfig(
        (1, patch, patch),
        "learned",
        (1, 224 // patch, 224 // patch),
        cls=True,
        attention="frame",
        activation=activation,
        pre_norm=True,
        patch_bias=False,
        project=project,
        epsilon=1e-5,
    )
    return _vit(size, form, clip.SOURCES, clip.CLIP, mean=CLIP_MEAN, std=CLIP_STD)


_TIMESFORMER = ViTConfig((1, 16, 16), "learned", (8, 14, 14), cls=True, attention="divided")
# OpenAI's weights have the quick activation, LAION's the usual one: the file does not hold which.
_CLIPS = {"b32": ("base", 32, 512), "b16": ("base", 16, 512), "l14": ("large", 14, 768)}

KINDS: dict[str, Kind] = {
    "torchvision_r3d_18": _torchvision("r3d_18", torchvision.PLAIN),
    "torchvision_mc3_18": _torchvision("mc3_18", torchvision.PLAIN),
    "torchvision_r2plus1d_18": _torchvision("r2plus1d_18", torchvision.FACTORISED),
    "slow_r50": Kind((ModelConfig("slow_r50", mean=slow_r50.MEAN, std=slow_r50.STD),), slow_r50.SOURCES, slow_r50.CLIP),
    "coclr_s3d": Kind((ModelConfig("s3d_coclr"),), (coclr.SOURCE,), coclr.CLIP),
    "videomae_small": _videomae("small"),
    "videomae_base": _videomae("base"),
    "videomae_large": _videomae("large"),
    "vjepa_large": _vit("large", ViTConfig(positions="grid"), vjepa.FIRST, vjepa.CLIP),
    "vjepa_huge": _vit("huge", ViTConfig(positions="grid"), vjepa.FIRST, vjepa.CLIP),
    **{f"vjepa2_{size}": _vjepa2(size) for size in ("large", "huge", "giant")},
    "timesformer_base": _vit("base", _TIMESFORMER, timesformer.SOURCES, timesformer.CLIP),
    **{f"dinov2_{size}": _dinov2(size) for size in ("small", "base", "large")},
    **{f"dinov3_{size}": _dinov3(size) for size in ("small", "base", "large")},
    **{f"clip_{name}": _clip(*sizes, "quick_gelu") for name, sizes in _CLIPS.items()},
    **{f"open_clip_{name}": _clip(*sizes, "gelu") for name, sizes in _CLIPS.items()},
}


@dataclass(frozen=True)
class Converted:
    """An encoder made from a file: its config, its flax variables (float32), whose names the file used, and what was left out.

    `dropped` maps what it is ("classifier") to the names in the file.
    """

    config: ModelConfig
    variables: Mapping[str, Any]
    source: str
    dropped: Mapping[str, list[str]]


def convert_file(kind: str, path: Path) -> Converted:
    """Read a file of PyTorch weights and convert it; `kind` is a key of `KINDS`.

    Raises:
      WeightsError: the file cannot be read or does not hold such an encoder; every fault by name.
    """
    return convert(kind, read_state(path), str(path))


def convert(kind: str, state: Mapping[str, np.ndarray], where: str) -> Converted:
    """Convert a state dict of NumPy arrays; `where` names it in errors.

    Raises:
      WeightsError: see `convert_file`.
    """
    known = KINDS[kind]
    state = unwrapped(state)
    source = next((source for source in known.sources if source.is_of(state)), None)
    if source is None:
        wanted = " or ".join(source.title for source in known.sources)
        raise WeightsError(f"{where} holds no names of {wanted}; it has {', '.join(list(state)[:3])}, ...")
    found = source.sort(state)
    # The candidates differ in names, not in sizes alone: the one with the fewest faults is the one that was meant.
    tries = [(config, *_build(config, source, found)) for config in known.models]
    config, tensors, faults = min(tries, key=lambda made: len(made[2]))
    if faults:
        raise WeightsError(f"{where} does not fit {config.name}: {first_faults(faults)}; is it of another --kind than {kind}?")
    return Converted(config, unflatten_dict(tensors, sep="/"), source.title, found.dropped)


def _build(config: ModelConfig, source: Source, found: Sorted) -> tuple[dict[str, np.ndarray], list[str]]:
    """Each tensor of the model from its place in the file, and everything that is wrong."""
    tensors, used, faults = {}, set(), list(found.faults)
    for ours, shape in encoder_shapes(config).items():
        row, theirs = find_row(source.rows, ours)
        if theirs not in found.tensors:
            faults.append(f"{theirs} is missing")
            continue
        used.add(theirs)
        array, name = found.tensors[theirs], found.names[theirs]
        try:
            tensors[ours] = np.ascontiguousarray(row.layout(array), np.float32)
        except (ValueError, IndexError):  # another number of axes
            tensors[ours] = array
        if tensors[ours].shape != shape:
            faults.append(f"{name} is {array.shape}, which does not make the {shape} of {ours}")
        elif not np.isfinite(tensors[ours]).all():
            faults.append(f"{name} holds values that are not finite")
    faults += [f"{name} is left over" for theirs, name in found.names.items() if theirs not in used]
    return tensors, faults
