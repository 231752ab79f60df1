"""A table of text features of named concepts, for LSS and for zero-shot evaluation:

    python -m wt_jax.tools.concept_table --tower=CLIP_FILE --names=NAMES.txt [--templates=TEMPLATES.txt] OUT

NAMES has a concept per line, or `name<TAB>text<TAB>text...` with descriptions of it; TEMPLATES a caption per line, with {} for
the text (OpenAI publishes 28 for Kinetics-700 and 48 for UCF101); without the option a text stands for itself. The feature of
a concept is the mean over its texts and templates of the tower's L2-normalized features, normalized again (Radford et al.
2021, arXiv 2103.00020). CLIP_FILE holds a whole CLIP, in OpenAI's, open_clip's or transformers' names. The merges of the
tokenizer come from the extra `text` or from `--merges`.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from wt_jax.cli import parse_flags, set_up_logging, user_errors
from wt_jax.errors import ConfigError
from wt_jax.models.embedder import l2_normalize
from wt_jax.weights.byte_pairs import BytePairs, find_merges
from wt_jax.weights.convert.files import read_state
from wt_jax.weights.table import save_table
from wt_jax.weights.text_tower import read_text_tower

_TOWER = flags.DEFINE_string("tower", None, "File with a CLIP.")
_NAMES = flags.DEFINE_string("names", None, "File with a concept per line.")
_TEMPLATES = flags.DEFINE_string("templates", "", "File with a caption per line, with {} for the text.")
_MERGES = flags.DEFINE_string("merges", "", "File of the tokenizer's merges; empty: that of an installed package.")
_ACTIVATION = flags.DEFINE_enum("activation", "quick_gelu", ["quick_gelu", "gelu"], "OpenAI's weights, or LAION's.")
_BATCH = 64


def concepts(tower, variables, pairs: BytePairs, texts: Sequence[Sequence[str]], templates: Sequence[str]) -> np.ndarray:
    """Features (N, D) float32, L2-normalized, of concepts, each with some texts."""
    apply = jax.jit(lambda tokens: l2_normalize(tower.apply(variables, tokens)))
    captions = [[template.replace("{}", text) for text in some for template in templates] for some in texts]
    tokens = pairs.captions([caption for some in captions for caption in some], tower.length)
    padded = np.concatenate([tokens, np.repeat(tokens[-1:], -len(tokens) % _BATCH, axis=0)])
    found = np.concatenate([np.asarray(apply(padded[i : i + _BATCH])) for i in range(0, len(padded), _BATCH)])[: len(tokens)]
    ends = np.cumsum([len(some) for some in captions])
    means = np.stack([found[end - len(some) : end].mean(axis=0) for some, end in zip(captions, ends, strict=True)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def _lines(path: str) -> list[str]:
    try:
        lines = [line.strip("\n") for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not (lines := [line for line in lines if line.strip()]):
        raise ConfigError(f"{path} is empty")
    return lines


def main(argv: Sequence[str]) -> None:
    """Read the command line, write the table."""
    set_up_logging()
    with user_errors():
        if _TOWER.value is None or _NAMES.value is None or len(argv) != 2:
            raise ConfigError("usage: python -m wt_jax.tools.concept_table --tower=CLIP_FILE --names=NAMES.txt OUT")
        rows = [line.split("\t") for line in _lines(_NAMES.value)]
        templates = _lines(_TEMPLATES.value) if _TEMPLATES.value else ["{}"]
        if faulty := [template for template in templates if "{}" not in template]:
            raise ConfigError(f"template {faulty[0]!r} has no {{}} for the text")
        tower, variables = read_text_tower(read_state(Path(_TOWER.value)), activation=_ACTIVATION.value)
        pairs = BytePairs(find_merges(_MERGES.value))
        features = concepts(tower, variables, pairs, [row[1:] or row[:1] for row in rows], templates)
        save_table(Path(argv[1]), [row[0] for row in rows], features)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
