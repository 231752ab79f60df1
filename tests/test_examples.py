"""The examples of the documentation: each runs as its reader would run it, and becomes a notebook of the same cells."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
PAGES = sorted(page for page in EXAMPLES.glob("*.md") if page.stem != "index")
BLOCK = re.compile(r"^```(python|bash)\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
SECONDS = {"own_loop"}  # the others take longer


def script(page: Path) -> str:
    """The page's blocks as one program."""
    lines = ["import subprocess"]
    for language, text in BLOCK.findall(page.read_text()):
        lines.append(text if language == "python" else f"subprocess.run(['bash', '-euc', {text!r}], check=True)")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.stem, marks=() if page.stem in SECONDS else pytest.mark.slow) for page in PAGES]
)
def test_an_example_runs(page, tmp_path):
    (tmp_path / "example.py").write_text(script(page))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "example.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    print(done.stdout)


def test_every_example_is_in_the_list():
    listed = re.findall(r"\((\w+)\.md\) \(\[notebook\]\(\.\./_generated/notebooks/(\w+)\.ipynb\)\)", _read("index"))
    assert sorted(listed) == [(page.stem, page.stem) for page in PAGES]
    assert re.findall(r"^(\w+)$", _read("index").partition(":hidden:")[2], re.MULTILINE) == [page for page, _ in listed]


def _read(name: str) -> str:
    return (EXAMPLES / f"{name}.md").read_text()


def test_a_notebook_installs_and_has_the_cells_of_its_page(tmp_path):
    pytest.importorskip("jupytext", reason="pip install wt_jax[docs]")
    command = [sys.executable, str(EXAMPLES.parent / "notebooks.py"), str(tmp_path), "--install=wt_jax @ file:///wheel"]
    subprocess.run(command, check=True)
    assert sorted(path.stem for path in tmp_path.iterdir()) == [page.stem for page in PAGES]
    for page in PAGES:
        book = json.loads((tmp_path / f"{page.stem}.ipynb").read_text())
        assert (book["nbformat"], book["metadata"]["kernelspec"]["name"]) == (4, "python3")
        code = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
        blocks = BLOCK.findall(page.read_text())
        assert code[0] == '%pip install --quiet "wt_jax @ file:///wheel"'
        assert code[1:] == [text if language == "python" else f"%%bash\n{text}" for language, text in blocks]
