"""What the page shows and the interface behind it answers."""

import csv
import io
import json
import zipfile

import av
import numpy as np
import pytest

pytest.importorskip("httpx2", reason="the extra `dev` is not installed")
pytest.importorskip("faiss", reason="the extra `search` is not installed")

from starlette.testclient import TestClient
from support.search import write_video

from wt_jax.data.sources.open import open_source
from wt_jax.search.engine import Engine
from wt_jax.search.web import serve
from wt_jax.search.web.app import Limits, create_app
from wt_jax.search.web.security import Tokens
from wt_jax.tools import search_index

BASE, TOKENS = "http://127.0.0.1", Tokens("the secret of this test")


def client_of(index, **limits) -> TestClient:
    app = create_app(Engine(index), TOKENS, serve.host_names("127.0.0.1"), Limits(readers=1, **limits))
    return TestClient(app, BASE, headers={"authorization": f"Bearer {TOKENS.token}"})


@pytest.fixture(scope="module")
def client(index):
    with client_of(index) as client:
        yield client


def test_every_page_is_there(client):
    for address in ("/", "/video/1", "/map", "/duplicates", "/about"):
        answer = client.get(address)
        assert answer.status_code == 200
        assert 'lang="en"' in answer.text
        assert "<main" in answer.text
    assert client.get("/video/99").status_code == 404


def test_a_moment_finds_itself_first_with_all_that_a_person_wants_to_know(client):
    answer = client.get("/api/search?q=m10&n=5").json()
    first = answer["results"][0]
    assert (first["moment"], answer["alike"]) == (10, True)
    assert first["score"] > 0.999
    assert first["percentile"] == 100
    assert (first["start"], first["end"]) == (1.5, 2.5)
    assert first["video"]["name"].endswith(".mp4")
    assert not first["video"]["name"].startswith("/")
    assert first["video"]["label"] in "abc"
    assert len(answer["results"]) == 5


def test_filters_threshold_and_one_per_video(client):
    def found(more: str) -> list[dict]:
        return client.get(f"/api/search?q=m10&n=50&{more}").json()["results"]

    assert {r["video"]["label"] for r in found("label=a&label=b")} == {"a", "b"}
    assert {r["video"]["name"].split("/")[0] for r in found("folder=c")} == {"c"}
    assert len({r["video"]["id"] for r in found("one_per_video=1")}) == len(found("one_per_video=1")) == 12
    assert all(r["score"] >= 0.3 for r in found("threshold=0.3"))
    assert not found("duration_from=5")
    assert len(found("duration_to=5")) == 50
    assert not found("changed_to=10")
    assert {r["video"]["id"] for r in found("not_video=2")}.isdisjoint({2})


def test_counterexamples_change_the_order(client):
    plain = [r["moment"] for r in client.get("/api/search?q=m10&n=50").json()["results"]]
    changed = [r["moment"] for r in client.get(f"/api/search?q=m10&q=-m{plain[1]}&n=50").json()["results"]]
    assert changed[0] == 10
    assert plain[1] not in changed[:5]


def test_nothing_alike_is_said(client, monkeypatch):
    scan = client.app.state.site.engine.scan
    monkeypatch.setitem(scan.__dict__, "least_alike", 1.1)
    answer = client.get("/api/search?q=m10").json()
    assert not answer["alike"]
    assert answer["results"]


