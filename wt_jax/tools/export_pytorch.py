"""A transformer of ours as PyTorch weights of the family that it belongs to:

    python -m wt_jax.tools.export_pytorch --kind=dinov2_small --like=MODULE.safetensors WEIGHTS OUT.safetensors

WEIGHTS is a folder of exported weights (`export-weights`, `convert-weights`). MODULE holds a state dict of the target, with any
values: OUT has its names, shapes and dtypes, so that it loads with `strict=True`. What is not of the encoder stays as it is.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from safetensors.numpy import save

from wt_jax.cli import parse_flags, set_up_logging, user_errors
from wt_jax.config import closest
from wt_jax.errors import ConfigError
from wt_jax.files import write_atomic
from wt_jax.weights.convert import KINDS
from wt_jax.weights.convert.back import export_state
from wt_jax.weights.convert.files import read_state
from wt_jax.weights.folder import load_encoder

_KIND = flags.DEFINE_string("kind", None, f"The family: {', '.join(KINDS)}.")
_LIKE = flags.DEFINE_string("like", None, "File with a state dict of the target.")


def main(argv: Sequence[str]) -> None:
    """Read the command line, write the file."""
    set_up_logging()
    with user_errors():
        if _KIND.value is None or _LIKE.value is None or len(argv) != 3:
            raise ConfigError("usage: python -m wt_jax.tools.export_pytorch --kind=KIND --like=FILE WEIGHTS OUT.safetensors")
        if _KIND.value not in KINDS:
            raise ConfigError(f"--kind={_KIND.value} is unknown{closest(_KIND.value, KINDS)}; there are {', '.join(KINDS)}")
        if (out := Path(argv[2])).exists():
            raise ConfigError(f"{out} is there already; name another file")
        _, variables = load_encoder(Path(argv[1]))
        write_atomic(out, save(export_state(_KIND.value, variables, read_state(Path(_LIKE.value))), {"format": "pt"}))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
