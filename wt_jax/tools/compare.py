"""Methods side by side: the same data, steps, backbone and evaluation, several seeds, one table.

    wt-jax compare --config=configs/quickstart.py --methods=weak_teacher,moco,simclr --seeds=3 \
        --workdir=runs/compare [--config.data.train=... --config.KEY=VALUE ...]

Each run is `wt-jax train` in a process of its own, with its workdir and `log.txt` in `WORKDIR/METHOD_seedN`. The same
command goes on where it was stopped and does not repeat what is finished. Leads over the first method are paired by seed and
have bootstrap intervals over the seeds. The table is in `comparison.md`, all values in `comparison.json`, a picture in
`comparison.png`. Overrides of `config.method` reach the methods that have such a key; those of a key that the file's own method
has not need a method that has it: `--config=FILE:seed
--config.method.teacher_weights=FOLDER`.

`--vary=method.label_weight=0.2 --vary=method.label_weight=0.8` compares values of a setting: each method but the first and
the ceiling is run with each of them.
"""

import ast
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags

from wt_jax.cli import config_source, parse_flags, set_up_logging, user_errors
from wt_jax.config_files import define_config
from wt_jax.errors import ConfigError
from wt_jax.eval.compare.runs import Comparison

log = logging.getLogger("wt_jax")

_CONFIG = define_config("quickstart", "Configuration, without a method.")
_METHODS = flags.DEFINE_list(
    "methods", ["weak_teacher", "one_hot"], "Methods, separated by commas; the first is the reference."
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "How many seeds.", lower_bound=1)
_FIRST_SEED = flags.DEFINE_integer("first_seed", 0, "The first of them: settings are chosen on other seeds than are reported.")
_CEILING = flags.DEFINE_string("ceiling", "", "One of the methods: the table shows each one's share of its lead.")
_VARY = flags.DEFINE_multi_string("vary", [], "KEY=VALUE of the configuration, a row of its own; may be repeated.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Runs at once; they divide the cores among them.", lower_bound=1)
_WORKDIR = flags.DEFINE_string("workdir", "runs/compare", "Folder of the runs and of the table.")


def _variant(text: str) -> tuple[str, Any]:
    """The key and the value of KEY=VALUE: a number, a tuple, True or False, or else text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--vary={text} is not KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return key, value


def main(argv: Sequence[str]) -> None:
    """Compare."""
    set_up_logging()
    # Shapes are all that is asked of JAX here; the accelerator belongs to the runs.
    jax.config.update("jax_platforms", "cpu")
    with user_errors():
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; options begin with --")
        file, overrides = config_source()
        seeds = range(_FIRST_SEED.value, _FIRST_SEED.value + _SEEDS.value)
        folder, variants = Path(_WORKDIR.value), [_variant(text) for text in _VARY.value]
        comparison = Comparison(file, _METHODS.value, seeds, overrides, folder, _CEILING.value, variants)
        print(comparison.run(_JOBS.value))
        log.info("the table, its values and a picture are in %s/comparison.*", _WORKDIR.value)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
