"""The report of a real run is whole, loads nothing, plays what it should, shows the run's numbers, and escapes every name."""

import base64
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from wt_jax.errors import ConfigError
from wt_jax.eval.final import evaluate_run
from wt_jax.eval.protocols.knn import Knn
from wt_jax.eval.report import Subject, pictures, write_report
from wt_jax.eval.report.curves import number, panels
from wt_jax.eval.report.media import FRAMES, SIDE, data_uri, sheet, strip
from wt_jax.eval.report.saliency import contributions, focus, heat, motion, overlay
from wt_jax.eval.report.scores import classes, score_tables
from wt_jax.eval.results import Results, Summary, read_results, write_results
from wt_jax.eval.run import prepare
from wt_jax.eval.statistics import Number, bootstrap_interval
from wt_jax.eval.table import format_table
from wt_jax.experiment import default_config, resolve
from wt_jax.tools.report import open_subject
from wt_jax.train.loop import train
from wt_jax.train.workdir import open_workdir

HOSTILE = ("a<", "b\"'&amp;")  # folders; with the file they make "a</script>..."
SECTIONS = ("results", "curves", "classes", "retrieval", "embedding", "attention", "views")
VOID = {"br", "hr", "img", "input", "link", "meta"}


class Page(HTMLParser):
    """Reads a page, checks that every element is closed in order, and keeps elements, texts and attributes."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.stack, self.elements, self.text = [], [], {}
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), [a.get("id") for t, a in self.stack if t == "section"]))
        if tag not in VOID:
            self.stack.append((tag, dict(attributes)))

    def handle_startendtag(self, tag, attributes):  # SVG's own way to close
        self.elements.append((tag, dict(attributes), [a.get("id") for t, a in self.stack if t == "section"]))

    def handle_endtag(self, tag):
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        for tag, attributes in self.stack:
            key = attributes["id"] if tag == "section" else tag
            self.text[key] = self.text.get(key, "") + data

    def all(self, tag, section=None):
        return [attributes for t, attributes, inside in self.elements if t == tag and (section is None or section in inside)]


def decoded(uri):
    kind, coded = re.fullmatch(r"data:image/(webp|png);base64,([A-Za-z0-9+/=]+)", uri).groups()
    return cv2.imdecode(np.frombuffer(base64.b64decode(coded), np.uint8), cv2.IMREAD_UNCHANGED)


def clips_of(page, section):
    """Number of frames and pixels of each clip of a section."""
    spans = [a for a in page.all("span", section) if a.get("class") == "clip"]
    strips = [decoded(a["src"]) for a in page.all("img", section) if a["src"].startswith("data:image/webp")]
    assert len(spans) == len(strips)
    return [(int(a["style"].removeprefix("--n:")), s) for a, s in zip(spans, strips, strict=True)]


def tiny(data, test=""):
    config = default_config("weak_teacher")
    config.data.train, config.data.test = str(data), str(test)
    config.clip.num_frames, config.clip.size, config.clip.gap = 4, 16, 8.0
    config.model.name, config.model.width, config.model.norm = "small_r2plus1d", 8, "group"
    config.method.queue.size, config.train.batch_size, config.train.duration = 16, 8, "2 steps"
    config.train.log_every, config.train.fsdp = 1, 2
    config.eval.features.batch_size, config.eval.features.windows, config.eval.settings.knn.k = 8, 1, 3
    return resolve(config)


@pytest.fixture(scope="module")
def run_folder(small_set, tmp_path_factory):
    """A run on videos with hostile names: its workdir and its subject."""
    folder = tmp_path_factory.mktemp("hostile")
    for part, count in (("train", 12), ("test", 8)):
        for index, video in enumerate(sorted((small_set / part).rglob("*.mp4"))[:count]):
            place = folder / part / HOSTILE[index % 2]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"script><img src=x onerror=alert({index})>'&.mp4").symlink_to(video)
    workdir = folder / "<b>run"
    run = prepare(tiny(folder / "train", folder / "test"))
    open_workdir(workdir, run.config)
    state = train(run, workdir)
    _, features = evaluate_run(run, state, workdir)
    subject = Subject(run, state, features)
    write_report(workdir, subject)
    return workdir, subject


@pytest.fixture(scope="module")
def page(run_folder):
    return Page((run_folder[0] / "report.html").read_text())


def test_every_section_is_there_and_none_is_left_out(page):
    assert [a["id"] for a in page.all("section")] == list(SECTIONS)
    assert not [a for a in page.all("p") if a.get("class") == "absent"]
    linked = {a["href"] for a in page.all("a")}
    assert linked == {f"#{name}" for name in SECTIONS}


def test_the_page_loads_nothing(run_folder, page):
    for tag, attributes, _ in page.elements:
        for name in ("src", "href", "srcset", "action", "poster", "data", "xlink:href"):
            value = attributes.get(name, "data:")
            assert value.startswith(("data:", "#")), (tag, name, value[:80])
        assert not [name for name in attributes if name.startswith("on")], tag
    text = (run_folder[0] / "report.html").read_text()
    assert all(url.startswith("data:") for url in re.findall(r"url\(([^)]*)\)", text))
    assert not re.search(r"@import|https?://|fetch\(|XMLHttpRequest|import\(", text)
    assert not {"iframe", "object", "embed", "base"} & {tag for tag, _, _ in page.elements}


def test_hostile_names_are_text(page):
    assert len(page.all("script")) == 1
    assert not [a for a in page.all("img") if a.get("src") == "x"]
    assert page.text["h1"] == "<b>run"
    names = {a["data-name"] for a in page.all("circle", "embedding") if "data-name" in a}
    assert any(name.startswith("a</script><img src=x") for name in names)
    assert "a</script><img src=x onerror=alert(0)>'&.mp4" in page.text["retrieval"]
    matrices = [a for a in page.all("img") if a.get("class") == "counts"]
    assert len(matrices) == 2  # kNN and linear, after the training
    assert all(json.loads(matrix["data-names"]) == sorted(HOSTILE) for matrix in matrices)


def test_every_clip_decodes_to_its_frames(page):
    wanted = {"retrieval": 6 * 6, "attention": 4 * 4, "views": 4 * 3}
    for section, count in wanted.items():
        clips = clips_of(page, section)
        assert len(clips) == count
        for frames, pixels in clips:
            assert frames == 4
            assert pixels.shape[:2] == (SIDE, 4 * SIDE)
    assert np.ptp(clips_of(page, "retrieval")[0][1]) > 50


def test_numbers_are_those_of_the_results(run_folder, page):
    results = read_results(run_folder[0])
    main, _ = score_tables(results)
    for encoder, cells in main["rows"]:
        assert [cell.value for cell in cells] == [number.value for number in results.headline(encoder).values()]
    shown = re.findall(r"\d+\.\d", page.text["tbody"])
    headline = [number for encoder in results.encoders for number in results.headline(encoder).values()]
    expected = [f"{100 * value:.1f}" for number in headline for value in number]
    assert shown[: len(expected)] == expected
    right = re.search(r"([\d.]+)\xa0% of 8 are right", page.text["classes"])
    assert right[1] == f"{100 * results.encoders['pre-trained']['knn'].numbers['top1'].value:.1f}"


def test_the_report_is_the_same_from_the_command(run_folder):
    """What `--workdir` alone gives, from the checkpoint and the videos, is what the end of the run gave."""
    workdir, subject = run_folder
    again = open_subject(workdir)
    np.testing.assert_array_equal(again.features.test.values, subject.features.test.values)
    assert int(again.state.step) == 2


def test_a_protocol_that_fails_leaves_the_others_and_the_report(run_folder, tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise ValueError("every training label is unique")

    monkeypatch.setattr(Knn, "run", fail)
    _, subject = run_folder
    results, features = evaluate_run(subject.run, subject.state, tmp_path)
    assert "pre-trained, knn: every training label is unique" in caplog.text
    scored = {name for protocols in results.encoders.values() for name in protocols}
    assert "knn" not in scored
    assert {"linear", "retrieval"} <= scored
    shutil.copy(run_folder[0] / "config.json", tmp_path)
    page = Page(write_report(tmp_path, Subject(subject.run, subject.state, features)).read_text())
    assert "every training label is unique" in page.text["results"]
    assert "R@1" in page.text["results"]


def test_without_labels_classes_and_scores_say_so(small_set, run_folder, tmp_path):
    for index, video in enumerate(sorted((small_set / "train").rglob("*.mp4"))[:5]):
        (tmp_path / f"{index}.mp4").symlink_to(video)
    run = prepare(tiny(tmp_path))
    features = run.features.read(run_folder[1].state)
    (tmp_path / "config.json").write_text('{"seed": 0}')
    page = Page(write_report(tmp_path, Subject(run, run_folder[1].state, features)).read_text())
    absent = [section for section in SECTIONS if "There are no" in page.text[section] or "holds no" in page.text[section]]
    assert absent == ["results", "curves", "classes"]
    assert len(clips_of(page, "retrieval")) == 5 * 5  # each with the four others
    assert "✓" not in page.text["retrieval"]
    assert "nearest of\nall other" in page.text["retrieval"]


def test_without_a_checkpoint_or_the_videos_the_rest_is_shown(run_folder, tmp_path):
    for name in ("config.json", "results.json", "metrics.jsonl"):
        shutil.copy(run_folder[0] / name, tmp_path)
    why = open_subject(tmp_path)
    assert "holds no checkpoint" in why
    page = Page(write_report(tmp_path, why).read_text())
    assert not (tmp_path / "checkpoints").exists()
    for section in ("retrieval", "embedding", "attention", "views"):
        assert "holds no checkpoint" in page.text[section]
    assert "pre-trained, knn" in page.text["classes"]
    assert page.all("path", "curves")
    assert page.all("td", "results")
    config = json.loads((tmp_path / "config.json").read_text())
    config["data"]["train"] = "nowhere"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "nowhere" in open_subject(tmp_path)


def test_features_that_are_not_finite_leave_their_sections_out(run_folder, tmp_path):
    workdir, subject = run_folder
    shutil.copy(workdir / "results.json", tmp_path)
    test = subject.features.test
    broken = dataclasses.replace(test, values=test.values.copy())
    broken.values[1, 0] = np.nan
    features = dataclasses.replace(subject.features, test=broken)
    page = Page(write_report(tmp_path, Subject(subject.run, subject.state, features)).read_text())
    for section in ("retrieval", "embedding"):
        assert "could not be made" in page.text[section]
    assert "could not be made" not in page.text["views"]


def test_faults_are_told_in_one_line(tmp_path):
    (tmp_path / "results.json").write_text("{torn")
    for arguments, told in (
        ([f"--workdir={tmp_path}"], "results.json"),
        ([f"--workdir={tmp_path / 'nowhere'}"], "nowhere"),
    ):
        command = [sys.executable, "-m", "wt_jax.tools.report", *arguments]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert told in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    with pytest.raises(ConfigError, match="is it the workdir of a run"):
        write_report(tmp_path / "nowhere", "no videos")


def test_a_strip_holds_its_frames_in_order():
    grays = np.arange(10, 250, 12)  # twice FRAMES
    clip = np.broadcast_to(grays[:, None, None, None].astype(np.uint8), (len(grays), 16, 16, 3))
    made = strip(clip)
    assert made.frames == FRAMES
    tiles = decoded(made.uri).reshape(SIDE, FRAMES, SIDE, 3).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(tiles, grays[::2], atol=4)
    assert strip(clip[:7]).frames == 7
    assert strip(clip[: FRAMES + 1]).frames == (FRAMES + 2) // 2


def test_pictures_keep_colors_and_places():
    red = np.zeros((3, 16, 16, 3), np.uint8)
    red[2, ..., 0] = 200
    whole = decoded(sheet(red, 16, 2))
    assert whole.shape == (32, 32, 3)
    np.testing.assert_allclose(whole[20:28, 4:12].mean(axis=(0, 1)), (0, 0, 200), atol=12)  # BGR
    assert whole[:16].max() < 60
    cells = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    np.testing.assert_array_equal(decoded(data_uri(cells, exact=True))[..., [2, 1, 0, 3]], cells)


def test_a_report_stays_small_whatever_the_videos_show():
    noise = np.random.default_rng(0).integers(0, 256, (40, 256, 256, 3), dtype=np.uint8)
    one = len(strip(noise[:, :SIDE, :SIDE]).uri)
    tiles = len(sheet(noise[:40, :40, :40], 40, pictures.TILE_COLUMNS)) * pictures.POINTS / 40
    clips = pictures.QUERIES * (1 + pictures.NEIGHBOURS) + 4 * pictures.VIDEOS + pictures.MOST_VIEWS * pictures.VIDEOS
    assert clips * one + tiles < 8e6


def test_curves_go_through_their_values():
    rows = [{"step": s, "loss": 5 - s / 100, "knn_top1": 0.5} for s in range(1, 1001)] + [{"step": 7, "rare": 3.0}]
    (loss, rare), constant = panels(rows)
    assert constant == {"knn_top1": "0.5"}
    assert (loss.name, loss.averaged, len(loss.points)) == ("loss", 3, 334)
    assert loss.last == "-5"
    (x0, y0, s0, _), (x1, y1, s1, _) = loss.points[0], loss.points[-1]
    assert s0 < s1
    assert x0 < x1
    assert y0 < y1  # down the page, as the values fall
    # The line is straight, so the place of a tick is the place of its value on it.
    zero = next(y for y, text in loss.y_ticks if text == "0")
    assert zero == pytest.approx(y0 + (y1 - y0) * (5 - 0.02) / (9.985), abs=0.3)
    assert rare.path.startswith("M")
    assert len(rare.points) == 1
    assert panels([{"step": 1, "loss": float("nan")}]) == ([], {})


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234.5, "1,234"), (0.09375, "0.0938"), (4.4e-4, "0.00044"), (1e-8, "1e-08"), (3e9, "3e+09"), (-0.5, "-0.5")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_contributions_add_up_to_the_length_of_the_feature():
    maps = np.random.default_rng(0).normal(size=(3, 2, 4, 5, 6)).astype(np.float32)
    mean = np.random.default_rng(1).normal(size=6)
    for taken, center in ((None, 0), (mean, mean)):
        length = np.linalg.norm(maps.mean(axis=(1, 2, 3)) - center, axis=1)
        np.testing.assert_allclose(contributions(maps, taken).mean(axis=(1, 2, 3)), length, rtol=1e-5)
    assert not contributions(np.zeros((1, 2, 2, 2, 3)), None).any()


def test_heat_lies_where_the_map_differs_and_is_seen_there():
    maps = np.ones((1, 4, 4, 4, 2))
    maps[0, :, 1, 2, 0] = 9
    warm = heat(contributions(maps, np.ones(2)), 8, 32)
    assert warm.shape == (1, 8, 32, 32)
    row, column = np.unravel_index(warm[0, 0].argmax(), (32, 32))
    assert 8 <= row < 16
    assert 16 <= column < 24
    assert (warm.min(), warm.max()) == (0, 1)
    clip = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    seen = overlay(clip, warm[0])
    cold = warm[0] == 0
    gray = clip.mean(axis=-1)[cold]
    np.testing.assert_allclose(seen[cold], np.repeat(gray[:, None], 3, axis=1), atol=0.5)
    assert np.ptp(seen[warm[0] == 1].astype(int), axis=-1).min() > 30


def test_focus_counts_heat_on_what_moves():
    clip = np.zeros((4, 8, 8, 3), np.uint8)
    clip[::2, :4, :4] = 255  # a quarter of the frame blinks
    moving = motion(clip)
    assert moving.shape == (4, 8, 8)
    np.testing.assert_array_equal(np.unique(moving), [0, 1])
    assert focus(np.ones((4, 8, 8)), moving) == pytest.approx(1)
    assert focus(moving, moving) == pytest.approx(4)
    assert focus(1 - moving, moving) == pytest.approx(0)
    assert focus(np.ones((1, 8, 8)), motion(clip[:1])) is None


def test_the_map_keeps_what_a_plane_can_keep():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 6))
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    places, share = pictures.plane(values)
    spectrum = np.sort(np.linalg.eigvalsh(np.cov(unit.T)))[::-1]
    assert share == pytest.approx(spectrum[:2].sum() / spectrum.sum())
    assert np.abs(places).max() == pytest.approx(1)
    # The ratio of the variances is kept: both axes are scaled alike.
    assert np.var(places[:, 0]) / np.var(places[:, 1]) == pytest.approx(spectrum[0] / spectrum[1])
    collapsed, share = pictures.plane(np.ones((5, 3)))
    assert (np.abs(collapsed).max(), share) == (0, 0)
    assert pictures.plane(rng.normal(size=(5, 1)))[0].shape == (5, 2)


def summary(numbers, **more):
    headings = {name: {"top1": "kNN", "top1_5%": "5% of labels"}.get(name) for name in numbers}
    headings = {name: heading for name, heading in headings.items() if heading}
    return Summary({}, headings, {name: Number(*number) for name, number in numbers.items()}, 1, 20, **more)


EVALUATION = Results(
    classes=["a<b>", "b"],
    splits=[{"name": "split1", "train": 30, "test": 20}],
    encoders={
        "random": {"knn": summary({"top1": (0.25, 0.1, 0.4)})},
        "ours": {
            "knn": summary(
                {"top1": (0.75, 0.5, 0.9), "top1_sweep": (0.8, 0.6, 0.95)},
                chosen=[{"split": "split1", "learning_rate": 0.123}],
                per_class=[0.8, None],
                confusion=[[8, 2], [3, 7]],
            ),
            "low_shot": summary({"top1_5%": (0.5, 0.3, 0.7)}),
        },
    },
    failures={"ours": {"linear": "the probe <diverged>"}},
)


def test_scores_are_read_and_the_best_is_marked():
    main, other = score_tables(EVALUATION)
    assert main["columns"] == [("kNN",), ("5% of labels",)]
    assert other["columns"] == [("knn", "top1_sweep")]
    (_, (random, nothing)), (_, (ours, _)) = main["rows"]
    assert nothing is None
    assert (random.value, ours.value, ours.low, ours.high) == (0.25, 0.75, 0.5, 0.9)
    assert (random.best, ours.best) == (False, True)
    even = Results(encoders={name: {"knn": summary({"top1": (1.0, 1.0, 1.0)})} for name in ("random", "ours")})
    (table,) = score_tables(even)
    assert not any(cells[0].best for _, cells in table["rows"])
    assert score_tables(Results()) == []


def test_the_report_of_an_evaluation(tmp_path):
    write_results(tmp_path, EVALUATION)
    assert read_results(tmp_path) == EVALUATION
    (tmp_path / "evaluation.json").write_text(
        json.dumps({"config": {"seed": 3}, "encoders": {"ours": "runs/<i>"}, "environment": {"python": "3.x"}})
    )
    page = Page(write_report(tmp_path, open_subject(tmp_path)).read_text())
    assert "75.0 50.0–90.0" in " ".join(page.text["results"].split())
    assert "Not evaluated: ours, linear: the probe <diverged>" in page.text["results"]
    assert "0.123" not in page.text["results"]
    assert "runs/<i>" in page.text["header"]
    assert "ours, knn: 75.0\xa0% of 20 are right" in " ".join(page.text["classes"].split(" ")).replace("\n", " ")
    assert "a<b> predicted as b: 2" in page.text["classes"]
    assert "report of its own run" in page.text["attention"]
    (matrix,) = (a for a in page.all("img") if a.get("class") == "counts")
    assert json.loads(matrix["data-cells"]) == [[0, 0, 8], [0, 1, 2], [1, 0, 3], [1, 1, 7]]


def test_results_that_cannot_be_read_are_named(tmp_path):
    for text in ("{torn", "[]", '{"pre-trained": {"knn_top1": 0.5}}'):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(ConfigError, match=r"results\.json cannot be read"):
            read_results(tmp_path)
    assert read_results(tmp_path / "nowhere") is None


def test_classes_count_what_is_predicted_as_what():
    counts = np.array([[1, 0, 2, 0], [1, 1, 0, 0], [0] * 4, [0] * 4])
    found = classes("kNN", counts, ["a", "b", "c", "d"])
    assert found["accuracy"].value == pytest.approx(0.4)
    assert [(b["name"], b["count"], b["score"].value) for b in found["bars"]] == [("a", 3, pytest.approx(1 / 3)), ("b", 2, 0.5)]
    assert found["cells"] == [[0, 0, 1], [0, 2, 2], [1, 0, 1], [1, 1, 1]]
    assert found["confusions"][0] == {"true": "a", "predicted": "c", "count": 2}
    alpha = decoded(found["picture"])[..., 3]
    assert ((alpha > 0) == (counts > 0)).all()
    assert alpha[0, 2] > alpha[0, 0]


def test_intervals_of_classes_are_those_of_the_bootstrap():
    hits = np.array([True] * 30 + [False] * 10)
    (bar,) = classes("kNN", np.array([[30, 10], [0, 0]]), ["a", "b"])["bars"]
    np.testing.assert_allclose((bar["score"].low, bar["score"].high), bootstrap_interval(hits), atol=0.026)


def test_table_is_aligned_markdown():
    rows = [("random", {"knn_top1": 0.125, "extra": 9}), ("pre-trained", {"knn_top1": 1, "recall@1": float("nan")})]
    assert format_table(rows, ["knn_top1", "recall@1"]).splitlines() == [
        "|             | knn_top1 | recall@1 |",
        "| ----------- | -------: | -------: |",
        "| random      |     12.5 |        - |",
        "| pre-trained |    100.0 |        - |",
    ]
