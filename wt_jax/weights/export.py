"""The encoder of a run as a folder of weights, with a model card from what the workdir knows: `wt_jax.tools.export_weights`."""

import json
import logging
from pathlib import Path
from typing import Any

import jax

from wt_jax.config import Config, to_dict
from wt_jax.errors import CheckpointError
from wt_jax.experiment import build_method
from wt_jax.methods.base import encoder_variables
from wt_jax.train.checkpoint import read_evaluated
from wt_jax.train.workdir import read_config
from wt_jax.weights.folder import differences, encoder_shapes, first_faults, new_folder, save_encoder, shapes_of
from wt_jax.weights.model_card import model_card

log = logging.getLogger(__name__)


def export_weights(workdir: Path, out: Path, *, best: bool = False, licence: str = "") -> None:
    """Export the encoder of a workdir's last (or best) checkpoint into the folder `out`.

    Raises:
      ConfigError, CheckpointError: the workdir holds no run, or no checkpoint of its configuration's encoder.
      WeightsError: `out` holds weights already.
    """
    new_folder(out)
    config = read_config(workdir)
    method = build_method(config)
    model = method.model
    step, params, model_state = read_evaluated(workdir, method.evaluated, best=best)
    variables = encoder_variables(params, model_state)
    found = shapes_of(variables)
    faults = differences(found, encoder_shapes(model), model.name)
    if faults:
        raise CheckpointError(
            f"the checkpoint of step {step} in {workdir} does not fit its config.json: {first_faults(faults)}"
        )
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    card = model_card(
        f"{model.name}, {config.method_name}, {step} steps",
        model,
        parameters=count,
        clip=_clip(config),
        origin=_origin(config, workdir, step, best),
        licence=licence,
        # results.json belongs to the last checkpoint.
        results=None if best else _read(workdir / "results.json"),
        run=to_dict(config),
    )
    save_encoder(out, model, variables, card)
    log.info("wrote %s: %s of step %d, %s parameters", out, model.name, step, f"{count:,}")


def _clip(config: Config) -> str:
    clip, crop = config.clip, {"center": "the largest centered square", "resize": "the whole frame, squeezed to a square"}
    steps = {
        "frames": f"one every {clip.stride:g} frames",
        "seconds": f"one every {clip.stride:g} s",
        "video": f"evenly over {clip.stride:g} of the video",
        "segments": "the middle ones of as many equal parts of the video",
    }
    return f"{clip.num_frames} frames, {steps[clip.unit]}, {crop[config.views.test.crop]} of {clip.size} x {clip.size} pixels"


def _origin(config: Config, workdir: Path, step: int, best: bool) -> list[str]:
    environment = _read(workdir / "environment.json") or {}
    packages = ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items())
    lines = [
        f"Trained by `{config.method_name}` on {config.data.train}, {config.train.duration} in batches of "
        f"{config.train.batch_size}; this is step {step}" + (", the best by kNN on the test list." if best else "."),
        f"Optimizer {config.optim.name}, learning rate {config.optim.learning_rate:g} per 256 clips; seed {config.seed}.",
    ]
    if config.model.weights:
        lines.append(f"It started from the weights in {config.model.weights}.")
    if environment:
        lines.append(f"Revision {environment.get('git')}, {environment.get('device')}; {packages}.")
    return lines


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None
