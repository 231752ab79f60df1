"""Forms of the vision transformer: tokens that are kept, hidden or turned, extra tokens, frames for themselves, drop path."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wt_jax.config import ViTConfig
from wt_jax.models import forward_flops
from wt_jax.models.feature_maps import layer_maps
from wt_jax.models.norm import Norm
from wt_jax.models.positions import grid_positions, rotation
from wt_jax.models.vit import ViT

TUBELET, CLIP = (2, 4, 4), (4, 8, 8, 3)  # 2 x 2 x 2 tokens
DIVIDED = ViTConfig((1, 4, 4), "learned", (4, 2, 2), cls=True, attention="divided")
FORMS = {
    "flat": ViTConfig(TUBELET),
    "grid": ViTConfig(TUBELET, "grid"),
    "learned": ViTConfig(TUBELET, "learned", (2, 2, 2), cls=True, key_bias=True, init="xavier"),
    "rotary": ViTConfig(TUBELET, "rotary", cls=True, registers=2, layer_scale=0.1),
    "rotary_tiled": ViTConfig(TUBELET, "rotary_tiled", key_bias=True, init="scaled"),
}
FRAMES = {
    "divided": DIVIDED,
    "frame": ViTConfig((1, 4, 4), "learned", (4, 2, 2), cls=True, attention="frame", pre_norm=True, project=5),
    "axial": ViTConfig((1, 4, 4), "rotary_axial", cls=True, registers=2, attention="frame", patch_bias=False),
    "frame_divided": ViTConfig((1, 4, 4), "learned", (4, 2, 2), cls=True, attention="frame_divided", activation="quick_gelu"),
}


def vit(form, **options):
    return ViT(partial(Norm, kind="layer"), heads=2, depth=2, width=8, form=form, **options)


def clips(seed=0, frames=4):
    return jax.random.uniform(jax.random.key(seed), (2, frames, *CLIP[1:]))


def started(form, **options):
    """A model with random variables, those that start at zero too."""
    model = vit(form, **options)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), clips())
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return model, tree.unflatten([x + 0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


QUICK = {"flat", "rotary"}


@pytest.mark.parametrize(
    "form", [pytest.param(v, marks=() if k in QUICK else pytest.mark.slow, id=k) for k, v in FORMS.items()]
)
def test_all_tokens_kept_in_any_order_are_the_whole_clip(form):
    model, variables = started(form)
    order = jnp.asarray(np.stack([np.random.default_rng(i).permutation(8) for i in range(2)]), jnp.int32)

    @jax.jit
    def both(variables, clips):
        whole = model.apply(variables, clips, True, method="tokens")
        return whole, model.apply(variables, clips, True, keep=order, method="tokens")

    with jax.numpy_dtype_promotion("strict"):
        (feature, tokens), (again, kept) = both(variables, clips())
    np.testing.assert_allclose(again, feature, atol=1e-5)
    expected = np.take_along_axis(np.asarray(tokens).reshape(2, 8, -1), np.asarray(order)[..., None], axis=1)
    np.testing.assert_allclose(kept, expected, atol=1e-5)


def test_pixels_of_dropped_and_of_hidden_tokens_have_no_gradient():
    model, variables = started(FORMS["learned"])
    keep = jnp.array([[0, 3], [5, 6]], jnp.int32)
    hidden = jnp.ones((2, 8), bool).at[jnp.arange(2)[:, None], keep].set(False)

    @jax.jit
    def gradients(clips):
        def of_kept(clips):
            return jnp.sum(jnp.sin(model.apply(variables, clips, True, keep=keep, method="tokens")[1]))

        def of_hidden(clips):
            return jnp.sum(jnp.sin(model.apply(variables, clips, True, hidden=(hidden, jnp.ones(16)), method="tokens")[1]))

        return jax.grad(of_kept)(clips), jax.grad(of_hidden)(clips)

    for gradient in gradients(clips()):
        by_token = np.abs(gradient).reshape(2, 2, 2, 2, 4, 2, 4, 3).sum(axis=(2, 4, 6, 7)).reshape(2, 8)
        np.testing.assert_array_equal(by_token > 0, ~np.asarray(hidden))


@pytest.mark.parametrize("form", FRAMES.values(), ids=FRAMES)
def test_frames_for_themselves(form):
    model, variables = started(form)

    @jax.jit
    def features(variables, clips):
        return model.apply(variables, clips, False)

    found = features(variables, clips())
    assert found.shape == (2, model.feature_dim)
    frames = np.mean([features(variables, clips()[:, i : i + 1]) for i in range(4)], axis=0)
    alone = np.allclose(found, frames, atol=1e-5)
    assert alone == (form.attention == "frame")
    with pytest.raises(ValueError, match="keep needs joint attention"):
        model.apply(variables, clips(), True, keep=jnp.zeros((2, 1), jnp.int32), method="tokens")


def fresh(form):
    model = vit(form)
    return model, jax.jit(partial(model.init, train=False))(jax.random.key(0), clips())


def test_attention_in_time_starts_as_nothing():
    """At first the order of frames changes nothing, and a still clip is its frame; with a CLS token each it is a mean."""
    for form in (DIVIDED, FRAMES["frame_divided"]):
        model, variables = fresh(form)
        features = jax.jit(partial(model.apply, train=False))
        moving = features(variables, clips())
        np.testing.assert_allclose(features(variables, clips()[:, ::-1]), moving, atol=1e-5)
        still = jnp.repeat(clips()[:, :1], 4, axis=1)
        np.testing.assert_allclose(features(variables, still), features(variables, still[:, :1]), atol=1e-5)
        means = np.mean([features(variables, clips()[:, i : i + 1]) for i in range(4)], axis=0)
        gap = np.abs(moving - means).max()
        assert gap < 1e-5 if form.attention == "frame_divided" else gap > 1e-4


def test_branches_that_are_left_out_do_nothing():
    model, variables = started(ViTConfig(TUBELET, drop_path=0.5))
    tokens = jax.jit(lambda alive: model.apply(variables, clips(), True, alive=alive, method="tokens")[1])
    plain = model.apply(variables, clips(), True, pool=False)
    np.testing.assert_allclose(tokens(jnp.ones((2, 4))), plain, atol=1e-6)
    norm, embedded = variables["params"]["norm"], layer_maps(model, variables, clips(), ["tubelets"])[1]["tubelets"]
    expected = Norm("layer", epsilon=1e-6).apply({"params": norm}, embedded, False)
    np.testing.assert_allclose(tokens(jnp.zeros((2, 4))), expected, atol=1e-5)
    alive = np.asarray(model.draw_alive(jax.random.key(0), jnp.arange(4000)))
    assert (alive[:, :2] == 1).all()  # the first block always stays
    assert set(np.unique(alive[:, 2:])) == {0.0, 2.0}
    assert abs(alive[:, 2:].mean() - 1) < 0.05
    assert vit(ViTConfig()).draw_alive(jax.random.key(0), jnp.arange(2)) is None
    assert model.draw_alive(jax.random.key(0), jnp.array([7]))[0].tolist() == alive[7].tolist()


@pytest.mark.parametrize("form", [*FORMS.values(), *FRAMES.values()], ids=[*FORMS, *FRAMES])
def test_parts_are_named_and_have_maps(form):
    model = vit(form, remat=True)
    shape = jax.ShapeDtypeStruct((2, *CLIP), jnp.float32)
    variables = jax.eval_shape(lambda c: model.init(jax.random.key(0), c, False), shape)
    assert set(model.layers) == set(variables["params"])
    feature, maps, _ = jax.eval_shape(lambda v, c: layer_maps(model, v, c, model.layers), variables, shape)
    assert feature.shape == (2, model.feature_dim)
    assert {each.shape[:4] for each in maps.values()} == {(2, *model.grid(CLIP))}


def test_positions_of_a_grid_by_loops():
    table, grid, channels = grid_positions((2, 3, 4), 16), (2, 3, 4), 16
    half = 3  # ceil(16 / 6)
    for index, place in enumerate(np.ndindex(*grid)):
        row = []
        for axis in range(3):
            angles = [place[axis] / 10000 ** (i / half) for i in range(half)]
            row += [np.sin(a) for a in angles] + [np.cos(a) for a in angles]
        np.testing.assert_allclose(table[index], row[:channels], atol=1e-6)


def test_turned_keys_depend_on_offsets_alone():
    """A clip's tokens shifted in time, height and width: the products of turned queries and keys stay, but not if tiled."""
    rng = np.random.default_rng(0)
    query, key = (jnp.asarray(rng.normal(size=(1, 64, 1, 26)), jnp.float32) for _ in range(2))
    for kind, stays in (("rotary", True), ("rotary_tiled", False)):
        turn = rotation(kind, (4, 4, 4), 26)
        # The same query and key everywhere, at two pairs of places with one offset.
        q, k = (turn(jnp.broadcast_to(x[:, :1], x.shape))[0, :, 0] for x in (query, key))
        first, second = (np.ravel_multi_index(place, (4, 4, 4)) for place in ((0, 1, 0), (1, 0, 2)))
        shift = np.ravel_multi_index((2, 2, 1), (4, 4, 4))
        gap = abs(float(q[first] @ k[second] - q[first + shift] @ k[second + shift]))
        assert (gap < 1e-4) == stays
        np.testing.assert_allclose(jnp.linalg.norm(q, axis=-1)[0], jnp.linalg.norm(query[0, 0, 0]), rtol=1e-5)


