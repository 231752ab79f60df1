"""Notebooks of the pages in `docs/examples`, for Jupyter and Colab: `python docs/notebooks.py [OUT] [--install=NAME]`."""

import argparse
from pathlib import Path

import jupytext
import nbformat

EXAMPLES = Path(__file__).parent / "examples"
REQUIREMENT = "wt_jax[search]"


def write_notebooks(folder: Path, requirement: str = REQUIREMENT) -> None:
    """Write a notebook of each example; its first cell installs `requirement`."""
    folder.mkdir(parents=True, exist_ok=True)
    for page in sorted(EXAMPLES.glob("*.md")):
        if page.stem != "index":
            (folder / f"{page.stem}.ipynb").write_text(nbformat.writes(notebook(page, requirement)))


def notebook(page: Path, requirement: str) -> nbformat.NotebookNode:
    """A page as a notebook: blocks of Python and Bash are cells."""
    book = jupytext.reads(page.read_text(), fmt="md")
    book.cells.insert(0, nbformat.v4.new_code_cell(f'%pip install --quiet "{requirement}"'))
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"  # the same page makes the same file
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    nbformat.validate(book)
    return book


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=Path("build/notebooks"), help="folder (%(default)s)")
    parser.add_argument("--install", default=REQUIREMENT, help="what pip installs (%(default)s)")
    arguments = parser.parse_args()
    write_notebooks(arguments.out, arguments.install)
