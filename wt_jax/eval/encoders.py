"""The encoders that an evaluation compares: random ones, those of training runs, and exported or imported weights."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from wt_jax.cluster.processes import barrier, is_primary_process
from wt_jax.config import ModelConfig
from wt_jax.errors import ConfigError
from wt_jax.eval.config import EvaluationConfig
from wt_jax.eval.features.extract import EMBEDDING, Extractor, make_extractor, make_pair_extractor
from wt_jax.experiment import build_method
from wt_jax.methods.base import EmbedsSound, Method, Tree, encoder_variables
from wt_jax.models import build_encoder, first_encoder_variables
from wt_jax.specs import AudioView
from wt_jax.train.checkpoint import read_evaluated
from wt_jax.train.workdir import read_config
from wt_jax.weights.folder import load_encoder, save_encoder
from wt_jax.weights.hub import local_folder

RANDOM = "random"


@dataclass(frozen=True)
class Candidate:
    """One encoder with its variables.

    Attributes:
      name: in tables and files.
      model: what builds the encoder.
      params, model_state: as a method keeps them; of encoders without a method, only the part "encoder".
      method: whose head "embedding" means; None for an encoder alone.
    """

    name: str
    model: ModelConfig
    params: Tree
    model_state: Tree
    method: Method | None = None

    def extractor(self, layer: str, *, tokens: bool) -> Extractor:
        """The function from clips to features; raises ConfigError for a layer that this encoder lacks."""
        return make_extractor(build_encoder(self.model), layer, method=self.method, tokens=tokens)

    @property
    def pairs(self) -> tuple[Extractor, AudioView] | None:
        """What embeds clips and their sound, and which sound; None where the method has no sound."""
        return (make_pair_extractor(self.method), self.method.sound) if isinstance(self.method, EmbedsSound) else None

    def fingerprint(self, layer: str) -> str:
        """Changes with the variables that the features depend on."""
        whole = {"params": self.params, "model_state": self.model_state}
        read = whole if layer == EMBEDDING else encoder_variables(self.params, self.model_state)
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(read):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:16]

    def export(self, folder: Path) -> ModelConfig:
        """Write the encoder's weights, on one process; returns the model that starts from them."""
        if is_primary_process():
            save_encoder(folder, self.model, encoder_variables(self.params, self.model_state))
        barrier("weights exported")
        return dataclasses.replace(self.model, weights=str(folder))


def named_paths(texts: Sequence[str]) -> dict[str, str]:
    """`--encoders` as {name: path}: items are `PATH` or `NAME=PATH`; a path is "random" or a folder.

    Raises:
      ConfigError: nothing is named, two have the same name, or a name does not suit a file.
    """
    paths: dict[str, str] = {}
    for text in texts:
        name, named, path = text.rpartition("=")
        name = name if named else (path if path == RANDOM else Path(path).resolve().name)
        if not re.fullmatch(r"[\w.+-]+", name):
            raise ConfigError(
                f"encoder {text!r} has the name {name!r}; give one of letters, digits, '_', '-', '+' and '.': NAME=PATH"
            )
        if name in paths:
            raise ConfigError(f"two encoders have the name {name!r}; name them: --encoders=NAME={paths[name]},NAME={path}")
        paths[name] = path
    if not paths:
        raise ConfigError("--encoders is empty; give `random`, workdirs of runs or folders of exported weights")
    return paths


def load_candidate(name: str, path: str, config: EvaluationConfig) -> Candidate:
    """The encoder at a path: `random` (of `config.model` and `config.seed`), a workdir's last checkpoint, or exported weights.

    Raises:
      ConfigError, CheckpointError, WeightsError: there is no such encoder, or it cannot be read.
    """
    folder = local_folder(path)
    if path == RANDOM:
        model = config.model
        clip = jnp.zeros((1, config.clip.num_frames, config.clip.size, config.clip.size, 3))
        init = jax.jit(lambda key: first_encoder_variables(build_encoder(model), key, clip))
        return _alone(name, model, jax.tree.map(np.asarray, init(jax.random.key(config.seed))))
    if (folder / "model.json").exists():
        model, variables = load_encoder(folder)
        return _alone(name, model, variables)
    if (folder / "config.json").exists():
        run = read_config(folder)
        method = build_method(run)
        _, params, model_state = read_evaluated(folder, method.evaluated)
        return Candidate(name, method.model, params, model_state, method)
    raise ConfigError(f"encoder {path}: neither 'random', nor the workdir of a run, nor a folder of exported weights")


def _alone(name: str, model: ModelConfig, variables: Tree) -> Candidate:
    state = {collection: {"encoder": part} for collection, part in variables.items() if collection != "params"}
    return Candidate(name, model, {"encoder": variables["params"]}, state)