def test_only_kept_tokens_are_computed():
    model = vit(ViTConfig(TUBELET))
    whole = forward_flops(model, (8, 32, 32, 3))

    class Kept:
        def init(self, key, clips, train):
            keep = jnp.zeros((1, 16), jnp.int32)
            return model.init(key, clips, train, keep=keep, method="tokens")

    counted = forward_flops(Kept(), (8, 32, 32, 3))
    assert counted < whole / (256 / 16)  # attention falls with the square


def test_learned_positions_of_another_grid_are_the_nearest():
    model, variables = fresh(DIVIDED)
    places = np.arange(5 * 16, dtype=np.float32).reshape(5, 16)
    params = jax.tree.map(jnp.zeros_like, variables["params"]["tubelets"]) | {"places": jnp.asarray(places)}
    state = {"params": {**variables["params"], "tubelets": params}}
    wide = jnp.zeros((1, 2, 16, 16, 3))
    found = layer_maps(model, state, wide, ["tubelets"])[1]["tubelets"][0, 1]
    expected = places[1:].reshape(2, 2, 16).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positions": "sine"}, "positions must be one of"),
        ({"positions": "rotary", "attention": "frame"}, "need attention 'joint'"),
        ({"tubelet": (0, 16, 16)}, "tubelet must hold"),
        ({"drop_path": 1.0}, "drop_path must lie"),
        ({"project": -1}, "project must be 0 or more"),
    ],
)
def test_impossible_forms_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig(**fields)
