"""From a file of other people's weights to a folder of ours, with its model card: `wt_jax.tools.convert_weights`."""

import logging
from pathlib import Path

import jax

from wt_jax.config import closest
from wt_jax.errors import ConfigError
from wt_jax.weights.convert import KINDS, convert_file
from wt_jax.weights.folder import new_folder, save_encoder
from wt_jax.weights.model_card import model_card

log = logging.getLogger(__name__)


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
