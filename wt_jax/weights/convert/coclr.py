"""S3D in the names of CoCLR's code: of its pre-training (`encoder_q.0.`) and of its classifiers (`backbone.`).

Its S3D registers each layer twice, by name (`Conv_1a`, `Mixed_3b`) and by place (`block1.0`); both must hold the same.
The encoder is the one that is trained (`encoder_q`), not its momentum copy.
"""

from wt_jax.models.s3d import BLOCKS
from wt_jax.weights.convert.tables import Source, batch_norm, conv

CLIP = "32 frames, each, 128 x 128"

_PLACES = (
    ("Conv_1a",),
    ("MaxPool_2a", "Conv_2b", "Conv_2c"),
    *((f"MaxPool_{n}a", *(f"Mixed_{block}" for block in BLOCKS if block[0] == n)) for n in "345"),
)


def _both(ours: str, theirs: str) -> tuple:
    """A convolution and its norm."""
    return *conv(f"{ours}/conv", f"{theirs}.conv"), *batch_norm(f"{ours}/norm", f"{theirs}.bn")


def _separable(ours: str, theirs: str) -> tuple:
    """A convolution in space and one in time, each with its norm."""
    return tuple(
        row
        for part, number in {"space": 1, "time": 2}.items()
        for row in (
            *conv(f"{ours}/{part}/conv", f"{theirs}.conv{number}"),
            *batch_norm(f"{ours}/{part}/norm", f"{theirs}.bn{number}"),
        )
    )


SOURCE = Source(
    title="CoCLR",
    marker=r"Mixed_\d\w\.branch0\.0\.conv\.weight$",
    rows=(
        *_separable("stem1", "Conv_1a"),
        *_both("stem2", "Conv_2b"),
        *_separable("stem3", "Conv_2c"),
        *_both("block{n}/branch0", "Mixed_{n}.branch0.0"),
        *_both("block{n}/branch1_reduce", "Mixed_{n}.branch1.0"),
        *_separable("block{n}/branch1", "Mixed_{n}.branch1.1"),
        *_both("block{n}/branch2_reduce", "Mixed_{n}.branch2.0"),
        *_separable("block{n}/branch2", "Mixed_{n}.branch2.1"),
        *_both("block{n}/branch3", "Mixed_{n}.branch3.1"),
    ),
    prefixes=("encoder_q.0.", "encoder_q.", "backbone."),
    dropped={
        r"encoder_q\.[1-9]\.": "projection head",
        r"sampler\.": "the network of the other modality",
        r"final_bn\.|final_fc\.": "classifier",
    },
    aliases={f"block{i + 1}.{j}": name for i, names in enumerate(_PLACES) for j, name in enumerate(names)},
)
