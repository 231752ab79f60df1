"""Other people's weights as one of our encoders:

    python -m wt_jax.tools.convert_weights --kind=torchvision_r3d_18 r3d_18.pth weights/r3d_18

FILE is what PyTorch saved (.pth, .pt, .pyth, .bin; PyTorch must be installed) or .safetensors. OUT becomes a folder with
weights.safetensors, model.json (with the mean and deviation that belong to the weights) and a model card, for
`--config.model.weights=OUT` and for every evaluation. A tensor that is missing, left over or of another shape is an error.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import app, flags

from wt_jax.cli import KNOWN_ERRORS, fail, parse_flags, set_up_logging
from wt_jax.config import ConfigError, closest
from wt_jax.models.card import model_card
from wt_jax.models.convert import KINDS, convert_file
from wt_jax.models.weights import new_folder, save_encoder

log = logging.getLogger("wt_jax")

_KIND = flags.DEFINE_string("kind", None, f"What the file holds: {', '.join(KINDS)}.")
_LICENCE = flags.DEFINE_string("licence", "", "Licence of the weights, for the model card.")


def convert_weights(kind: str, path: Path, out: Path, licence: str = "") -> None:
    """Convert `path` into the folder `out`.

    Raises:
      ConfigError: there is no such kind.
      WeightsError: the file does not fit, or `out` holds weights already.
    """
    if kind not in KINDS:
        raise ConfigError(f"--kind={kind} is unknown{closest(kind, KINDS)}; there are {', '.join(KINDS)}")
    new_folder(out)
    made = convert_file(kind, path)
    count = sum(leaf.size for leaf in jax.tree.leaves(made.variables["params"]))
    log.info("%s: %s, %s parameters, in the names of %s", path.name, made.config.name, f"{count:,}", made.source)
    for what, names in made.dropped.items():
        log.info("left out: %s (%d tensors: %s%s)", what, len(names), names[0], ", ..." if len(names) > 1 else "")
    origin = [f"Converted from {path.name}, a file in the names of {made.source} (kind {kind})."]
    origin += [f"Left out: {what} ({len(names)} tensors)." for what, names in made.dropped.items()]
    licence = licence or "that of the original weights; look where the file came from"
    clip = f"{KINDS[kind].clip} is what its authors use"
    card = model_card(
        f"{made.config.name} from {path.name}", made.config, parameters=count, clip=clip, origin=origin, licence=licence
    )
    save_encoder(out, made.config, made.variables, card)
    log.info("wrote %s", out)


def main(argv: Sequence[str]) -> None:
    """Read the command line."""
    set_up_logging()
    try:
        if _KIND.value is None or len(argv) != 3:
            raise ConfigError("usage: python -m wt_jax.tools.convert_weights --kind=KIND FILE OUT; kinds: " + ", ".join(KINDS))
        convert_weights(_KIND.value, Path(argv[1]), Path(argv[2]), _LICENCE.value)
    except KNOWN_ERRORS as error:
        fail(str(error))
    except OSError as error:
        fail(f"{argv[2]} cannot be written: {error.strerror or error}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
