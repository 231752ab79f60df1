"""The SkyPilot task, without a cloud: what it names exists, and its commands run against a stand-in for Python."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from wt_jax.cluster.preemption import RUN_AGAIN
from wt_jax.config_files import find_config

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {"BUCKET": "gs://videos", "DATA": "/mnt/bucket/train list.csv", "WORKDIR": "/mnt/bucket/runs/a"}
STANDIN = f"""#!{sys.executable}
import json, os, sys
with open("calls", "a") as file:
    places = [os.environ["WT_JAX_" + name] for name in ("COORDINATOR", "NUM_PROCESSES", "PROCESS_ID")]
    file.write(json.dumps([*sys.argv[1:], *places]) + "\\n")
sys.exit({RUN_AGAIN} if len(open("calls").readlines()) == 1 else 0)
"""


@pytest.fixture
def task() -> dict:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / "launch" / "sky.yaml").read_text())


def test_it_names_what_exists(task):
    assert task.keys() == {"name", "workdir", "resources", "envs", "file_mounts", "setup", "run"}  # of SkyPilot's schema
    assert task["resources"]["use_spot"] is True
    assert (ROOT / task["workdir"] / "pyproject.toml").exists()
    assert {name for name, value in task["envs"].items() if value is None} == SETTINGS.keys()  # SkyPilot asks for them
    find_config(task["envs"]["CONFIG"])
    commands = task["setup"] + task["run"]
    files = re.findall(r"\blaunch/[\w.]+", commands)
    assert files
    assert all(os.access(ROOT / file, os.X_OK) for file in files)
    assert all(find_spec(module) for module in re.findall(r"-m (\S+)", commands))
    (extra,) = re.findall(r"launch/setup.sh (\w+)", commands)
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    given = task["envs"].keys() | {f"SKYPILOT_{name}" for name in ("NODE_IPS", "NODE_RANK", "NUM_NODES")}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(task))) <= given
    assert all(value.startswith(tuple(task["file_mounts"])) for name, value in SETTINGS.items() if name != "BUCKET")


def test_each_machine_learns_its_place_and_what_was_stopped_runs_again(task, tmp_path):
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STANDIN)
    python.chmod(0o755)
    machines = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    environment = {"PATH": os.environ["PATH"], "CONFIG": task["envs"]["CONFIG"], **SETTINGS, **machines}
    subprocess.run(["bash", "-euc", task["run"]], cwd=tmp_path, env=environment, check=True, timeout=60)
    flags = ["--config=k400", f"--workdir={SETTINGS['WORKDIR']}", f"--config.data.train={SETTINGS['DATA']}"]
    call = ["-m", "wt_jax.main", *flags, "10.0.0.1:8476", "2", "1"]
    assert [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()] == [call, call]


def test_shellcheck(task):
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if not shellcheck:
        pytest.skip("shellcheck is not installed")
    for name in ("setup", "run"):
        command = [shellcheck, "--shell=bash", "--exclude=SC2155", "-"]
        done = subprocess.run(command, input=task[name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
