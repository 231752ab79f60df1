"""TimeSformer with divided attention, and SVT, which pre-trains it: in the names of transformers and of the authors' code."""

from wt_jax.weights.convert.tables import Row, Source, dense, layer_norm, stacked, table, tubelets

CLIP = "8 frames, every 32nd on Kinetics-400, short side 224, center crop 224"


def _source(title: str, marker: str, start: str, names: dict[str, str], prefixes: tuple[str, ...]) -> Source:
    layer = names["layer"]

    def of(name: str) -> str:
        return f"{layer}.{names[name]}"

    def attention(ours: str, theirs: str) -> list[Row]:
        return stacked(f"block{{i}}/{ours}", f"{of(theirs)}.weight", f"{of(theirs)}.bias")

    return Source(
        title=title,
        marker=marker,
        rows=(
            *tubelets(f"{start}{names['patches']}"),
            table("cls", f"{start}cls_token"),
            table("places", f"{start}{names['places']}"),
            table("times", f"{start}{names['times']}"),
            *layer_norm("block{i}/time_norm", of("time_norm")),
            *attention("time_attention", "time_qkv"),
            *dense("block{i}/time_attention/out", of("time_out")),
            *dense("block{i}/time_dense", of("time_dense")),
            *layer_norm("block{i}/norm1", of("norm1")),
            *attention("attention", "qkv"),
            *dense("block{i}/attention/out", of("out")),
            *layer_norm("block{i}/norm2", of("norm2")),
            *dense("block{i}/dense1", of("dense1")),
            *dense("block{i}/dense2", of("dense2")),
            *layer_norm("norm", names["norm"]),
        ),
        prefixes=prefixes,
        dropped={r"classifier\.|head\.": "classifier or projection head"},
    )


TRANSFORMERS = _source(
    "transformers",
    r"encoder\.layer\.\d+\.temporal_attention\.attention\.qkv\.weight$",
    "embeddings.",
    {
        "patches": "patch_embeddings.projection",
        "places": "position_embeddings",
        "times": "time_embeddings",
        "layer": "encoder.layer.{i-1}",
        "time_norm": "temporal_layernorm",
        "time_qkv": "temporal_attention.attention.qkv",
        "time_out": "temporal_attention.output.dense",
        "time_dense": "temporal_dense",
        "norm1": "layernorm_before",
        "qkv": "attention.attention.qkv",
        "out": "attention.output.dense",
        "norm2": "layernorm_after",
        "dense1": "intermediate.dense",
        "dense2": "output.dense",
        "norm": "layernorm",
    },
    ("timesformer.",),
)
AUTHORS = _source(
    "TimeSformer's and SVT's authors",
    r"blocks\.\d+\.temporal_attn\.qkv\.weight$",
    "",
    {
        "patches": "patch_embed.proj",
        "places": "pos_embed",
        "times": "time_embed",
        "layer": "blocks.{i-1}",
        "time_norm": "temporal_norm1",
        "time_qkv": "temporal_attn.qkv",
        "time_out": "temporal_attn.proj",
        "time_dense": "temporal_fc",
        "norm1": "norm1",
        "qkv": "attn.qkv",
        "out": "attn.proj",
        "norm2": "norm2",
        "dense1": "mlp.fc1",
        "dense2": "mlp.fc2",
        "norm": "norm",
    },
    ("backbone.", "model."),
)
SOURCES = (TRANSFORMERS, AUTHORS)
