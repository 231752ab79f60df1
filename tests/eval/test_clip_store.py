"""From a trained encoder to SCALE: features of clips are stored, trained on, and evaluated as the store says."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.training import small_config
from support.video_files import write_video

from wt_jax.config import ModelConfig
from wt_jax.data.feature_store import CLIPS, open_clip_features
from wt_jax.data.records import VideoList
from wt_jax.errors import WeightsError
from wt_jax.eval.config import EvaluationConfig
from wt_jax.eval.encoders import load_candidate
from wt_jax.eval.features.clip_store import store_clips
from wt_jax.eval.features.extract import Reading
from wt_jax.eval.report import pictures
from wt_jax.eval.run import prepare
from wt_jax.models import build_encoder
from wt_jax.specs import ClipView
from wt_jax.train.loop import train
from wt_jax.train.workdir import open_workdir
from wt_jax.weights.export import export_weights
from wt_jax.weights.folder import load_encoder, save_encoder

WINDOWS = 18  # read in two pieces
VIEW = ClipView(num_frames=4, stride=1, size=16, crop="center")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labelled videos, and weights of an encoder of clips."""
    folder = tmp_path_factory.mktemp("store")
    rows = [f"{write_video(folder / f'{i}.mp4', 20 + 4 * i)},class{i % 2}" for i in range(8)]
    (folder / "videos.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    model = ModelConfig("tiny", width=8, norm="batch")
    variables = build_encoder(model).init(jax.random.key(3), jnp.zeros((1, 4, 16, 16, 3)), False)
    save_encoder(folder / "weights", model, jax.tree.map(lambda leaf: leaf + 0.2, variables))
    return folder


def test_a_store_is_trained_on_and_its_encoder_evaluated(folder, tmp_path):
    videos = VideoList(tuple(str(folder / f"{i}.mp4") for i in range(8)), np.arange(8, dtype=np.int32) % 2)
    candidate = load_candidate("weights", str(folder / "weights"), EvaluationConfig())
    reading = Reading(VIEW, windows=WINDOWS, batch_size=4)
    store_clips(folder / "made", candidate, videos, reading)
    stored = open_clip_features(str(folder / "made" / CLIPS))
    assert stored.clips.shape == (8, WINDOWS, build_encoder(candidate.model).feature_dim)
    other = replace(candidate, params=jax.tree.map(lambda leaf: leaf + 1, candidate.params))
    with pytest.raises(WeightsError, match="holds another encoder"):
        store_clips(folder / "made", other, videos, reading)

    lists = str(folder / "videos.csv")
    config = small_config(
        "scale",
        method__store=str(folder / "made"),
        data__train=lists,
        data__test=lists,
        clip__stride=1.0,
        eval__features__windows=WINDOWS,
        eval__features__batch_size=4,
        eval__settings__knn__k=2,
        train__batch_size=4,
        train__duration="3 steps",
        train__checkpoint_every="3 steps",
        train__eval_every="0 steps",
    )
    run = prepare(config)
    open_workdir(tmp_path / "run", config)
    state = train(run, tmp_path / "run")
    # The backbone is what the store holds, and the run's features are those of the stored clips.
    backbone = load_encoder(folder / "made")[1]
    jax.tree.map(np.testing.assert_array_equal, dict(backbone), state.model_state["frozen"]["encoder"]["clip_encoder"])
    subject = pictures.Subject(run, state, run.features.read(state))
    assert pictures.views(subject) == "The network reads stored features, no clips."
    assert pictures.attention(subject) == "The encoder reads whole videos: there is no map of a clip."
    found = subject.features.train
    export_weights(tmp_path / "run", tmp_path / "exported")
    model, variables = load_encoder(tmp_path / "exported")
    assert model == replace(candidate.model, aggregator="set_transformer")
    expected = build_encoder(model).apply(variables, jnp.asarray(stored.clips, jnp.float32), stored.geometry, False)
    np.testing.assert_allclose(found.values, expected, rtol=5e-3, atol=5e-3)  # stored in float16
    with pytest.raises(WeightsError, match="is an encoder of whole videos"):
        store_clips(tmp_path / "again", load_candidate("e", str(tmp_path / "exported"), EvaluationConfig()), videos, reading)
