"""torchvision's video ResNets: `r3d_18` and `mc3_18` (plain convolutions), `r2plus1d_18` (factorized ones)."""

from wt_jax.weights.convert.tables import Source, batch_norm, conv

# torchvision.transforms._presets.VideoClassification.
MEAN = (0.43216, 0.394666, 0.37645)
STD = (0.22803, 0.22145, 0.216989)
CLIP = "16 frames at 15 per second, short side 128 (the frame squeezed to 128 x 171), center crop 112"

_BLOCK, _THEIRS = "stage{s}_block{b}", "layer{s}.{b-1}"
_SHORTCUT = (
    *conv(f"{_BLOCK}/shortcut/conv", f"{_THEIRS}.downsample.0"),
    *batch_norm(f"{_BLOCK}/shortcut/norm", f"{_THEIRS}.downsample.1"),
)
_DROPPED = {r"fc\.": "classifier"}
_PREFIXES = ("encoder_q.", "backbone.")

PLAIN = Source(
    title="torchvision",
    marker=r"layer\d\.\d\.conv\d\.0\.weight$",
    rows=(
        *conv("stem1/conv", "stem.0"),
        *batch_norm("stem1/norm", "stem.1"),
        *conv(f"{_BLOCK}/conv{{c}}/conv", f"{_THEIRS}.conv{{c}}.0"),
        *batch_norm(f"{_BLOCK}/conv{{c}}/norm", f"{_THEIRS}.conv{{c}}.1"),
        *_SHORTCUT,
    ),
    prefixes=_PREFIXES,
    dropped=_DROPPED,
)

FACTORISED = Source(
    title="torchvision",
    marker=r"layer\d\.\d\.conv\d\.0\.0\.weight$",
    rows=(
        *conv("stem1/conv", "stem.0"),
        *batch_norm("stem1/norm", "stem.1"),
        *conv("stem2/conv", "stem.3"),
        *batch_norm("stem2/norm", "stem.4"),
        *conv(f"{_BLOCK}/conv{{c}}/space/conv", f"{_THEIRS}.conv{{c}}.0.0"),
        *batch_norm(f"{_BLOCK}/conv{{c}}/space/norm", f"{_THEIRS}.conv{{c}}.0.1"),
        *conv(f"{_BLOCK}/conv{{c}}/time/conv", f"{_THEIRS}.conv{{c}}.0.3"),
        *batch_norm(f"{_BLOCK}/conv{{c}}/time/norm", f"{_THEIRS}.conv{{c}}.1"),
        *_SHORTCUT,
    ),
    prefixes=_PREFIXES,
    dropped=_DROPPED,
)
