"""`wt-jax`: the table of commands and what is said of a wrong one."""

import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
from absl import flags

from wt_jax.__main__ import COMMANDS
from wt_jax.cli import usage_name, whole_numbers
from wt_jax.config_files import load_config, unknown_key, with_default
from wt_jax.errors import ConfigError

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


def test_usage_is_that_of_the_command_however_it_is_started():
    for start in (["-m", "wt_jax", "check-videos"], ["-m", "wt_jax.tools.check_videos"]):
        done = subprocess.run([sys.executable, *start, "--help"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("usage: wt-jax check-videos ")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_usage_of_every_command_has_its_name(name, monkeypatch):
    module, first, _ = COMMANDS[name]
    monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(__spec__=find_spec(module)))
    assert usage_name() == f"wt-jax {'train' if first else name}"  # `inspect` is a mode of `train`


# A command that has a default configuration.
WITH_DEFAULT = """
import sys
from wt_jax.cli import config_source, parse_flags
from wt_jax.config_files import define_config
holder = define_config("quickstart", "of the test")
parse_flags(sys.argv)
print(*config_source(), holder.value.train.batch_size)
"""


@pytest.mark.parametrize(
    ("argument", "code", "output"),
    [
        ("--config.train.batch_size=7", 0, f"{PACKAGE.parent / 'configs' / 'quickstart.py'} {{'train.batch_size': 7}} 7"),
        (
            "--config.train.batch_sise=7",
            2,
            "wt_jax: config.train has no key 'batch_sise' (did you mean 'batch_size'?); it has ",
        ),
    ],
)
def test_a_default_configuration_is_found_by_its_name(argument, code, output):
    done = subprocess.run([sys.executable, "-c", WITH_DEFAULT, argument], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert (done.stdout + done.stderr).startswith(output)
    assert len((done.stdout + done.stderr).splitlines()) == 1


def test_a_list_of_numbers_is_read_or_refused_by_its_name():
    assert whole_numbers(types.SimpleNamespace(name="numbers", value=["0", "12"])) == [0, 12]
    for wrong in (["1", "two"], ["-1"], ["1.5"]):
        with pytest.raises(ConfigError, match=rf"--numbers={','.join(wrong)} is not a list of whole numbers"):
            whole_numbers(types.SimpleNamespace(name="numbers", value=wrong))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.train.batch_sise=2"],
            "config.train has no key 'batch_sise' (did you mean 'batch_size'?); it has accumulate, ",
        ),
        (["--config.seed.value=2"], "config.seed is a value, not a section: --config.seed.value=2"),
        (["--config=quickstart:byol", "--config.method.queue.size=2"], "config.method has no key 'queue'; it has clips, "),
        (["--config.seed=2", "--config=quickstart:swav", "--config.method.prototypes=2"], ""),
    ],
)
def test_an_unknown_key_is_named_with_the_keys_of_its_section(monkeypatch, arguments, message):
    parser = types.SimpleNamespace(parse=load_config)
    monkeypatch.setattr(flags, "FLAGS", {"config": types.SimpleNamespace(parser=parser, default="quickstart")})
    found = unknown_key(with_default(["command", *arguments]))
    assert found.startswith(message)
    assert bool(found) == bool(message)
