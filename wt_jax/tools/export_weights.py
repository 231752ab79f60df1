"""The encoder of a run, for others: `wt-jax export-weights --workdir=RUN OUT [--best] [--licence=TEXT] [--push=OWNER/NAME]`.

OUT becomes a folder with weights.safetensors, model.json and a model card that states what the encoder was trained on and how
to feed it. It is read by `--config.model.weights=OUT`, by every evaluation, and by anything that reads safetensors. Neither
the data nor the devices of the training are needed. --push (extra `hub`) uploads the folder to a hub and prints its address,
hf://OWNER/NAME@REVISION; a repository that is not there yet is made, and private.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from wt_jax.cli import parse_flags, set_up_logging, user_errors
from wt_jax.errors import ConfigError
from wt_jax.weights.export import export_weights
from wt_jax.weights.hub import push

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_BEST = flags.DEFINE_bool(
    "best", False, "The checkpoint that was best by online kNN (it has seen the test labels), not the last."
)
_LICENCE = flags.DEFINE_string("licence", "", "Licence of the weights, for the model card.")
_PUSH = flags.DEFINE_string("push", "", "Repository of a hub to upload the folder to, OWNER/NAME.")


def main(argv: Sequence[str]) -> None:
    """Read the command line."""
    set_up_logging()
    with user_errors():
        if _WORKDIR.value is None or len(argv) != 2:
            raise ConfigError("usage: wt-jax export-weights --workdir=RUN OUT [--best] [--licence=TEXT] [--push=OWNER/NAME]")
        export_weights(Path(_WORKDIR.value), Path(argv[1]), best=_BEST.value, licence=_LICENCE.value)
        if _PUSH.value:
            print(push(Path(argv[1]), _PUSH.value))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
