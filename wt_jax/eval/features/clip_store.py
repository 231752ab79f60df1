"""A folder to train on features of clips: an encoder's weights and, beside them, what it makes of the clips of a list.

The weights are those of `wt_jax.weights.folder`, the features `clips.npz` with its arrays, see `wt_jax.data.feature_store`.
"""

import logging
from pathlib import Path

import jax

from wt_jax.config import to_dict
from wt_jax.data.feature_store import CLIPS
from wt_jax.data.records import VideoList
from wt_jax.errors import WeightsError
from wt_jax.eval.encoders import Candidate
from wt_jax.eval.features.extract import Reading, make_extractor
from wt_jax.eval.features.store import extract_to_file
from wt_jax.eval.splits import digest
from wt_jax.models import build_encoder
from wt_jax.train.sharding import make_mesh, replicated
from wt_jax.weights.folder import load_encoder

log = logging.getLogger(__name__)


def store_clips(folder: Path, encoder: Candidate, videos: VideoList, reading: Reading) -> None:
    """Write the store; an interrupted call goes on where it was. Memory does not grow with videos, nor with their clips.

    Args:
      folder: for weights and features; made if need be.
      encoder: what makes the features; one of clips.
      videos: whose clips.
      reading: which clips of each; `windows` may be hundreds.

    Raises:
      WeightsError: the encoder is one of whole videos, or the folder holds another encoder.
      ConfigError: no video could be decoded.
    """
    if encoder.model.aggregator:
        raise WeightsError(f"{encoder.name} is an encoder of whole videos; name the encoder of clips that it is built on")
    if (folder / "model.json").exists() and not _holds(folder, encoder):
        raise WeightsError(f"{folder} holds another encoder; name another folder")
    encoder.export(folder)
    mesh = make_mesh()
    params, model_state = jax.device_put((encoder.params, encoder.model_state), replicated(mesh))
    about = {
        "weights": encoder.fingerprint(""),
        "model": to_dict(encoder.model),
        "view": to_dict(reading.view),
        "windows": reading.windows,
        "crops": reading.crops,
        "videos": digest(videos),
        "clips": True,
    }
    extractor = make_extractor(build_encoder(encoder.model), clips=True)
    extract_to_file(folder / CLIPS, extractor, params, model_state, videos, reading, mesh, about)


def _holds(folder: Path, encoder: Candidate) -> bool:
    model, variables = load_encoder(folder)
    params, state = variables["params"], {k: {"encoder": v} for k, v in variables.items() if k != "params"}
    held = Candidate(encoder.name, model, {"encoder": params}, state)
    return held.fingerprint("") == encoder.fingerprint("")
