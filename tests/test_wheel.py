"""A wheel of this checkout, installed in a virtual environment of its own, used from another folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import pytest

from wt_jax.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("wt_jax", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy, so that the checkout has no build folder afterwards."""
    if int(metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip("building needs setuptools 77 or later: pip install -e .[dev]")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SHIPPED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    call(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source, cwd=out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """Scripts of a virtual environment with the wheel; its dependencies are those of the environment of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    call(sys.executable, "-m", "pip", "--python", folder, "install", "-q", "--no-deps", wheel, cwd=folder)
    return folder / "bin"


@pytest.fixture(scope="module")
def fresh_environment(wheel, tmp_path_factory) -> Path:
    """Scripts of a virtual environment in which pip has installed the wheel and all that it requires."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=True, with_pip=True)
    call(folder / "bin" / "python", "-m", "pip", "install", "-q", wheel, cwd=folder)
    return folder / "bin"


def call(*arguments: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, arguments)], cwd=cwd, env=kept, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr + done.stdout
    return done


def train_two_steps(scripts: Path, folder: Path) -> None:
    """Makes videos and trains on them by the name of a configuration that imports another one."""
    call(scripts / "python", "-c", "from pathlib import Path; from wt_jax.data.synthetic import write_dataset as w; "
         "w(Path('data'), train=8, test=4, frames=32)", cwd=folder)  # fmt: skip
    call(scripts / "wt-jax", "train", "--config=chaos:moco", "--workdir=run", "--config.data.train=data/train",
         "--config.train.duration=2 steps", "--config.train.eval_every=0 steps", cwd=folder)  # fmt: skip
    assert len((folder / "run" / "metrics.jsonl").read_text().splitlines()) >= 2
    assert (folder / "run" / "report.html").exists()


def test_the_package_is_that_of_the_wheel(environment, tmp_path):
    show = "import wt_jax, wt_jax.configs; print(wt_jax.__file__, *wt_jax.configs.__path__)"
    paths = call(environment / "python", "-c", show, cwd=tmp_path).stdout.split()
    assert all(Path(path).is_relative_to(environment.parent) for path in paths)
    assert (Path(paths[0]).parent / "py.typed").exists()


def test_a_wrong_name_ends_with_one_line(environment, tmp_path):
    done = call(environment / "wt-jax", "train", "--config=k40:byol", "--workdir=run", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "k400" in done.stderr


def test_train_by_name_outside_the_checkout(environment, tmp_path):
    train_two_steps(environment, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", [*COMMANDS])
def test_help_of_every_command(environment, tmp_path, command):
    if command == "pack-beam":
        pytest.importorskip("apache_beam", reason="pip install wt_jax[beam]")
    assert "--" in call(environment / "wt-jax", command, "--help", cwd=tmp_path).stdout


@pytest.mark.slow
def test_in_a_fresh_environment(fresh_environment, tmp_path):
    assert "train" in call(fresh_environment / "wt-jax", "--help", cwd=tmp_path).stdout
    train_two_steps(fresh_environment, tmp_path)
