"""Slow R50 8x8, as PyTorchVideo names it (also its model zoo's file) and as PySlowFast does, contrastive runs included."""

from wt_jax.weights.convert.tables import Source, batch_norm, conv

# Both codebases' configurations.
MEAN = (0.45, 0.45, 0.45)
STD = (0.225, 0.225, 0.225)
CLIP = "8 frames, every 8th, short side 256, center crop 256 (224 in training)"

_BLOCK = "stage{s}_block{b}"
_PREFIXES = ("encoder_q.", "backbone.")

PYTORCHVIDEO = Source(
    title="PyTorchVideo",
    marker=r"blocks\.\d\.res_blocks\.",
    rows=(
        *conv("stem1/conv", "blocks.0.conv"),
        *batch_norm("stem1/norm", "blocks.0.norm"),
        *(
            row
            for ours, theirs in {"conv1": "a", "conv2": "b", "conv3": "c"}.items()
            for row in (
                *conv(f"{_BLOCK}/{ours}/conv", f"blocks.{{s}}.res_blocks.{{b-1}}.branch2.conv_{theirs}"),
                *batch_norm(f"{_BLOCK}/{ours}/norm", f"blocks.{{s}}.res_blocks.{{b-1}}.branch2.norm_{theirs}"),
            )
        ),
        *conv(f"{_BLOCK}/shortcut/conv", "blocks.{s}.res_blocks.{b-1}.branch1_conv"),
        *batch_norm(f"{_BLOCK}/shortcut/norm", "blocks.{s}.res_blocks.{b-1}.branch1_norm"),
    ),
    prefixes=_PREFIXES,
    dropped={r"blocks\.5\.": "classifier"},
)

# PySlowFast calls our stages 1 to 4 s2 to s5; the table has a group of rows for each.
PYSLOWFAST = Source(
    title="PySlowFast",
    marker=r"s\d\.pathway0_res\d\.",
    rows=(
        *conv("stem1/conv", "s1.pathway0_stem.conv"),
        *batch_norm("stem1/norm", "s1.pathway0_stem.bn"),
        *(
            row
            for stage in (1, 2, 3, 4)
            for ours, theirs in {
                "conv1": "branch2.a",
                "conv2": "branch2.b",
                "conv3": "branch2.c",
                "shortcut": "branch1",
            }.items()
            for row in (
                *conv(f"stage{stage}_block{{b}}/{ours}/conv", f"s{stage + 1}.pathway0_res{{b-1}}.{theirs}"),
                *batch_norm(f"stage{stage}_block{{b}}/{ours}/norm", f"s{stage + 1}.pathway0_res{{b-1}}.{theirs}_bn"),
            )
        ),
    ),
    prefixes=_PREFIXES,
    dropped={
        r"head\.": "classifier or projection head",
        r"predictors\.|swav_prototypes": "heads of the pre-training",
        r"backbone_hist\.": "the momentum copy of the encoder",
        r"(ptr|iter)$|knn_mem\.|memory\.": "counters and memory of the pre-training",
    },
)

SOURCES = (PYTORCHVIDEO, PYSLOWFAST)
