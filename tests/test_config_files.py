"""`--config` by name and by path."""

from pathlib import Path

import pytest

from wt_jax.config_files import config_names, find_config
from wt_jax.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.parametrize(
    ("value", "folder", "file"),
    [("k400", "", "k400.py"), ("k400:byol", "", "k400.py:byol"), ("ucf101", "eval", "eval/ucf101.py")],
)
def test_a_name_is_a_shipped_configuration(value, folder, file):
    assert find_config(value, folder) == str(CONFIGS / file)


def test_a_path_is_taken_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "k400.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_config("k400.py:moco") == "k400.py:moco"
    assert find_config("k400") == str(CONFIGS / "k400.py")  # a file beside it changes nothing


@pytest.mark.parametrize(
    ("value", "closest"), [("k40:moco", "k400"), ("configs/kay400.py", "k400"), ("quikstart", "quickstart")]
)
def test_the_closest_name_is_named(value, closest):
    with pytest.raises(ConfigError, match=f"did you mean {closest}"):
        find_config(value)


def test_names_are_those_of_configurations_only():
    assert config_names() == ["chaos", "folder", "k400", "quickstart", "ssv2", "supervised", "ucf101"]
    assert "small_sets" not in config_names("eval")  # what evaluations share is no evaluation
