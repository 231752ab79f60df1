"""Files as wrappers and hubs leave them: prefixes before the names, weights in several files. Needs no PyTorch."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from wt_jax.errors import WeightsError
from wt_jax.weights.convert import KINDS, convert, convert_file
from wt_jax.weights.convert.tables import find_row, unwrapped
from wt_jax.weights.folder import encoder_shapes

KIND = "torchvision_r3d_18"


@pytest.fixture(scope="module")
def state():
    """Random weights of an R3D-18 in torchvision's names, and its classifier."""
    known, rng = KINDS[KIND], np.random.default_rng(0)
    named = {}
    for ours, shape in encoder_shapes(known.models[0]).items():
        _, name = find_row(known.sources[0].rows, ours)
        array = rng.standard_normal(shape, np.float32)
        named[name] = np.ascontiguousarray(array.transpose(4, 3, 0, 1, 2)) if len(shape) == 5 else array
    return named | {"fc.weight": np.zeros((400, 512), np.float32), "fc.bias": np.zeros(400, np.float32)}


@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.",
        "module.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.",
        "model._orig_mod.",
        "net.module._orig_mod.",
        "backbone.",
        "encoder_q.",
        "model.encoder_q._orig_mod.",
        "student.video_encoder.",
    ],
)
def test_prefixes_of_wrappers_are_taken_off(state, prefix):
    expected = convert(KIND, state, "plain")
    made = convert(KIND, {f"{prefix}{name}": array for name, array in state.items()}, "wrapped")
    kernel, other = (tree.variables["params"]["stem1"]["conv"]["kernel"] for tree in (made, expected))
    np.testing.assert_array_equal(kernel, other)
    assert [len(names) for names in made.dropped.values()] == [2]


def test_what_lies_beside_the_network_is_left_out_by_name(state):
    wrapped = {f"model.{name}": array for name, array in state.items()} | {"criterion.weight": np.zeros(3, np.float32)}
    assert convert(KIND, wrapped, "lightning").dropped["what is not of model"] == ["criterion.weight"]


def test_several_encoders_are_named(state):
    both = {f"{side}.{name}": array for side in ("left", "right") for name, array in state.items()}
    with pytest.raises(WeightsError, match=r"there are several encoders, named left\., right\.; save the state dict of one"):
        convert(KIND, both, "both")
    queues = {f"model.encoder_{side}.{name}": array for side in "qk" for name, array in state.items()}
    assert "the momentum copy of the encoder" in convert(KIND, queues, "moco").dropped


def test_wrappers_within_names():
    assert list(unwrapped({"a._orig_mod.b.module.c": 1, "submodule.d": 2, "module": 3})) == ["a.b.c", "submodule.d", "module"]
    assert list(unwrapped({"module.a": 1, "a": 2})) == ["module.a", "a"]


def test_weights_in_several_files(state, tmp_path):
    names = sorted(state)
    files = {f"model-{shard:05d}-of-00002.safetensors": names[shard - 1 :: 2] for shard in (1, 2)}
    for file, part in files.items():
        save_file({name: state[name] for name in part}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, part in files.items() for name in part}}))
    expected = convert(KIND, state, "plain").variables["params"]["stem1"]["conv"]["kernel"]
    for path in (index, tmp_path, tmp_path / "model-00001-of-00002.safetensors"):
        np.testing.assert_array_equal(convert_file(KIND, path).variables["params"]["stem1"]["conv"]["kernel"], expected)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    for path in (index, tmp_path / "model-00001-of-00002.safetensors"):
        with pytest.raises(WeightsError, match=r"model-00002-of-00002\.safetensors is missing, which belongs to"):
            convert_file(KIND, path)
    index.write_text("{}")
    with pytest.raises(WeightsError, match="is no index of weights"):
        convert_file(KIND, index)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="is a folder without weights"):
        convert_file(KIND, tmp_path / "empty")
