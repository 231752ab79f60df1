"""VideoMAE's ViTs: in the names of transformers (of today, and of before 5 with `q_bias`), and of the authors' code.

Pre-trained files end in a norm over the tokens, fine-tuned ones in `fc_norm` behind the average. Keys have no bias. The
authors keep query, key and value in one matrix, (3 C, C), in this order. transformers has an epsilon of 1e-12 (1e-5 in
`fc_norm`), the authors 1e-6: ours is theirs, and no feature that we compared differs by 1e-4 for it.
"""

from wt_jax.weights.convert.tables import Source, bias, dense, kernel, layer_norm, stacked, tubelets

CLIP = "16 frames, every 4th on Kinetics-400, short side 224, center crop 224"

_HEAD = {r"classifier\.|head\.": "classifier"}
_DECODER = {r"decoder\.|encoder_to_decoder\.|mask_token$": "decoder of the pre-training"}


_LAYER = "encoder.layer.{i-1}"


def _transformers(title: str, marker: str, query_bias: str, value_bias: str) -> Source:
    return Source(
        title=title,
        marker=marker,
        rows=(
            *tubelets("embeddings.patch_embeddings.projection"),
            *layer_norm("block{i}/norm1", f"{_LAYER}.layernorm_before"),
            kernel("block{i}/attention/query", f"{_LAYER}.attention.attention.query"),
            kernel("block{i}/attention/key", f"{_LAYER}.attention.attention.key"),
            kernel("block{i}/attention/value", f"{_LAYER}.attention.attention.value"),
            bias("block{i}/attention/query", f"{_LAYER}.attention.attention.{query_bias}"),
            bias("block{i}/attention/value", f"{_LAYER}.attention.attention.{value_bias}"),
            *dense("block{i}/attention/out", f"{_LAYER}.attention.output.dense"),
            *layer_norm("block{i}/norm2", f"{_LAYER}.layernorm_after"),
            *dense("block{i}/dense1", f"{_LAYER}.intermediate.dense"),
            *dense("block{i}/dense2", f"{_LAYER}.output.dense"),
            *layer_norm("norm", "layernorm"),
            *layer_norm("fc_norm", "fc_norm"),
        ),
        prefixes=("videomae.",),
        dropped=_HEAD | _DECODER,
    )


TRANSFORMERS = _transformers("transformers", r"\.layer\.\d+\.attention\.attention\.query\.bias$", "query.bias", "value.bias")
TRANSFORMERS_4 = _transformers("transformers before 5", r"\.layer\.\d+\.attention\.attention\.q_bias$", "q_bias", "v_bias")

AUTHORS = Source(
    title="VideoMAE's authors",
    marker=r"blocks\.\d+\.attn\.qkv\.weight$",
    rows=(
        *tubelets("patch_embed.proj"),
        *layer_norm("block{i}/norm1", "blocks.{i-1}.norm1"),
        *stacked("block{i}/attention", "blocks.{i-1}.attn.qkv.weight", "")[:3],
        bias("block{i}/attention/query", "blocks.{i-1}.attn.q_bias"),
        bias("block{i}/attention/value", "blocks.{i-1}.attn.v_bias"),
        *dense("block{i}/attention/out", "blocks.{i-1}.attn.proj"),
        *layer_norm("block{i}/norm2", "blocks.{i-1}.norm2"),
        *dense("block{i}/dense1", "blocks.{i-1}.mlp.fc1"),
        *dense("block{i}/dense2", "blocks.{i-1}.mlp.fc2"),
        *layer_norm("norm", "norm"),
        *layer_norm("fc_norm", "fc_norm"),
    ),
    prefixes=("encoder.",),
    dropped=_HEAD | _DECODER,
)

SOURCES = (TRANSFORMERS, TRANSFORMERS_4, AUTHORS)
