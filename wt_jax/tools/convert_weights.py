"""Other people's weights as one of our encoders:

    wt-jax convert-weights --kind=torchvision_r3d_18 r3d_18.pth weights/r3d_18

FILE is what PyTorch saved (.pth, .pt, .pyth, .bin; PyTorch must be installed) or .safetensors; of weights in several files it
is their index, one of them, or their folder. What wrappers put before the names of tensors is taken off. OUT becomes a
folder with weights.safetensors, model.json (with the mean and deviation that belong to the weights) and a model card, for
`--config.model.weights=OUT` and for every evaluation. A tensor that is missing, left over or of another shape is an error.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from wt_jax.cli import parse_flags, set_up_logging, user_errors
from wt_jax.errors import ConfigError
from wt_jax.weights.convert import KINDS
from wt_jax.weights.convert.folder import convert_weights

_KIND = flags.DEFINE_string("kind", None, f"What the file holds: {', '.join(KINDS)}.")
_LICENCE = flags.DEFINE_string("licence", "", "Licence of the weights, for the model card.")


def main(argv: Sequence[str]) -> None:
    """Read the command line."""
    set_up_logging()
    with user_errors():
        if _KIND.value is None or len(argv) != 3:
            raise ConfigError("usage: wt-jax convert-weights --kind=KIND FILE OUT; kinds: " + ", ".join(KINDS))
        convert_weights(_KIND.value, Path(argv[1]), Path(argv[2]), _LICENCE.value)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
