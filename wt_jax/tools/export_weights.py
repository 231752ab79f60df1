"""The encoder of a run, for others: `python -m wt_jax.tools.export_weights --workdir=runs/mine OUT [--best] [--licence=TEXT]`.

OUT becomes a folder with weights.safetensors, model.json and a model card that says what the encoder was trained on and how
to feed it. It is read by `--config.model.weights=OUT`, by every evaluation, and by anything that reads safetensors. Neither
the data nor the devices of the training are needed.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from flax.traverse_util import flatten_dict

from wt_jax.cli import KNOWN_ERRORS, fail, parse_flags, set_up_logging
from wt_jax.config import Config, ConfigError, to_dict
from wt_jax.models.card import model_card
from wt_jax.models.weights import differences, encoder_shapes, first_faults, new_folder, save_encoder
from wt_jax.train.checkpoint import CheckpointError, read_encoder
from wt_jax.train.workdir import read_config

log = logging.getLogger("wt_jax")

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_BEST = flags.DEFINE_bool(
    "best", False, "The checkpoint that was best by online kNN (it has seen the test labels), not the last."
)
_LICENCE = flags.DEFINE_string("licence", "", "Licence of the weights, for the model card.")


def export_weights(workdir: Path, out: Path, *, best: bool = False, licence: str = "") -> None:
    """Export the encoder of a workdir's last (or best) checkpoint into the folder `out`.

    Raises:
      ConfigError, CheckpointError: the workdir holds no run, or no checkpoint of its configuration's encoder.
      WeightsError: `out` holds weights already.
    """
    new_folder(out)
    config = read_config(workdir)
    step, variables = read_encoder(workdir, best=best)
    found = {name: leaf.shape for name, leaf in flatten_dict(variables, sep="/").items()}
    faults = differences(found, encoder_shapes(config.model), config.model.name)
    if faults:
        raise CheckpointError(
            f"the checkpoint of step {step} in {workdir} does not fit its config.json: {first_faults(faults)}"
        )
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    card = model_card(
        f"{config.model.name}, {config.method_name}, {step} steps",
        config.model,
        parameters=count,
        clip=_clip(config),
        origin=_origin(config, workdir, step, best),
        licence=licence,
        # results.json belongs to the last checkpoint.
        results=None if best else _read(workdir / "results.json"),
        run=to_dict(config),
    )
    save_encoder(out, config.model, variables, card)
    log.info("wrote %s: %s of step %d, %s parameters", out, config.model.name, step, f"{count:,}")


def _clip(config: Config) -> str:
    clip, crop = config.clip, {"center": "the largest centred square", "resize": "the whole frame, squeezed to a square"}
    stride = f"every {clip.stride:g} frames" if clip.unit == "frames" else f"every {clip.stride:g} s"
    return f"{clip.num_frames} frames, one {stride}, {crop[config.views.test.crop]} of {clip.size} x {clip.size} pixels"


def _origin(config: Config, workdir: Path, step: int, best: bool) -> list[str]:
    environment = _read(workdir / "environment.json") or {}
    packages = ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items())
    lines = [
        f"Trained by `{config.method_name}` on {config.data.train}, {config.train.duration} in batches of "
        f"{config.train.batch_size}; this is step {step}" + (", the best by kNN on the test list." if best else "."),
        f"Optimiser {config.optim.name}, learning rate {config.optim.learning_rate:g} per 256 clips; seed {config.seed}.",
    ]
    if config.model.weights:
        lines.append(f"It started from the weights in {config.model.weights}.")
    if environment:
        lines.append(f"Revision {environment.get('git')}, {environment.get('device')}; {packages}.")
    return lines


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def main(argv: Sequence[str]) -> None:
    """Read the command line."""
    set_up_logging()
    try:
        if _WORKDIR.value is None or len(argv) != 2:
            raise ConfigError("usage: python -m wt_jax.tools.export_weights --workdir=RUN OUT [--best] [--licence=TEXT]")
        export_weights(Path(_WORKDIR.value), Path(argv[1]), best=_BEST.value, licence=_LICENCE.value)
    except KNOWN_ERRORS as error:
        fail(str(error))
    except OSError as error:
        fail(f"{argv[1]} cannot be written: {error.strerror or error}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
