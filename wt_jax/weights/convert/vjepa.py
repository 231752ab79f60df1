"""V-JEPA and V-JEPA 2: encoders in the names of the authors' code and, of V-JEPA 2, in those of transformers.

The authors' files hold `encoder`, `predictor` and `target_encoder`, the moving average, which is what they evaluate. Fixed
sinusoids are computed, not read. V-JEPA 2 turns its keys, so that their biases matter and are kept.
"""

from wt_jax.weights.convert.tables import Row, Source, dense, layer_norm, separate, stacked, tubelets

CLIP = "16 frames, every 4th on Kinetics-400 (V-JEPA) or 4 a second (V-JEPA 2), short side 224 or 256, center crop"
_DROPPED = {
    r"predictor|mask_tokens": "predictor",
    r"pos_embed$": "fixed positions",
    r"pooler\.|classifier\.": "classifier",
}


def _block(theirs: str, attention: list[Row], out: str) -> list[Row]:
    return [
        *layer_norm("block{i}/norm1", f"{theirs}.norm1"),
        *attention,
        *dense("block{i}/attention/out", f"{theirs}.{out}"),
        *layer_norm("block{i}/norm2", f"{theirs}.norm2"),
        *dense("block{i}/dense1", f"{theirs}.mlp.fc1"),
        *dense("block{i}/dense2", f"{theirs}.mlp.fc2"),
    ]


def _authors(key_bias: bool) -> Source:
    theirs = "blocks.{i-1}"
    qkv = f"{theirs}.attn.qkv"
    attention = stacked("block{i}/attention", f"{qkv}.weight", f"{qkv}.bias", key_bias=key_bias)
    return Source(
        title="V-JEPA's authors",
        marker=r"blocks\.\d+\.attn\.qkv\.bias$",
        rows=(*tubelets("patch_embed.proj"), *_block(theirs, attention, "attn.proj"), *layer_norm("norm", "norm")),
        prefixes=("target_encoder.backbone.", "backbone."),
        dropped=_DROPPED,
    )


_LAYER = "encoder.layer.{i-1}"
TRANSFORMERS = Source(
    title="transformers",
    marker=r"encoder\.layer\.\d+\.attention\.query\.weight$",
    rows=(
        *tubelets("encoder.embeddings.patch_embeddings.proj"),
        *_block(
            _LAYER,
            separate("block{i}/attention", *(f"{_LAYER}.attention.{n}" for n in ("query", "key", "value")), key_bias=True),
            "attention.proj",
        ),
        *layer_norm("norm", "encoder.layernorm"),
    ),
    prefixes=("vjepa2.",),
    dropped=_DROPPED,
)
FIRST, SECOND = (_authors(False),), (TRANSFORMERS, _authors(True))
