import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.search import VIEW

from wt_jax.config import ModelConfig
from wt_jax.errors import SearchError
from wt_jax.models import build_encoder
from wt_jax.search.encoders import export_encoder
from wt_jax.search.exported import BATCH, load_exported
from wt_jax.weights.folder import save_encoder

MODEL = ModelConfig(name="small_r2plus1d", width=16, norm="group")


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (BATCH + 3, 8, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of weights, and the variables in it."""
    folder = tmp_path_factory.mktemp("weights")
    encoder = build_encoder(MODEL)
    shapes = jax.eval_shape(lambda key: encoder.init(key, jnp.zeros((1, 8, 32, 32, 3)), False), jax.random.key(0))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(0.05, 0.1, leaf.shape).astype(leaf.dtype), shapes)
    save_encoder(folder, MODEL, variables)
    return folder, variables


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "encoder.wtx"
    export_encoder(weights[0], path, VIEW)
    return path


def test_the_file_gives_the_features_of_the_encoder(weights, exported, clips):
    encoder = load_exported(exported)
    wanted = jax.jit(lambda x: build_encoder(MODEL).apply(weights[1], x, False))(clips.astype(np.float32) / 255)
    for count in (0, 1, BATCH, BATCH + 3):  # any number of clips
        features = encoder(clips[:count])
        assert features.shape == (count, encoder.facts.dim) == (count, 64)
        np.testing.assert_allclose(features, wanted[:count], atol=1e-5)


def test_it_needs_no_flax(exported, tmp_path, clips):
    np.save(tmp_path / "clips.npy", clips[:5])
    code = (
        "import sys; sys.modules['flax'] = None\n"
        "import numpy as np; from pathlib import Path; from wt_jax.search.exported import load_exported\n"
        f"features = load_exported(Path({str(exported)!r}))(np.load({str(tmp_path / 'clips.npy')!r}))\n"
        f"np.save({str(tmp_path / 'features.npy')!r}, features)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), load_exported(exported)(clips[:5]), atol=1e-5)


def test_one_program_for_cpu_cuda_and_tpu(exported):
    import zipfile

    program = jax.export.deserialize(bytearray(zipfile.ZipFile(exported).read("program.bin")))
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert program.in_avals[-1].shape[1:] == (8, 32, 32, 3)
    assert not isinstance(program.in_avals[-1].shape[0], int)
    assert "custom_call" not in program.mlir_module() or "onednn" not in program.mlir_module()


def test_the_fingerprint_is_of_weights_and_view(weights, exported, tmp_path):
    folder, variables = weights
    first = load_exported(exported).facts.fingerprint
    export_encoder(folder, tmp_path / "again.wtx", VIEW)
    assert load_exported(tmp_path / "again.wtx").facts.fingerprint == first
    changed = jax.tree.map(lambda leaf: leaf + np.float32(1e-3), variables)
    save_encoder(tmp_path / "changed", MODEL, changed)
    export_encoder(tmp_path / "changed", tmp_path / "changed.wtx", VIEW)
    assert load_exported(tmp_path / "changed.wtx").facts.fingerprint != first


def test_other_files_are_refused(tmp_path, weights):
    (tmp_path / "other.wtx").write_bytes(b"no archive")
    with pytest.raises(SearchError, match="holds no exported encoder"):
        load_exported(tmp_path / "other.wtx")
    with pytest.raises(SearchError, match="does not say which clips"):
        export_encoder(weights[0], tmp_path / "x.wtx")
    with pytest.raises(SearchError, match="neither the workdir of a run"):
        export_encoder(tmp_path, tmp_path / "x.wtx")
