"""The pictures are written, are not blank, leave pyplot alone, and refuse what they cannot draw."""

import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from wt_jax.eval.figures import draw_curves, draw_neighbours, draw_views, format_table


def clips(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def read(path):
    """RGB of a PNG, checked to be neither blank nor huge."""
    image = matplotlib.image.imread(path)[..., :3]
    assert image.std() > 0.02
    assert max(image.shape) < 4000
    return image


def has_colour(image, colour):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return bool((np.abs(image - wanted).max(axis=2) < 0.02).any())


def test_curves_take_sparse_metrics_and_leave_out_what_is_not_there(tmp_path):
    metrics = [{"step": step, "loss": 5 - step / 50} for step in range(0, 100, 10)]
    metrics[3]["loss"] = float("nan")
    metrics[5]["knn_top1"] = 0.4
    draw_curves(metrics, tmp_path / "curves.png")
    draw_curves(metrics, tmp_path / "loss.png", keys=["loss"])
    both, one = read(tmp_path / "curves.png"), read(tmp_path / "loss.png")
    assert both.shape[1] == 2 * one.shape[1]
    with pytest.raises(ValueError, match="no finite value of accuracy"):
        draw_curves(metrics, tmp_path / "none.png", keys=["accuracy"])
    assert not (tmp_path / "none.png").exists()


def test_many_curves_fill_several_rows(tmp_path):
    metrics = [{"step": step, "a": step, "b": 1, "c": -step, "d": 0.5} for step in range(3)]
    draw_curves(metrics, tmp_path / "curves.png", keys=list("abcd"))
    draw_curves(metrics, tmp_path / "row.png", keys=list("abc"))
    assert read(tmp_path / "curves.png").shape[0] == 2 * read(tmp_path / "row.png").shape[0]


def test_views_of_different_sizes_and_lengths(tmp_path):
    batch = {"query": clips(6, 8, 32, 32), "weak": clips(6, 2, 20, 20), "flow": clips(6, 1, 20, 20)}
    draw_views(batch, tmp_path / "views.png", count=3)
    draw_views(batch, tmp_path / "all.png", count=50)
    assert read(tmp_path / "all.png").shape[0] > 1.5 * read(tmp_path / "views.png").shape[0]


def test_views_show_the_pixels_they_were_given(tmp_path):
    red = np.zeros((2, 4, 16, 16, 3), np.uint8)
    red[..., 0] = 255
    draw_views({"view": red}, tmp_path / "views.png")
    assert has_colour(read(tmp_path / "views.png"), "#ff0000")


def test_views_errors(tmp_path):
    with pytest.raises(ValueError, match="no view"):
        draw_views({}, tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"view 'label' has shape \(4,\)"):
        draw_views({"label": np.zeros(4, np.uint8)}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="dtype float32; pass uint8"):
        draw_views({"query": clips(2, 4, 8, 8).astype(np.float32)}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="different numbers of videos"):
        draw_views({"a": clips(2, 4, 8, 8), "b": clips(3, 4, 8, 8)}, tmp_path / "x.png")


def test_neighbours_are_framed_by_class(tmp_path):
    query, near = np.zeros_like(clips(2, 6, 24, 24)), np.zeros_like(clips(2, 4, 6, 24, 24))
    names = [["a/very/long/folder/name/of/a/data/set/" + c for c in "abcd"]] * 2

    def draw(same):
        draw_neighbours(query, near, ["x", "y"], names, np.full((2, 4), same), tmp_path / "near.png")
        image = read(tmp_path / "near.png")
        return has_colour(image, "#1a9641"), has_colour(image, "#d7191c")

    assert draw(True) == (True, False)
    assert draw(False) == (False, True)


def test_neighbours_errors(tmp_path):
    query, near, names = clips(2, 6, 8, 8), clips(2, 4, 6, 8, 8), [list("abcd")] * 2
    same = np.ones((2, 4), bool)
    with pytest.raises(ValueError, match="neighbour_clips has shape"):
        draw_neighbours(query, query, ["x", "y"], names, same, tmp_path / "x.png")
    for wrong in (["x"], names, same), (["x", "y"], names[:1], same), (["x", "y"], names, same[:, :3]):
        with pytest.raises(ValueError, match="do not fit together"):
            draw_neighbours(query, near, *wrong, tmp_path / "x.png")


def test_table_is_aligned_markdown():
    rows = [("random", {"knn_top1": 0.125, "extra": 9}), ("pre-trained", {"knn_top1": 1, "recall@1": float("nan")})]
    assert format_table(rows, ["knn_top1", "recall@1"]).splitlines() == [
        "|             | knn_top1 | recall@1 |",
        "| ----------- | -------: | -------: |",
        "| random      |     12.5 |        - |",
        "| pre-trained |    100.0 |        - |",
    ]


def test_pyplot_is_never_imported():
    code = "import sys, wt_jax.eval.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
