"""`wt-jax`: the table of commands and what is said of a wrong one."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from wt_jax.__main__ import COMMANDS

PACKAGE = Path(__file__).resolve().parents[1] / "wt_jax"


def wt_jax(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "wt_jax", *arguments], capture_output=True, text=True, check=False)


def test_every_tool_is_a_command():
    files = [*PACKAGE.glob("tools/*.py"), *PACKAGE.glob("bench/*.py"), PACKAGE / "main.py"]
    runnable = {file for file in files if '__name__ == "__main__"' in file.read_text()}
    specs = [find_spec(module) for module, _, _ in COMMANDS.values()]
    assert {Path(spec.origin) for spec in specs} == runnable


def test_help_lists_all_commands_and_imports_no_jax():
    code = "import sys, runpy; sys.argv = ['wt-jax', '--help']; runpy.run_module('wt_jax', run_name='__main__'); "
    code += "assert not {'jax', 'numpy', 'cv2'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(("name", "closest"), [("trian", "train"), ("evalute", "evaluate")])
def test_an_unknown_command_ends_with_one_line(name, closest):
    done = wt_jax(name)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert closest in done.stderr


def test_arguments_reach_the_command(tmp_path):
    done = wt_jax("check-videos", str(tmp_path / "nothing"))
    assert done.returncode == 2
    assert "nothing" in done.stderr
    assert "usage: " in wt_jax("check-videos", "--help").stdout
