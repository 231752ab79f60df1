"""A workdir read from elsewhere, and one whose run is to go on for longer."""

import json
import os

import pytest

from wt_jax.config import to_dict
from wt_jax.errors import ConfigError
from wt_jax.experiment import default_config, resolve
from wt_jax.train import workdir as workdir_module
from wt_jax.train.workdir import read_config


def stored(folder, **data):
    config = default_config("moco").to_dict()
    config["data"] |= data
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps(workdir_module.environment()))
    return resolve(config)


def test_relative_paths_of_data_are_those_of_the_folder_of_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stored(tmp_path, train="lists/train.csv", test="tfds:ucf101", root="/videos")
    os.makedirs(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    data = read_config(tmp_path).data
    assert (data.train, data.test, data.root) == (str(tmp_path / "lists/train.csv"), "tfds:ucf101", "/videos")


def test_a_longer_duration_is_refused_with_the_way_to_go_on(tmp_path):
    config = to_dict(stored(tmp_path))
    config["train"]["duration"] = "123 steps"
    message = r"config.train.duration .*another --workdir; .*export_weights --workdir=.* --config\.model\.weights=FOLDER"
    with pytest.raises(ConfigError, match=message):
        workdir_module._open(tmp_path, resolve(config))
