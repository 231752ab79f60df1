"""CLIP's text tower and tokenizer against the packages that publish them, and the table that they make."""

import gzip

import jax
import numpy as np
import pytest
from support import peers
from support.peers import torch

from wt_jax.errors import WeightsError
from wt_jax.tools.concept_table import concepts
from wt_jax.weights.byte_pairs import BytePairs, find_merges
from wt_jax.weights.text_tower import read_text_tower

TEXTS = [
    "a photo of a person doing archery.",
    "  Playing the  BAGPIPES, isn't it? ",
    "it's 3.5km; caf\u00e9 & cr\u00e8me \u2014 na\u00efve \u4f60\u597d \U0001f600",
    "a_b #tag 12345 &amp; they've",
    "",
]


def _hf():
    hf = peers.transformers()
    tower = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 50, "max_position_embeddings": 12, "bos_token_id": 48, "eos_token_id": 49}
    module = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config={**tower, "image_size": 32}, projection_dim=6))
    return module, lambda tokens: module.text_projection(module.text_model(input_ids=tokens).pooler_output)


def _open_clip():
    open_clip = pytest.importorskip("open_clip")
    vision = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32}
    text = {"context_length": 12, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2}
    module = open_clip.model.CLIP(6, vision, text, quick_gelu=True)
    return module, module.encode_text


def state_of(module):
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("build", [_hf, _open_clip])
def test_features_are_those_of_the_module(build):
    torch.manual_seed(1)
    module, run = build()
    peers.randomize(module)
    module.eval()
    tokens = np.random.default_rng(0).integers(1, 48, size=(3, 12)).astype(np.int32)
    tokens[:, 0] = 48
    tokens[[0, 1, 2], [5, 11, 8]] = 49
    tokens[0, 6:] = tokens[2, 9:] = 0
    with torch.no_grad():
        expected = run(torch.from_numpy(tokens).long()).numpy()
    state = state_of(module)
    tower, variables = read_text_tower(state, head_width=8)
    found = jax.jit(tower.apply)(variables, tokens)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(WeightsError, match="no text tower"):
        read_text_tower({"weight": np.zeros(2)})
    del state[next(name for name in state if name.endswith(("ln_final.bias", "final_layer_norm.bias")))]
    with pytest.raises(WeightsError, match="is missing"):
        read_text_tower(state, head_width=8)


@pytest.fixture(scope="module")
def pairs():
    try:
        return BytePairs(find_merges())
    except WeightsError:
        pytest.skip("no package with the merges")


def test_tokens_are_those_of_open_clip(pairs):
    tokenizer = pytest.importorskip("open_clip").SimpleTokenizer()
    expected = tokenizer(TEXTS, 77).numpy()
    np.testing.assert_array_equal(pairs.captions(TEXTS), expected)
    assert pairs.captions(["word " * 100])[0, -1] == 49407


def test_a_table_is_a_mean_over_captions_and_a_copy_of_one_changes_nothing(pairs):
    tower, variables = read_text_tower(_whole_vocabulary(), head_width=8)
    both = concepts(tower, variables, pairs, [["archery"], ["bowling", "a ball"]], ["{}", "a video of {}."])
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
    apply = jax.jit(tower.apply)
    rows = [
        apply(variables, pairs.captions([text]))[0]
        for text in ("bowling", "a video of bowling.", "a ball", "a video of a ball.")
    ]
    mean = np.mean([row / np.linalg.norm(row) for row in rows], axis=0)
    np.testing.assert_allclose(both[1], mean / np.linalg.norm(mean), atol=1e-5)
    twice = concepts(tower, variables, pairs, [["archery"]], ["{}", "a video of {}.", "{}", "a video of {}."])
    np.testing.assert_allclose(twice, both[:1], atol=1e-6)


def _whole_vocabulary():
    """A tower of the real vocabulary, tiny in all else."""
    rng = np.random.default_rng(0)
    shapes = {"token_embedding.weight": (49408, 8), "positional_embedding": (77, 8), "text_projection": (8, 6)}
    block = {"ln_1": (8,), "ln_2": (8,), "attn.in_proj_": (24, 8), "attn.out_proj": (8, 8), "mlp.c_fc": (32, 8)}
    for name, shape in {**block, "mlp.c_proj": (8, 32)}.items():
        start = f"transformer.resblocks.0.{name}"
        dot = "" if name.endswith("_") else "."
        shapes |= {f"{start}{dot}weight": shape, f"{start}{dot}bias": shape[:1]}
    shapes |= {"ln_final.weight": (8,), "ln_final.bias": (8,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_files_that_are_no_merges_are_named(tmp_path):
    path = tmp_path / "merges.gz"
    for content, message in ((b"text", "no file of merges"), (gzip.compress(b"#\na b\n"), "CLIP's has 48894")):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            BytePairs(path)
