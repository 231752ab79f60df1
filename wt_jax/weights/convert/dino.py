"""DINOv2 and DINOv3, image models that are applied to each frame: in the names of transformers' files, and of its modules.

transformers renames tensors when it reads a file, so that a file and a module's state dict differ. The learned token of
hidden patches is left out.
"""

from wt_jax.weights.convert.tables import KEY_BIASES, Row, Source, dense, layer_norm, separate, table, tubelets

CLIP = "frames of 224 x 224; each by itself, features averaged"
_DROPPED = {r"embeddings\.mask_token$": "token of hidden patches"}


def _rows(layer: str, attention: tuple[str, ...], mlp: tuple[str, str], first: list[Row], norm: str) -> tuple[Row, ...]:
    query, key, value, out = (f"{layer}.attention.{name}" for name in attention)
    return (
        *first,
        table("cls", "embeddings.cls_token"),
        *layer_norm("block{i}/norm1", f"{layer}.norm1"),
        *separate("block{i}/attention", query, key, value),
        *dense("block{i}/attention/out", out),
        Row("params/block{i}/scale1", f"{layer}.layer_scale1.lambda1", lambda w: w),
        *layer_norm("block{i}/norm2", f"{layer}.norm2"),
        *dense("block{i}/dense1", f"{layer}.mlp.{mlp[0]}"),
        *dense("block{i}/dense2", f"{layer}.mlp.{mlp[1]}"),
        Row("params/block{i}/scale2", f"{layer}.layer_scale2.lambda1", lambda w: w),
        *layer_norm("norm", norm),
    )


def _second(title: str, marker: str, attention: tuple[str, ...]) -> Source:
    first = [*tubelets("embeddings.patch_embeddings.projection"), table("places", "embeddings.position_embeddings")]
    rows = _rows("encoder.layer.{i-1}", attention, ("fc1", "fc2"), first, "layernorm")
    key = attention[1].replace(".", r"\.")
    dropped = _DROPPED | {rf"encoder\.layer\.\d+\.attention\.{key}\.bias$": KEY_BIASES}
    return Source(title, marker, rows, ("dinov2.",), dropped)


def _third(title: str, layer: str) -> Source:
    first = [*tubelets("embeddings.patch_embeddings"), table("registers", "embeddings.register_tokens")]
    rows = _rows(layer + ".{i-1}", ("q_proj", "k_proj", "v_proj", "o_proj"), ("up_proj", "down_proj"), first, "norm")
    return Source(title, rf"^{layer}\.\d+\.mlp\.up_proj\.weight$", rows, (), _DROPPED)


SECOND = (
    _second(
        "a file of transformers",
        r"encoder\.layer\.\d+\.attention\.attention\.query\.weight$",
        ("attention.query", "attention.key", "attention.value", "output.dense"),
    ),
    _second(
        "a module of transformers", r"encoder\.layer\.\d+\.attention\.q_proj\.weight$", ("q_proj", "k_proj", "v_proj", "o_proj")
    ),
)
THIRD = (_third("a file of transformers", "layer"), _third("a module of transformers", r"model.layer"))
