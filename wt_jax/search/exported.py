"""An encoder as one file that runs without the code that made it: a program of `jax.export`, its weights, and its view.

The program takes the weights and uint8 clips (batch, T, S, S, 3), with any batch, and returns float32 features (batch, D). It
runs on cpu, cuda and tpu. Weights are arguments rather than constants of the program, so a file is as large as its weights.

The file is a zip archive: `encoder.json`, `program.bin` and `weights.npz`. Its fingerprint is that of the weights and the view.
"""

import hashlib
import io
import json
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wt_jax.errors import SearchError
from wt_jax.files import atomic_path
from wt_jax.specs import ClipView

PLATFORMS = ("cpu", "cuda", "tpu")
_FORMAT = 1
BATCH = 32  # clips per call; where many are to be encoded, multiples waste nothing
_BATCHES = (4, BATCH)  # the only sizes that programs are compiled for
VIEW_FIELDS = ("num_frames", "stride", "unit", "size", "crop")


@dataclass(frozen=True)
class EncoderFacts:
    """What an encoder is.

    Attributes:
      name: for people.
      view: the clips that it was trained on; draws nothing.
      dim: D, numbers in a feature.
      fingerprint: hexadecimal; two encoders with the same one give the same features.
    """

    name: str
    view: ClipView
    dim: int
    fingerprint: str


class ExportedEncoder:
    """A loaded encoder. Calls may come from several threads; they take turns."""

    def __init__(self, facts: EncoderFacts, program: jax.export.Exported, weights: list[np.ndarray]):
        self.facts = facts
        self._weights = jax.device_put(weights)
        self._call = jax.jit(program.call)
        self._turn = threading.Lock()

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """Features float32 (n, D) of uint8 clips (n, T, S, S, 3); n may be 0."""
        parts = []
        with self._turn:
            for start in range(0, len(clips), BATCH):
                part = clips[start : start + BATCH]
                parts.append((len(part), self._call(self._weights, _padded(part))))
        rows = [np.asarray(features)[:count] for count, features in parts]
        return np.concatenate(rows) if rows else np.zeros((0, self.facts.dim), np.float32)


def _padded(clips: np.ndarray) -> np.ndarray:
    """The clips with black ones behind, up to one of the few sizes that programs are compiled for."""
    size = next(size for size in _BATCHES if size >= len(clips))
    if len(clips) == size:
        return np.ascontiguousarray(clips)
    padded = np.zeros((size, *clips.shape[1:]), np.uint8)
    padded[: len(clips)] = clips
    return padded


def load_exported(path: Path) -> ExportedEncoder:
    """Read a file that `write_exported` wrote; needs no Flax.

    Raises:
      SearchError: there is no such file, or it holds no encoder that can be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            fields = json.loads(archive.read("encoder.json"))
            program = archive.read("program.bin")
            with np.load(io.BytesIO(archive.read("weights.npz"))) as arrays:
                weights = [arrays[f"{number:05}"] for number in range(len(arrays.files))]
        if fields["format"] != _FORMAT:
            raise SearchError(f"{path} has format {fields['format']}; this version reads format {_FORMAT}: export it again")
        view = ClipView(**fields["view"])
        facts = EncoderFacts(fields["name"], view, fields["dim"], _fingerprint(fields, weights))
        return ExportedEncoder(facts, jax.export.deserialize(bytearray(program)), weights)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, SearchError):
            raise
        raise SearchError(f"{path} holds no exported encoder that can be read ({error})") from None


def write_exported(path: Path, name: str, view: ClipView, apply: Any, variables: Any) -> None:
    """Export `apply(variables, clips)` with its variables; the file appears whole or not at all.

    Args:
      path: the file to write.
      name: for people.
      view: the clips that the encoder takes.
      apply: jittable: a tree of arrays and uint8 clips (b, T, S, S, 3) -> features (b, D) float32. Its program must hold
        no call of native code: those exist on one platform alone.
      variables: the tree.
    """
    leaves, tree = jax.tree.flatten(jax.device_get(variables))

    def run(weights: list[jax.Array], clips: jax.Array) -> jax.Array:
        return apply(jax.tree.unflatten(tree, weights), clips)

    (batch,) = jax.export.symbolic_shape("batch")
    clips = jax.ShapeDtypeStruct((batch, view.num_frames, view.size, view.size, 3), np.uint8)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    exported = jax.export.export(jax.jit(run), platforms=PLATFORMS)(shapes, clips)
    fields = {
        "format": _FORMAT,
        "name": name,
        "view": {field: getattr(view, field) for field in VIEW_FIELDS},
        "dim": int(exported.out_avals[0].shape[1]),
    }
    arrays = io.BytesIO()
    named: dict[str, Any] = {f"{number:05}": np.asarray(leaf) for number, leaf in enumerate(leaves)}
    np.savez(arrays, **named)
    with atomic_path(path, sync=True) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("encoder.json", json.dumps(fields, indent=1))
        archive.writestr("program.bin", bytes(exported.serialize()))
        archive.writestr("weights.npz", arrays.getvalue())


def _fingerprint(fields: dict[str, Any], weights: list[np.ndarray]) -> str:
    """Of the weights and the view; not of the name, and not of the program, which changes with the compiler's version."""
    digest = hashlib.sha256(json.dumps([fields["view"], fields["dim"]], sort_keys=True).encode())
    for leaf in weights:
        digest.update(f"{leaf.shape} {leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:32]
