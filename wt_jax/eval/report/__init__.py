"""The report of a run: one HTML file that loads nothing else, `report.html` in the workdir.

`collect` gathers, `curves`, `scores`, `pictures` and `saliency` compute, `media` makes clips embeddable, and `template.html`
with `style.css` and `script.js` beside it is the page.
"""

from importlib import resources
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from wt_jax.cluster.processes import is_primary_process
from wt_jax.eval.report.collect import collect
from wt_jax.eval.report.curves import HEIGHT, WIDTH
from wt_jax.eval.report.pictures import TILE_COLUMNS, Subject
from wt_jax.files import write_atomic

__all__ = ["Subject", "write_report"]

_WORDS = {
    "knn": "kNN",
    "knn_top1": "kNN top-1",
    "top1": "top-1",
    "top5": "top-5",
    "linear_clips": "linear on clips",
    "finetune": "fine-tuned",
    "low_shot": "low-shot",
    "mean_average_precision": "mAP",
    "mfu": "MFU",
}


def write_report(workdir: Path, subject: Subject | str) -> Path:
    """Write `report.html`.

    Args:
      workdir: the folder of a run, with what there is of `config.json`, `environment.json`, `metrics.jsonl` and
        `results.json`.
      subject: the run's encoder and videos, or the sentence with the reason why there are none.

    Returns:
      The path of the report. Of several processes the primary one writes.

    Raises:
      ConfigError: the workdir holds none of these files.
    """
    path = workdir / "report.html"
    page = render(workdir, subject)
    if is_primary_process():
        write_atomic(path, page)
    return path


def render(workdir: Path, subject: Subject | str) -> str:
    """The report as text."""
    # Everything that comes from outside is escaped: a video may have any name.
    environment = Environment(
        loader=FunctionLoader(_own_file), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["words"] = _words
    fixed = {"style": Markup(_own_file("style.css")), "script": Markup(_own_file("script.js"))}
    sizes = {"width": WIDTH, "height": HEIGHT, "tile_columns": TILE_COLUMNS}
    return environment.get_template("template.html").render(**fixed, **sizes, **collect(workdir, subject))


def _own_file(name: str) -> str:
    return resources.files("wt_jax.eval.report").joinpath(name).read_text(encoding="utf-8")


def _words(name: str) -> str:
    """The name of a score or metric, as people write it."""
    return _WORDS.get(name, name.replace("recall@", "R@").replace("top1_", "").replace("_", " "))
