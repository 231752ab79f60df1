"""The encoder of a run as a folder of weights, and back: the same features, checked on the way in, readable by others."""

import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from configs.quickstart import get_config
from wt_jax.config import ModelConfig
from wt_jax.errors import CheckpointError, ConfigError, WeightsError
from wt_jax.eval.run import prepare
from wt_jax.experiment import resolve
from wt_jax.methods.base import encoder_variables
from wt_jax.models import build_encoder
from wt_jax.train.checkpoint import Checkpoints
from wt_jax.train.loop import train
from wt_jax.train.program import build
from wt_jax.train.workdir import open_workdir
from wt_jax.weights.export import export_weights
from wt_jax.weights.folder import encoder_shapes, load_encoder, save_encoder


def small_config(folder, **changes):
    config = get_config("moco")
    config.data.train, config.data.test = str(folder / "train"), str(folder / "test")
    config.clip.num_frames, config.clip.size = 4, 16
    config.model.width, config.model.norm = 8, "batch"
    config.model.mean, config.model.std = (0.4, 0.5, 0.6), (0.3, 0.2, 0.1)
    config.train.batch_size, config.method.queue.size, config.train.duration = 8, 16, "3 steps"
    for key, value in changes.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return resolve(config)


@pytest.fixture(scope="module")
def trained(small_set, tmp_path_factory):
    """A workdir of three steps, whose best is that of step 0, and the variables of the encoder after three."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    config = small_config(small_set)
    open_workdir(workdir, config)
    run = prepare(config)
    state = train(run, workdir)
    checkpoints = Checkpoints(workdir)
    checkpoints.save_best(run.program.first_state())
    checkpoints.close()
    (workdir / "results.json").write_text(json.dumps({"pre-trained": {"knn_top1": 0.25, "recall@1": 0.5}}))
    return workdir, config, jax.device_get(encoder_variables(state.params, state.model_state))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "encoder"
    export_weights(trained[0], folder, licence="CC BY 4.0")
    return folder


def test_an_exported_encoder_gives_the_features_of_the_run(trained, exported):
    _, config, variables = trained
    saved, loaded = load_encoder(exported)
    assert saved == config.model
    clips = np.random.default_rng(0).uniform(0, 1, (2, 4, 16, 16, 3)).astype(np.float32)
    features = jax.jit(lambda v: build_encoder(saved).apply(v, clips, False))
    np.testing.assert_array_equal(features(loaded), features(variables))
    fresh = jax.tree.map(np.zeros_like, loaded["batch_stats"])
    assert np.abs(features({**loaded, "batch_stats": fresh}) - features(variables)).max() > 1e-3


def test_the_file_is_plain_safetensors(trained, exported):
    with safe_open(exported / "weights.safetensors", framework="numpy") as file:
        assert "params/space1/conv/kernel" in file.keys()  # noqa: SIM118
        np.testing.assert_array_equal(
            file.get_tensor("batch_stats/time3/norm/var"), trained[2]["batch_stats"]["time3"]["norm"]["var"]
        )


def test_the_card_says_what_it_is_and_what_to_feed(exported):
    card = (exported / "README.md").read_text()
    wanted = ["small_r2plus1d", "3 steps", "moco", "(0.4, 0.5, 0.6)", "4 frames, one every 1 frames", "16 x 16 pixels"]
    wanted += ["| pre-trained | 0.250 | 0.500 |", "CC BY 4.0", "jax ", "adamw", '"size": 16', "--config.model.width=8"]
    assert [words for words in wanted if words not in card] == []


def test_the_best_checkpoint_is_another_and_nothing_is_overwritten(trained, exported, tmp_path):
    workdir, _, variables = trained
    export_weights(workdir, tmp_path / "best", best=True)
    card = (tmp_path / "best" / "README.md").read_text()
    assert "this is step 0, the best by kNN" in card
    assert "## Results" not in card
    kernel = load_encoder(tmp_path / "best")[1]["params"]["space1"]["conv"]["kernel"]
    assert np.any(kernel != variables["params"]["space1"]["conv"]["kernel"])
    with pytest.raises(WeightsError, match="holds weights already"):
        export_weights(workdir, exported)


def test_workdirs_without_a_run_or_a_checkpoint_are_named(trained, tmp_path):
    with pytest.raises(ConfigError, match=r"holds no config.json"):
        export_weights(tmp_path, tmp_path / "out")
    (tmp_path / "config.json").write_text((trained[0] / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"best holds no checkpoint; --best needs config.train.eval_every"):
        export_weights(tmp_path, tmp_path / "out", best=True)


def test_a_run_can_start_from_exported_weights(trained, exported, small_set):
    given = build(small_config(small_set, model__weights=str(exported), model__norm="sub_batch"), 8).pretrained
    jax.tree.map(np.testing.assert_array_equal, given["encoder"], trained[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__mean": (0.5, 0.5, 0.5)}, r"config.model.mean is \(0.5, 0.5, 0.5\), the weights in .* have \(0.4, 0.5, 0.6\)"),
        ({"model__name": "r2plus1d_10"}, "config.model.name is 'r2plus1d_10', the weights in .* have 'small_r2plus1d'"),
        ({"model__width": 16}, "config.model.width is 16"),
        ({"model__norm": "group"}, "config.model.norm is 'group', the weights in .* have 'batch'"),
    ],
)
def test_weights_of_another_encoder_are_a_fault_of_the_configuration(changes, message, exported, small_set):
    with pytest.raises(ConfigError, match=message):
        build(small_config(small_set, model__weights=str(exported), **changes), 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("params/time1/norm/scale"), "params/time1/norm/scale is missing"),
        (lambda t: t.update(extra=np.zeros(2)), "extra is left over"),
        (
            lambda t: t.update({"params/time1/norm/bias": np.zeros(3)}),
            r"params/time1/norm/bias is \(3,\), small_r2plus1d makes",
        ),
    ],
)
def test_a_folder_that_is_not_its_model_is_named(change, message, exported, tmp_path):
    tensors = load_file(exported / "weights.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "weights.safetensors")
    (tmp_path / "model.json").write_text((exported / "model.json").read_text())
    with pytest.raises(WeightsError, match=message):
        load_encoder(tmp_path)


def test_a_damaged_folder_is_named_and_a_saved_one_forgets_where_it_started(tmp_path):
    with pytest.raises(WeightsError, match="holds no exported encoder"):
        load_encoder(tmp_path)
    (tmp_path / "model.json").write_text('{"name": "s3d", "depth": 3}')
    with pytest.raises(WeightsError, match=r"holds no exported encoder that can be read .*depth"):
        load_encoder(tmp_path)
    config = ModelConfig("small_r2plus1d", width=2, weights="elsewhere")
    variables = {name: np.zeros(shape, np.float32) for name, shape in encoder_shapes(config).items()}
    save_encoder(tmp_path, config, variables)
    assert load_encoder(tmp_path)[0].weights == ""
