"""CLIP's image tower, applied to each frame: in OpenAI's names, which open_clip shares, and in those of transformers.

Keys' biases are left out, which change nothing. The text tower of the same file is read by `wt_jax.weights.text_tower`.
"""

from wt_jax.weights.convert.tables import KEY_BIASES, Row, Source, dense, kernel, layer_norm, separate, stacked, table, tubelets

CLIP = "frames of 224 x 224; each by itself, features averaged"
_TEXT = "text tower"


def openai_blocks(theirs: str) -> list[Row]:
    """The blocks of a tower in OpenAI's names."""
    return [
        *layer_norm("block{i}/norm1", f"{theirs}.ln_1"),
        *stacked("block{i}/attention", f"{theirs}.attn.in_proj_weight", f"{theirs}.attn.in_proj_bias"),
        *dense("block{i}/attention/out", f"{theirs}.attn.out_proj"),
        *layer_norm("block{i}/norm2", f"{theirs}.ln_2"),
        *dense("block{i}/dense1", f"{theirs}.mlp.c_fc"),
        *dense("block{i}/dense2", f"{theirs}.mlp.c_proj"),
    ]


def transformers_blocks(theirs: str) -> list[Row]:
    """The blocks of a tower in transformers' names."""
    query, key, value, out = (f"{theirs}.self_attn.{name}_proj" for name in ("q", "k", "v", "out"))
    return [
        *layer_norm("block{i}/norm1", f"{theirs}.layer_norm1"),
        *separate("block{i}/attention", query, key, value),
        *dense("block{i}/attention/out", out),
        *layer_norm("block{i}/norm2", f"{theirs}.layer_norm2"),
        *dense("block{i}/dense1", f"{theirs}.mlp.fc1"),
        *dense("block{i}/dense2", f"{theirs}.mlp.fc2"),
    ]


OPENAI = Source(
    title="OpenAI and open_clip",
    marker=r"^visual\.transformer\.resblocks\.\d+\.attn\.in_proj_weight$",
    rows=(
        *tubelets("visual.conv1", has_bias=False),
        table("cls", "visual.class_embedding"),
        table("places", "visual.positional_embedding"),
        *layer_norm("pre_norm", "visual.ln_pre"),
        *openai_blocks("visual.transformer.resblocks.{i-1}"),
        *layer_norm("norm", "visual.ln_post"),
        Row("params/project/kernel", "visual.proj", lambda w: w),
    ),
    dropped={
        r"transformer\.|token_embedding|positional_embedding|ln_final|text_projection|logit_|attn_mask": _TEXT,
        r"input_resolution|context_length|vocab_size": "sizes",
    },
)
TRANSFORMERS = Source(
    title="transformers",
    marker=r"^vision_model\.encoder\.layers\.\d+\.self_attn\.q_proj\.weight$",
    rows=(
        *tubelets("vision_model.embeddings.patch_embedding", has_bias=False),
        table("cls", "vision_model.embeddings.class_embedding"),
        table("places", "vision_model.embeddings.position_embedding.weight"),
        *layer_norm("pre_norm", "vision_model.pre_layrnorm"),
        *transformers_blocks("vision_model.encoder.layers.{i-1}"),
        *layer_norm("norm", "vision_model.post_layernorm"),
        kernel("project", "visual_projection"),
    ),
    dropped={
        r"text_model\.|text_projection|logit_scale|.*position_ids$": _TEXT,
        r"vision_model\.encoder\.layers\.\d+\.self_attn\.k_proj\.bias$": KEY_BIASES,
    },
)
SOURCES = (OPENAI, TRANSFORMERS)
