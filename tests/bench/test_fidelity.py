"""The comparison with published code: how clones are read, and what counts as a fault."""

import subprocess
import sys

import numpy as np
import pytest

from wt_jax.bench import figures
from wt_jax.bench.fidelity import main
from wt_jax.data.synthetic import write_mp4
from wt_jax.errors import SourceError

torch = pytest.importorskip("torch")

from wt_jax.bench.official.checks import Check, Found, check_row  # noqa: E402  # they import torch
from wt_jax.bench.official.recipes import Recipe, flags, recipe_row  # noqa: E402
from wt_jax.bench.official.sources import NoSourceError, Sources, class_of, one_process, read_yaml  # noqa: E402


def clone(folder, name, **files):
    """A project with one commit."""
    for file, text in files.items():
        path = folder / name / file.replace("__", "/")
        path = path.with_name(f"{path.name}.py") if "." not in path.name else path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git = ["git", "-C", str(folder / name), "-c", "user.name=a", "-c", "user.email=b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)


SCRIPT = """
import argparse, no_such_package.deep as deep
from no_such_package.registry import REGISTRY
from utils import NUMBER

@REGISTRY.register()
class Loss(deep.Base):
    def __call__(self, x):
        return NUMBER * x.sum().cuda()

def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=1.0)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--output_dir", default="")
    return parser.parse_args()
"""


def test_modules_of_clones_run_as_they_are_and_leave_nothing_behind(tmp_path):
    for name, number in (("one", 2), ("other", 3)):
        clone(tmp_path, name, main=SCRIPT, utils=f"NUMBER = {number}\n")
    sources, before, path = Sources(tmp_path), set(sys.modules), list(sys.path)
    losses = [sources.load(name, "main").Loss() for name in ("one", "other")]
    assert not {"main", "utils", "no_such_package"} & set(sys.modules) - before
    assert sys.path == path
    with one_process() as recorded:
        for loss in losses:
            x = torch.ones(4, requires_grad=True)
            loss(x).backward()
    assert recorded == [8.0, 12.0]
    with pytest.raises(ModuleNotFoundError):
        __import__("no_such_package")
    assert "cuda" not in vars(torch.Tensor) or torch.Tensor.cuda is not None
    head = subprocess.run(["git", "-C", str(tmp_path / "one"), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert head.stdout.startswith(sources.commit("one"))
    assert len(sources.commit("one")) == 7
    with pytest.raises(NoSourceError, match="clone the project into"):
        sources.load("third", "main")


def test_one_class_of_a_script_is_read_without_its_imports(tmp_path):
    clone(tmp_path, "one", script="import nowhere\nclass A(object):\n    x = K\n\ndef f():\n    raise ValueError\n")
    assert class_of(tmp_path / "one/script.py", "A", {"K": 5}).x == 5


def row_of(tmp_path, ours, reasons=None, free="output_dir"):
    read = flags("one", "main", "run.sh", "--lr")
    return recipe_row(Recipe("ours", "one", "`run.sh`", read, lambda: ours, free), Sources(tmp_path), reasons or {})


def test_a_recipe_is_compared_entry_by_entry(tmp_path):
    script = "python other.py --epochs 9\ntorchrun main.py \\\n  --lr 1e-3 \\\n  --epochs 20\n"
    clone(tmp_path, "one", **{"main": SCRIPT, "utils": "NUMBER = 1\n", "run.sh": script})
    line, faults = row_of(tmp_path, {"lr": 0.001, "epochs": 20})
    assert not faults
    assert line.endswith("| 2 | none |")
    _, faults = row_of(tmp_path, {"lr": 0.001, "epochs": 20}, free="")
    assert faults == ["ours: output_dir = '' is not compared"]
    _, faults = row_of(tmp_path, {"lr": 0.002, "epochs": 20, "wd": 0.1})
    assert faults == ["ours: wd is nowhere in `run.sh`", "ours: lr is 0.001 there and 0.002 here"]
    line, faults = row_of(tmp_path, {"lr": 0.002, "epochs": 20}, {"lr": "the batch is larger"})
    assert not faults
    assert line.endswith("| 1 | lr 0.001, here 0.002: the batch is larger |")
    _, faults = row_of(tmp_path, {"lr": 0.001, "epochs": 20}, {"lr": "the batch is larger"})
    assert faults == ["ours: the reason of lr is of no difference"]
    (tmp_path / "one/a.yaml").write_text("A:\n  LR: 1e-3\n  STEPS: [0, 1]\n")
    assert read_yaml(tmp_path / "one/a.yaml") == {"A": {"LR": 0.001, "STEPS": [0, 1]}}


@pytest.mark.parametrize(
    ("value", "slope", "because", "faulty"), [(1, 1, "", 0), (1, 2, "", 1), (2, 1, "", 1), (2, 1, "so", 0)]
)
def test_a_difference_without_a_reason_is_a_fault(tmp_path, value, slope, because, faulty):
    clone(tmp_path, "one", main="")
    theirs, ours = Found({"loss": 1.0}, {"x": np.ones(3)}), Found({"loss": value}, {"x": slope * np.ones(3)})
    check = Check("moco", "one", "`main.py`", "loss", lambda _: (ours, theirs), "Views", because)
    line, faults = check_row(check, Sources(tmp_path))
    assert len(faults) == faulty
    assert ("equal. Views" in line) == (value == slope == 1)
    lost = Check("moco", "one", "`main.py`", "loss", lambda _: (Found({"loss": 1.0}, {}), theirs))
    assert check_row(lost, Sources(tmp_path))[1]


def test_a_missing_clone_is_a_fault_of_the_command(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([f"--sources={tmp_path}", "--only=vtdl"])
    assert end.value.code == 1
    shown = capsys.readouterr()
    assert "clone the project into" in shown.err
    assert "| method | checked against |" in shown.out
    with pytest.raises(SystemExit):
        main(["--figure=hue"])


def test_hue_is_measured_on_videos(tmp_path):
    with pytest.raises(SourceError, match="no video with colors"):
        figures.hue(tmp_path)
    colors = np.random.default_rng(0).integers(0, 256, size=(1, 16, 16, 3), dtype=np.uint8)
    write_mp4(tmp_path / "a.mp4", np.repeat(np.repeat(np.tile(colors, (12, 1, 1, 1)), 8, 1), 8, 2))
    lines = figures.hue(tmp_path).splitlines()
    assert lines[0].endswith("pixels of 1 videos")
    assert 0.9 < float(lines[4].split("|")[2].split()[0]) < 1.1
