"""Masked and self-distilled methods: limits, what they start from, and configurations that cannot work."""

from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.training import batches, finished, first, largest_gap, small_config

from wt_jax.config import ModelConfig, ViTConfig
from wt_jax.errors import ConfigError
from wt_jax.experiment import build_method
from wt_jax.methods import METHODS
from wt_jax.models import build_encoder
from wt_jax.models.masked import TokenPredictor
from wt_jax.models.norm import Norm
from wt_jax.train.program import load_pretrained
from wt_jax.weights.folder import save_encoder


def test_masked_tokens_are_told_apart_by_their_places():
    model = TokenPredictor(5, lambda **options: Norm("layer", **options), width=8, heads=2, depth=1)
    seen, wanted = jnp.array([[1, 6]]), jnp.array([[0, 3, 5]])
    tokens = jax.random.normal(jax.random.key(0), (1, 2, 4))
    variables = model.init(jax.random.key(1), tokens, seen, wanted, (2, 2, 2), True)
    apply = jax.jit(lambda tokens, wanted: model.apply(variables, tokens, seen, wanted, (2, 2, 2), True))
    found = apply(tokens, wanted)
    np.testing.assert_allclose(apply(tokens, wanted[:, ::-1]), found[:, ::-1], atol=1e-6)
    # Where the visible tokens are alike, too.
    alike = apply(jnp.ones_like(tokens), wanted)[0]
    assert min(np.abs(alike[i] - alike[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-4


@pytest.mark.parametrize(("name", "count"), [("vjepa", 2), ("vjepa2", 1)])
def test_each_kind_of_masks_has_its_token_or_all_share_one(name, count):
    """That of each kind teaches: with one token more than there are, the last would have no gradient."""
    method, state, _ = first(small_config(name))
    batch = finished(method, next(batches(method, 1)))

    def loss(params):
        return method.loss(params, state.method_state, batch, jax.random.key(0), 0)[0]

    tokens = jax.jit(jax.grad(loss))(state.params)["predictor"]["mask_tokens"]
    assert tokens.shape[0] == count
    assert np.abs(tokens).max(axis=1).min() > 0


def loss_of(config):
    method, state, _ = first(config)
    batch = finished(method, next(batches(method, 1)))
    return jax.jit(method.loss)(state.params, state.method_state, batch, jax.random.key(0), jnp.int32(0))


def test_without_masked_tokens_ibots_term_is_zero_and_the_rest_is_dino():
    plain, _ = loss_of(small_config("svt"))
    masked, (_, metrics) = loss_of(small_config("svt", method__patches__weight=1.0, method__patches__chance=0.0))
    assert float(metrics["loss_patches"]) == 0
    assert float(masked) == pytest.approx(float(plain), abs=1e-5)


def test_the_weak_teacher_sees_weak_views_of_the_same_moments():
    strong, weak = (build_method(small_config(name), 10) for name in ("svt", "svt_weak_teacher"))
    views = weak.views
    assert set(views) - set(strong.views) == {"weak1", "weak2"}
    for i in (1, 2):
        assert views[f"weak{i}"].window == views[f"global{i}"].window
        assert views[f"weak{i}"].pixels.jitter_probability == 0 < views[f"global{i}"].pixels.jitter_probability
        assert views[f"weak{i}"].stride == views[f"global{i}"].stride


def test_lss_starts_as_clip_averaged_over_frames(tmp_path):
    form = replace(METHODS["lss"].model.vit, tubelet=(1, 2, 2), learned_grid=(8, 8, 8), project=6, attention="frame")
    model = ModelConfig("tiny_vit", 6, vit=form)
    frames = build_encoder(model)
    clips = jax.random.uniform(jax.random.key(0), (2, 4, 16, 16, 3))
    variables = jax.jit(lambda: frames.init(jax.random.key(3), clips, False))()
    save_encoder(tmp_path, model, variables)
    same = {"model__mean": model.mean, "model__std": model.std, "model__vit__epsilon": form.epsilon}
    method = build_method(small_config("lss", model__weights=str(tmp_path), **same), 10)
    batch = {name: jnp.zeros((1, view.num_frames, view.size, view.size, 3)) for name, view in method.views.items()}
    state = method.init(jax.random.key(1), batch, load_pretrained(method))

    @jax.jit
    def both():
        by_frame = jnp.mean(jnp.stack([frames.apply(variables, clips[:, i : i + 1], False) for i in range(4)]), axis=0)
        return by_frame, method.encoder.apply({"params": state.params["encoder"]}, clips, False)

    np.testing.assert_allclose(*both(), atol=1e-5)
    assert largest_gap(state.params, state.teacher["params"]) == 0


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("videomae", {"model__name": "tiny", "model__vit": asdict(ViTConfig())}, "must be a vision transformer"),
        ("videomae", {"method__ratio": 1.0}, "masks 128 of 128 tokens"),
        ("videomae", {"clip__num_frames": 3}, "not whole tubelets"),
        ("vjepa", {"model__vit__tubelet": (2, 4, 4)}, "7 x 7 tokens or more"),
        ("svt", {"model__name": "tiny", "model__vit": asdict(ViTConfig())}, "must be a vision transformer"),
        ("lss", {"method__tables__category": ""}, "tables.category is empty"),
    ],
)
def test_what_cannot_work_is_named(name, changes, message):
    with pytest.raises(ConfigError, match=message):
        small_config(name, **changes)


def test_tables_must_be_as_wide_as_the_feature():
    with pytest.raises(ConfigError, match="5 wide as the feature"):
        first(small_config("lss", model__vit__project=5))