def test_a_dropped_clip_finds_its_video(client, archive):
    sent = client.post("/api/clips", content=(archive / "a" / "03.mp4").read_bytes()).json()
    assert sent["duration"] == 4.0
    best = client.get(f"/api/search?q=c{sent['clip']}@1.00-2.00").json()["results"][0]
    assert (best["video"]["name"], best["start"]) == ("a/03.mp4", 1.0)
    assert best["score"] > 0.999
    shown = client.get(f"/clip/{sent['clip']}.mp4").content
    with av.open(io.BytesIO(shown)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 48
    for times in ("3-1", "9-10", "0-0"):
        assert client.get(f"/api/search?q=c{sent['clip']}@{times}").status_code == 400


def test_thumbnails_are_small_moving_and_cached_with_a_bound(index, archive, tmp_path):
    import shutil

    shutil.copytree(index, tmp_path / "index")
    with client_of(tmp_path / "index", cache_bytes=20_000) as client:
        for moment in range(20):
            content = client.get(f"/thumb/{moment}.mp4").content
            assert len(content) < 12_000
            with av.open(io.BytesIO(content)) as container:
                assert container.streams.video[0].codec_context.name == "h264"
                assert 2 <= sum(1 for _ in container.decode(video=0)) <= 16
        kept = list((tmp_path / "index" / "cache").glob("*.mp4"))
        assert kept
        assert sum(path.stat().st_size for path in kept) <= 20_000
        part = client.get("/thumb/19.mp4", headers={"range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, content[10:20])
        pool = client.app.state.site.pool
        pool.run = None  # what is kept is not made again
        assert client.get("/thumb/19.mp4").content == content


def test_a_full_disk_costs_the_cache_and_not_the_page(client, monkeypatch, caplog):
    import pathlib

    def full(self, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_bytes", full)
        assert client.get("/thumb/77.mp4").status_code == 200
        trouble = client.get("/api/info").json()["trouble"]
    assert "No space left on device" in trouble[0]["reason"]
    assert "No space left" in caplog.text


def test_a_disk_that_becomes_full_is_named_on_the_page_and_in_the_log(client, monkeypatch, caplog):
    from types import SimpleNamespace

    from wt_jax.search.web import library

    site = client.app.state.site
    with monkeypatch.context() as patch:
        patch.setattr(library.shutil, "disk_usage", lambda _: SimpleNamespace(free=3 << 20))
        site.library.check_disk()
        (trouble,) = [one for one in client.get("/api/info").json()["trouble"] if one["name"] == "the disk of the index"]
    assert "it is full (3 MiB are left)" in trouble["reason"]
    assert "it is full (3 MiB are left)" in caplog.text
    site.library.check_disk()
    assert "there is room again" in caplog.text
    assert all(one["name"] != "the disk of the index" for one in client.get("/api/info").json()["trouble"])


def test_clips_that_a_killed_server_left_are_removed(client, tmp_path, monkeypatch):
    from wt_jax.search.web import uploads

    monkeypatch.setattr(uploads.tempfile, "tempdir", str(tmp_path))
    site = client.app.state.site
    living = uploads.Uploads(site.engine, site.upload_pool, 1)
    left = tmp_path / "wt_jax-clips-left"
    left.mkdir()
    for name in ("lock", "clip"):
        (left / name).write_bytes(b"")
    (tmp_path / "wt_jax-clips-of-something-else").mkdir()
    another = uploads.Uploads(site.engine, site.upload_pool, 1)
    assert not left.exists()
    assert len(list(tmp_path.glob("wt_jax-clips-*/lock"))) == 2
    for one in (living, another):
        one.close()
    assert [path.name for path in tmp_path.iterdir()] == ["wt_jax-clips-of-something-else"]


def test_videos_play_in_ranges_and_others_are_encoded_anew(tmp_path, encoder_file, archive):
    write_video(tmp_path / "videos" / "plain.mp4", 1, seconds=2)
    with av.open(str(tmp_path / "videos" / "old.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width = stream.height = 48
        stream.pix_fmt = "yuv420p"
        for number in range(36):
            frame = av.VideoFrame.from_ndarray(np.full((48, 48, 3), 5 * number, np.uint8), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    search_index.main([str(tmp_path / "videos"), f"--index={tmp_path / 'i'}", f"--encoder={encoder_file}", "--workers=0"])
    with client_of(tmp_path / "i") as client:
        ids = {m["video"]["name"]: m["video"]["id"] for m in client.get("/api/browse").json()["moments"]}
        plain, old = (client.get(f"/api/videos/{ids[name]}").json() for name in ("plain.mp4", "old.avi"))
        assert (plain["facts"]["playable"], old["facts"]["playable"]) == (True, False)
        part = client.get(f"/media/{ids['plain.mp4']}", headers={"range": "bytes=0-99"})
        assert (part.status_code, len(part.content)) == (206, 100)
        for start, frames in ((0, 36), (2, 12)):
            with av.open(io.BytesIO(client.get(f"/media/{ids['old.avi']}?from={start}").content)) as container:
                assert container.streams.video[0].codec_context.name == "h264"
                assert sum(1 for _ in container.decode(video=0)) == frames


def test_the_strip_shows_where_in_a_video_it_is_alike(client):
    best = client.get("/api/search?q=m10").json()["results"][0]
    video = client.get(f"/api/videos/{best['video']['id']}").json()
    strip = client.get(f"/api/videos/{best['video']['id']}/strip?q=m10").json()
    assert len(strip["scores"]) == len(video["moments"]) == 7
    assert video["moments"][strip["marks"][0]]["moment"] == 10
    assert strip["scores"][strip["marks"][0]] == max(strip["scores"])


@pytest.fixture(scope="module")
def long_index(tmp_path_factory, encoder_file):
    """A long video, its near copy, and others."""
    folder = tmp_path_factory.mktemp("long")
    for number in range(4):
        write_video(folder / "videos" / f"{number}.mp4", number + 50, seconds=5)
    write_video(folder / "videos" / "long.mp4", 1, seconds=30)
    write_video(folder / "videos" / "a copy of 0.mp4", 50, seconds=5)
    search_index.main([str(folder / "videos"), f"--index={folder / 'index'}", f"--encoder={encoder_file}", "--workers=0"])
    return folder


def test_a_short_clip_is_found_inside_a_long_video(long_index, tmp_path):
    with client_of(long_index / "index") as client, av.open(str(long_index / "videos" / "long.mp4")) as source:
        frames = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
        with av.open(str(tmp_path / "cut.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=12, options={"crf": "28"})
            stream.width = stream.height = 48
            stream.pix_fmt = "yuv420p"
            for number, picture in enumerate(frames[153:201]):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        clip = client.post("/api/clips", content=(tmp_path / "cut.mp4").read_bytes()).json()["clip"]
        best = client.get(f"/api/find?q=c{clip}@0-4").json()["results"][0]
    assert best["video"]["name"] == "long.mp4"
    assert abs(best["start"] - 12.75) <= 0.5  # between two moments
    assert abs(best["end"] - 16.75) <= 0.75


def test_near_duplicates_are_named_once(long_index):
    with client_of(long_index / "index") as client:
        (pair,) = client.get("/api/duplicates").json()["pairs"]
        assert {m["video"]["name"] for m in pair["moments"]} == {"0.mp4", "a copy of 0.mp4"}
        assert pair["fraction"] == 1
        other = next(m["video"]["id"] for m in client.get("/api/browse").json()["moments"] if m["video"]["name"] == "3.mp4")
        assert client.get(f"/api/duplicates?video={other}").json()["pairs"] == []


def test_the_map_has_every_moment(client):
    answer = client.get("/api/map").json()
    assert answer["moments"] == list(range(12 * 7))
    points = np.array(answer["points"])
    assert points.min() >= 0
    assert points.max() <= 1
    assert len(answer["names"]) == 12


def exported(client, kind: str, count: int = 4):
    found = client.get(f"/api/search?q=m10&n={count}").json()["results"]
    rows = [{"moment": r["moment"], "score": r["score"]} for r in found]
    answer = client.post("/api/export", json={"format": kind, "moments": rows})
    assert answer.status_code == 200
    assert "attachment" in answer.headers["content-disposition"]
    return found, answer


def test_results_are_exported(client, archive, tmp_path):
    found, answer = exported(client, "csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["path"], float(row["start"])) for row in rows] == [(r["video"]["name"], r["start"]) for r in found]
    found, answer = exported(client, "json")
    assert [row["score"] for row in answer.json()["moments"]] == [r["score"] for r in found]
    found, answer = exported(client, "fiftyone")
    first = found[0]["video"]["name"].removesuffix(".mp4")
    assert answer.json()["labels"][first][0]["timestamps"] == [found[0]["start"], found[0]["end"]]
    found, answer = exported(client, "list", count=20)
    (tmp_path / "list.csv").write_text(answer.text)
    videos = open_source(str(tmp_path / "list.csv"), root=str(archive))  # training takes it
    assert len(videos) == len({r["video"]["id"] for r in found})
    assert all(path.startswith(str(archive)) for path in videos.paths)
    found, answer = exported(client, "clips")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive_file:
        assert len(archive_file.namelist()) == 4
        with av.open(io.BytesIO(archive_file.read(archive_file.namelist()[0]))) as container:
            assert sum(1 for _ in container.decode(video=0)) == 12  # a second
    found, answer = exported(client, "html")
    assert answer.text.count("data:video/mp4;base64,") == 4
    assert "http" not in answer.text.replace("http-equiv", "")
    assert client.post("/api/export", json={"format": "exe", "moments": [{"moment": 1, "score": 0}]}).status_code == 400


def test_cells_are_no_formulas():
    from wt_jax.search.web.exports import _csv

    row = {"path": "=cmd.mp4", "start": 0, "end": 1, "score": 0, "percentile": 0, "label": "+1", "moment": 0}
    assert "./=cmd.mp4" in _csv([row])
    assert ",./+1," in _csv([row])


def test_what_is_indexed_meanwhile_appears(tmp_path, encoder_file):
    write_video(tmp_path / "videos" / "a.mp4", 1, seconds=2)
    order = [str(tmp_path / "videos"), f"--index={tmp_path / 'index'}", "--workers=0"]
    search_index.main([*order, f"--encoder={encoder_file}"])
    with client_of(tmp_path / "index") as client:
        assert client.get("/api/info").json()["videos"] == 1
        write_video(tmp_path / "videos" / "b.mp4", 2, seconds=2)
        (tmp_path / "videos" / "bad.mp4").write_bytes(b"broken")
        search_index.main(order)
        client.app.state.site.engine.refresh()
        info = client.get("/api/info").json()
    assert info["videos"] == 2
    assert [failure["name"] for failure in info["failures"]] == ["bad.mp4"]  # named on the page


def test_a_page_of_moments_is_light(client):
    addresses = ["/", "/static/style.css", "/static/app.js", "/static/icon.svg", "/api/info", "/api/search?q=m10"]
    total = 0
    for address in addresses:
        with client.stream("GET", address, headers={"accept-encoding": "gzip"}) as answer:
            total += sum(map(len, answer.iter_raw()))
    moments = json.loads(client.get("/api/search?q=m10").content)["results"]
    total += sum(len(client.get(f"/thumb/{moment['moment']}.mp4").content) for moment in moments)
    assert len(moments) == 24
    assert total < 200_000
