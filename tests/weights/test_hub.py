"""Weights on a hub, tried on a stand-in: pushed, fetched by a revision, and what is refused."""

import sys

import jax
import numpy as np
import pytest
from support.hub import running_hub

from wt_jax.config import ModelConfig
from wt_jax.errors import WeightsError
from wt_jax.models import build_encoder, first_encoder_variables
from wt_jax.weights import hub as hub_module
from wt_jax.weights.folder import load_encoder, save_encoder
from wt_jax.weights.hub import local_folder, push

MODEL = ModelConfig("small_r2plus1d", width=8, norm="group")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants", reason="pip install wt_jax[hub]")
    with running_hub() as (address, state):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        for name in ("HF_HUB_CACHE", "HF_XET_CACHE"):
            monkeypatch.setattr(constants, name, str(tmp_path / "cache"), raising=False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # which the comparisons with transformers set
        yield state


@pytest.fixture
def exported(tmp_path):
    encoder, clips = build_encoder(MODEL), np.zeros((1, 2, 16, 16, 3), np.float32)
    shapes = jax.eval_shape(lambda: first_encoder_variables(encoder, jax.random.key(0), clips))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    save_encoder(tmp_path / "out", MODEL, variables, "---\nlibrary_name: wt_jax\n---\n\n# card\n")
    (tmp_path / "out" / "notes.txt").write_text("not for others")
    return tmp_path / "out", variables


def test_what_is_pushed_is_fetched_by_its_revision(hub, exported):
    folder, variables = exported
    address = push(folder, "me/net")
    assert hub["repositories"] == {"me/net": True}  # private
    (revision,) = hub["revisions"]
    assert address == f"hf://me/net@{revision}"
    assert set(hub["revisions"][revision]) == {"weights.safetensors", "model.json", "README.md"}
    hub["revisions"][revision]["setup.py"] = b"raise SystemExit"
    model, loaded = load_encoder(address)
    assert model == MODEL
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert not [path for path in hub["asked"] if path.endswith(("setup.py", "README.md")) and "resolve" in path]


@pytest.mark.parametrize("address", ["hf://me/net", "hf://net@abc", "hf://me/net@", "hf://me/net@a b"])
def test_addresses_without_a_revision_are_refused(address):
    with pytest.raises(WeightsError, match=r"write hf://OWNER/NAME@REVISION"):
        local_folder(address)


def test_what_the_hub_does_not_have_is_named(hub):
    hub["revisions"]["b" * 40] = {"model.json": b"{}", "pytorch_model.bin": b"0"}
    with pytest.raises(WeightsError, match=r"hf://me/net@a{40} cannot be fetched"):
        local_folder(f"hf://me/net@{'a' * 40}")
    with pytest.raises(WeightsError, match=r"has no weights\.safetensors; it is no encoder"):
        local_folder(f"hf://me/net@{'b' * 40}")
    assert not [path for path in hub["asked"] if path.endswith(".bin")]


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"pip install 'wt_jax\[hub\]'"):
        hub_module.local_folder(f"hf://me/net@{'a' * 40}")


def test_other_places_are_folders(tmp_path):
    assert local_folder(tmp_path) == tmp_path
    assert local_folder("runs/mine").parts == ("runs", "mine")
