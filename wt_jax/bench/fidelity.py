"""Our methods and recipes beside the published code, run as it is: the tables of docs/methods.md.

    wt-jax bench-fidelity --sources=FOLDER [--only=WORD] [--out=FILE]
    wt-jax bench-fidelity --figure=prototypes|leak|hue [--videos=FOLDER]

The folder holds clones of the projects, by the names that `--help` lists; nothing of theirs is changed or copied. What they
import and is not installed is replaced by stand-ins, and where a loss is compared, networks by fixed maps. Of a method value
and gradient are compared, relative to theirs; of a recipe every entry of its file. What differs without a reason, a reason
without a difference, or a missing clone ends the command with exit code 1 (extra `peers`).
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from wt_jax.bench import figures
from wt_jax.cli import parse_arguments, user_errors
from wt_jax.errors import ConfigError

PROJECTS = {
    "CLIP": "openai/CLIP",
    "CLSA": "maple-research-lab/CLSA",
    "CoCLR": "TengdaHan/CoCLR",
    "ReSSL": "mingkai-zheng/ReSSL",
    "SCALE": "Separius/SCALE",
    "SEED": "jacobswan1/SEED",
    "SlowFast": "facebookresearch/SlowFast",
    "VTDL": "FingerRec/Self-Supervised-Temporal-Discriminative-Representation-Learning-for-Video-Action-Recognition",
    "VideoMAE": "MCG-NJU/VideoMAE",
    "deepmind-research": "deepmind/deepmind-research",
    "dino": "facebookresearch/dino",
    "ibot": "bytedance/ibot",
    "jepa": "facebookresearch/jepa",
    "lightly": "lightly-ai/lightly",
    "maclr": "amazon-science/self-supervised-maclr",
    "moco": "facebookresearch/moco",
    "svt": "kahnchana/svt",
    "swav": "facebookresearch/swav",
    "vjepa2": "facebookresearch/vjepa2",
}
_FIGURES = ("prototypes", "leak", "hue")
_METHODS = """| method | checked against | what | value apart | gradient apart | equal, or different because |
| --- | --- | --- | ---: | ---: | --- |"""
_RECIPES = """| recipe | checked against | equal entries | different, theirs and ours, because |
| --- | --- | ---: | --- |"""


def tables(folder: Path, only: str = "") -> tuple[str, list[str]]:
    """Both tables in Markdown, of the rows whose method, recipe or project has the word `only`, and their faults."""
    try:
        # Not above: they import torch.
        from wt_jax.bench.official import contrastive, networks, recipes_flags, recipes_yaml, views
        from wt_jax.bench.official.checks import check_row
        from wt_jax.bench.official.reasons import REASONS
        from wt_jax.bench.official.recipes import recipe_row
        from wt_jax.bench.official.sources import NoSourceError, Sources
    except ImportError as error:
        raise ConfigError(f"{error}; pip install 'wt_jax[peers]' has it") from None
    sources, faults = Sources(folder), []
    checks = [check for part in (contrastive, views, networks) for check in part.CHECKS]
    recipes = [recipe for part in (recipes_yaml, recipes_flags) for recipe in part.RECIPES]
    jobs = {
        _METHODS: [(f"{each.method} {each.clone}", partial(check_row, each, sources)) for each in checks],
        _RECIPES: [
            (f"{each.name} {each.clone}", partial(recipe_row, each, sources, REASONS.get(each.name, {}))) for each in recipes
        ],
    }
    lines = []
    for head, rows in jobs.items():
        lines += [head]
        for name, make in rows:
            if only not in name:
                continue
            try:
                line, found = make()
            except NoSourceError as error:
                line, found = "", [str(error)]
            lines += [line] if line else []
            faults += found
        lines += [""]
    return "\n".join(lines), faults


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments, print the tables or a figure."""
    names = "\n".join(f"  {name:18} github.com/{project}" for name, project in PROJECTS.items())
    parser = parse_arguments(f"{__doc__}\nprojects:\n{names}")
    parser.add_argument("--sources", type=Path, metavar="FOLDER", help="of clones")
    parser.add_argument("--only", default="", metavar="WORD", help="rows whose method, recipe or project has it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the tables go; by default to standard output")
    parser.add_argument("--figure", choices=_FIGURES, help="instead: a figure that needs no sources")
    parser.add_argument("--videos", type=Path, metavar="FOLDER", help="of the figure hue")
    args = parser.parse_args(argv)
    if bool(args.sources) == bool(args.figure) or (args.figure == "hue") != bool(args.videos):
        parser.error("give --sources, or --figure, with --videos for hue")
    faults = []
    with user_errors():
        if args.figure:
            text = getattr(figures, args.figure)(*([args.videos] if args.videos else []))
        else:
            text, faults = tables(args.sources, args.only)
        if args.out:
            args.out.write_text(f"{text}\n")
        else:
            print(text)
    for fault in faults:
        print(f"wt_jax: {fault}", file=sys.stderr)
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
