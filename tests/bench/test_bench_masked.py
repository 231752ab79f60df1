"""The command that times masked training: what its table has, and that a ratio is of the same round."""

import pytest

from wt_jax.bench import masked
from wt_jax.errors import BenchError
from wt_jax.specs import ClipView


@pytest.mark.slow  # compiling V-JEPA's predictor takes most of its two minutes
def test_every_row_is_measured_beside_all_tokens(capsys):
    masked.main(["--model=small_vit", "--frames=4", "--size=112", "--rounds=1"])
    about, table = capsys.readouterr().out.strip().split("\n\n")
    assert about.startswith("small_vit, 1 x 4 x 112 x 112")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == [masked.ALL_TOKENS, *masked.MASKED.values()]
    assert all(float(ratio) > 0 for _, _, ratio in rows)


def test_a_ratio_is_the_median_over_rounds_of_the_row_to_all_tokens():
    seconds = {"a": {masked.ALL_TOKENS: [1.0, 2.0, 4.0], "row": [0.5, 0.5, 0.5]}, "b": {masked.ALL_TOKENS: [3.0]}}
    lines = masked.report(seconds).splitlines()
    assert lines[2] == f"| {masked.ALL_TOKENS} | 2000 (1000 to 4000) | 1.00 | 3000 (3000 to 3000) | 1.00 |"
    assert lines[3] == "| row | 500 (500 to 500) | 0.25 | - | - |"


def test_a_network_without_tokens_is_refused():
    with pytest.raises(BenchError, match="r3d_18 is no vision transformer"):
        masked.ours("r3d_18", ClipView(num_frames=4, size=32), 1)
