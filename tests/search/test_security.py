"""Each test here fails without the measure that it names."""

import asyncio
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

pytest.importorskip("httpx2", reason="the extra `dev` is not installed")
pytest.importorskip("faiss", reason="the extra `search` is not installed")

import httpx2 as httpx
from starlette.testclient import TestClient
from support.search import write_video

from wt_jax.search.engine import Engine
from wt_jax.search.web import serve
from wt_jax.search.web.app import Limits, create_app
from wt_jax.search.web.security import COOKIE, Tokens
from wt_jax.tools import search_index

BASE = "http://127.0.0.1"
TOKENS = Tokens("the secret of this test")


@pytest.fixture(scope="module")
def engine(index):
    return Engine(index)


@pytest.fixture(scope="module")
def app(engine):
    return create_app(engine, TOKENS, serve.host_names("127.0.0.1"), Limits(upload_bytes=1 << 20, readers=1))


@pytest.fixture(scope="module")
def opened(app):
    """The application, started."""
    with TestClient(app, BASE, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(app, opened):
    """A stranger."""
    return TestClient(app, BASE, raise_server_exceptions=False)


@pytest.fixture
def person(client):
    """Somebody who opened the link; with the word against forged requests in the headers."""
    assert client.get("/", params={"token": TOKENS.token}).status_code == 200
    session = TOKENS.session_of(client.cookies[COOKIE])
    client.headers["x-csrf-token"] = TOKENS.csrf(session)
    return client


ADDRESSES = [
    "/",
    "/about",
    "/api/info",
    "/api/search?q=m0",
    "/api/map",
    "/thumb/0.mp4",
    "/media/1",
    "/static/app.js",
]


def test_it_listens_to_this_machine_alone(index, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "wt_jax.tools.search", "x", f"--index={index}", "--no_open", "--no_index"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            link = next(line.strip() for line in process.stdout if "http://" in line)
            address, token = re.fullmatch(r"http://(127\.0\.0\.1:\d+)/\?token=([\w-]{20,})", link).groups()
            port = int(address.partition(":")[2])
            lines = pathlib.Path("/proc/net/tcp").read_text().splitlines()
            listening = {line.split()[1] for line in lines if line.split()[3] == "0A"}
            assert f"0100007F:{port:04X}" in listening
            assert f"00000000:{port:04X}" not in listening
            answer = httpx.get(f"http://{address}/api/info", headers={"authorization": f"Bearer {token}"}, timeout=60)
            assert answer.json()["videos"] == 12
            assert httpx.get(f"http://{address}/api/info").status_code == 401
        finally:
            process.kill()


@pytest.mark.parametrize("address", ADDRESSES)
def test_nothing_is_shown_without_the_token(client, address):
    answer = client.get(address)
    assert answer.status_code == 401
    assert "mp4" not in answer.text.replace(address, "")
    assert client.get(address, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get(address, params={"token": "wrong"}).status_code == 401
    assert client.get(address, headers={"cookie": f"{COOKIE}=name.{'0' * 64}"}).status_code == 401


def test_another_address_has_a_token_too(engine):
    for host in ("0.0.0.0", "192.0.2.7"):
        app = create_app(engine, Tokens(), serve.host_names(host))
        assert TestClient(app, BASE).get("/api/info").status_code == 401


def test_the_cookie_is_kept_from_scripts_and_other_sites(client):
    answer = client.get("/video/1", params={"token": TOKENS.token}, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/video/1"  # the token does not stay in the address
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKENS.token not in cookie


def test_the_link_leads_nowhere_else(client):
    token = TOKENS.token.replace(" ", "%20")
    for path in ("//evil.example/", "///evil.example/", "/\\evil.example/"):
        address = httpx.URL(BASE).copy_with(raw_path=f"{path}?token={token}".encode())
        answer = client.send(httpx.Request("GET", address), follow_redirects=False)
        assert not answer.headers["location"].startswith(("//", "/\\", "http"))


def test_other_names_are_refused(person):
    """DNS rebinding: a site whose name has been pointed at this machine sends its own name."""
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        assert person.get("/api/info", headers={"host": host}).status_code == 400
    assert person.get("/api/info", headers={"host": "localhost:8080"}).status_code == 200


def test_forged_requests_are_refused(person):
    body = {"format": "csv", "moments": [{"moment": 0, "score": 1}]}
    assert person.post("/api/export", json=body).status_code == 200
    assert person.post("/api/export", json=body, headers={"origin": "http://evil.example"}).status_code == 403
    assert person.post("/api/export", json=body, headers={"origin": BASE}).status_code == 200
    del person.headers["x-csrf-token"]
    for headers in ({}, {"x-csrf-token": "wrong"}, {"x-csrf-token": TOKENS.csrf("another session")}):
        assert person.post("/api/export", json=body, headers=headers).status_code == 403
        assert person.post("/api/clips", content=b"x", headers=headers).status_code == 403


def test_programs_with_the_token_need_no_cookie(client):
    answer = client.post(
        "/api/export",
        json={"format": "csv", "moments": [{"moment": 0, "score": 1}]},
        headers={"authorization": f"Bearer {TOKENS.token}"},
    )
    assert answer.status_code == 200


def test_no_address_takes_a_path(person, archive):
    secret = archive.parent / "secret.txt"
    secret.write_text("a secret")
    for address in (
        f"/media/{secret}",
        "/media/..%2f..%2fetc%2fpasswd",
        "/static/..%2fapp.py",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/thumb/..%2f1.mp4",
        "/clip/..%2f..%2fetc%2fpasswd.mp4",
    ):
        headers = {"authorization": f"Bearer {TOKENS.token}"}  # a request that is built by hand carries no cookie
        answer = person.send(httpx.Request("GET", httpx.URL(BASE).copy_with(raw_path=address.encode()), headers=headers))
        assert answer.status_code in (404, 410), address
        assert "secret" not in answer.text.replace(str(secret), "")
        assert "import" not in answer.text


@pytest.fixture
def own_index(tmp_path, encoder_file):
    """A small index of its own: folder of videos, and a client of its application."""
    videos = tmp_path / "videos"
    write_video(videos / "a.mp4", 1, seconds=2)
    write_video(tmp_path / "outside.mp4", 2, seconds=2)
    os.symlink(tmp_path / "outside.mp4", videos / "link.mp4")
    search_index.main([str(videos), f"--index={tmp_path / 'index'}", f"--encoder={encoder_file}", "--workers=0"])
    app = create_app(Engine(tmp_path / "index"), TOKENS, serve.host_names("127.0.0.1"), Limits(readers=1))
    headers = {"authorization": f"Bearer {TOKENS.token}"}
    with TestClient(app, BASE, raise_server_exceptions=False, headers=headers) as client:
        yield videos, client


def test_files_outside_the_roots_are_not_served(own_index):
    videos, client = own_index
    found = {m["video"]["name"]: m for m in client.get("/api/browse").json()["moments"]}
    inside, outside = found["a.mp4"], found["link.mp4"]
    site = client.app.state.site
    shot = site.engine.scan.snapshot
    assert site.library.file(shot.videos[inside["video"]["id"]], shot) == str(videos.resolve() / "a.mp4")
    for address in (f"/media/{outside['video']['id']}", f"/thumb/{outside['moment']}.mp4"):
        answer = client.get(address)
        assert answer.status_code == 404
        assert "outside the folders" in answer.json()["error"]


def test_a_file_that_was_replaced_or_deleted_is_named_and_not_served(own_index, caplog):
    videos, client = own_index
    moment = next(m for m in client.get("/api/browse").json()["moments"] if m["video"]["name"] == "a.mp4")
    (videos / "a.mp4").write_bytes(b"something else")
    assert client.get(f"/thumb/{moment['moment']}.mp4").status_code == 409
    assert "changed since it was indexed" in caplog.text
    (videos / "a.mp4").unlink()
    assert client.get(f"/media/{moment['video']['id']}").status_code == 404
    assert "the file is gone" in caplog.text
    assert {"name": "a.mp4", "reason": "the file is gone"} in client.get("/api/info").json()["trouble"]


def test_names_are_escaped(tmp_path, encoder_file):
    name = '"><script>alert(1)</script>&.mp4'
    write_video(tmp_path / "videos" / "plain.mp4", 1, seconds=1)
    os.rename(tmp_path / "videos" / "plain.mp4", tmp_path / "videos" / name.replace("/", "\u2215"))
    write_video(tmp_path / "videos" / "b.mp4", 2, seconds=1)
    search_index.main([str(tmp_path / "videos"), f"--index={tmp_path / 'index'}", f"--encoder={encoder_file}", "--workers=0"])
    app = create_app(Engine(tmp_path / "index"), TOKENS, serve.host_names("127.0.0.1"), Limits(readers=1))
    with TestClient(app, BASE, headers={"authorization": f"Bearer {TOKENS.token}"}) as client:
        moments = client.get("/api/browse").json()["moments"]
        rows = [{"moment": m["moment"], "score": 0.5} for m in moments]
        page = client.post("/api/export", json={"format": "html", "moments": rows}).text
        assert "<script" not in page
        assert "&lt;script&gt;" in page
        for address in ("/", "/video/1", "/about"):
            assert "alert(1)" not in client.get(address).text  # names come by JSON, and become text nodes
        assert client.get("/api/info").headers["content-type"] == "application/json"
    script = pathlib.Path(serve.__file__).with_name("static") / "app.js"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script.read_text())


def test_nothing_but_the_pages_own_script_runs(person):
    for address in ("/", "/video/1", "/map", "/duplicates", "/about", "/api/info", "/nowhere"):
        answer = person.get(address)
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        if "html" in answer.headers["content-type"]:
            assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", answer.text)
            assert not re.search(r"(?:src|href)=\"(?!/|#)", answer.text)  # no other host


def test_uploads_are_bounded_by_what_arrives(person):
    """Without a Content-Length, or with a false one, too."""
    sent = []

    def endless():
        while len(sent) < 1000:
            sent.append(1)
            yield b"\0" * (1 << 18)

    answer = person.post("/api/clips", content=endless())
    assert answer.status_code == 413
    assert "1 MiB" in answer.json()["error"]
    assert [path.name for path in person.app.state.site.uploads._folder.iterdir()] == ["lock"]  # nothing is left of it


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile://{path}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {path}\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>file://{path}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "image": "P6 2 2 255\n" + "x" * 12,
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_opens_no_other_file(person, archive, kind):
    other = archive / "a" / "00.mp4"
    before = os.stat(other).st_atime_ns
    answer = person.post("/api/clips", content=PLAYLISTS[kind].format(path=other).encode())
    assert answer.status_code == 415
    assert "no video of a kind that is read here" in answer.json()["error"]
    assert os.stat(other).st_atime_ns == before


def test_a_decoder_that_hangs_or_eats_memory_ends_alone(person, monkeypatch, archive):
    from wt_jax.search.media import MediaError, MediaPool

    good = str(archive / "a" / "00.mp4")
    pool = MediaPool(1)
    try:
        pool.run("facts", good, seconds=60)
        start = time.monotonic()
        with pytest.raises(MediaError, match="takes too long"):
            pool.run("play", good, seconds=0.001, start=0.0, side=64)
        assert time.monotonic() - start < 5
        assert pool.run("facts", good, seconds=60)[0]["duration"] == 4.0  # by a new process
    finally:
        pool.close()
    small = MediaPool(1, memory_bytes=200 << 20)
    try:
        with pytest.raises(MediaError, match=r"memory|ended its process"):
            small.run("facts", good, seconds=60)
    finally:
        small.close()


def test_the_process_that_decodes_can_write_nothing(tmp_path):
    """And opens few files."""
    code = (
        "import sys; sys.argv = ['x', str(4 << 30)]; sys.stdin = open('/dev/null')\n"
        "from wt_jax.search import media_worker; media_worker.main()\n"
        f"file = open({str(tmp_path / 'x')!r}, 'wb', buffering=0)\n"
        "try:\n    file.write(b'x' * 10)\nexcept OSError as error:\n    sys.stderr.write(error.strerror)\n"
        "try:\n    n = [open('/dev/null') for _ in range(99)]\nexcept OSError as error:\n    sys.stderr.write(error.strerror)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "File too largeToo many open files"
    assert (tmp_path / "x").stat().st_size == 0


def test_uploads_have_processes_of_their_own(person):
    site = person.app.state.site
    with site.uploads._pool._worker(30):  # busy with somebody's clip
        assert person.get("/thumb/40.mp4").status_code == 200


def test_errors_name_nothing_of_the_disk(person, engine, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise OSError(5, "Input/output error", f"{tmp_path}/private/index.sqlite")

    answers = [
        person.get("/api/search?q=m99999999"),
        person.get("/api/search?q=x"),
        person.get("/api/search"),
        person.get("/api/search?q=m0&n=x"),
        person.get("/api/search?q=cnone@0-1"),
        person.get("/api/videos/999"),
        person.get("/thumb/999999.mp4"),
        person.get("/nowhere"),
        person.post("/api/clips", content=b"no video"),
        person.post("/api/export", content=b"[" * 100000),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(type(engine), "search", broken)
        answers.append(person.get("/api/search?q=m0"))
    assert [answer.status_code for answer in answers] == [410, 400, 400, 400, 410, 404, 410, 404, 415, 400, 500]
    for answer in answers:
        assert answer.json()["error"].endswith(".")
        assert not re.search(r"/tmp|/home|/root|\.py|Traceback|sqlite|Error\b", answer.text)


def test_clips_belong_to_their_session(app, opened, person, archive):
    answer = person.post("/api/clips", content=(archive / "a" / "00.mp4").read_bytes())
    assert answer.status_code == 201
    key = answer.json()["clip"]
    assert person.get(f"/api/search?q=c{key}@0-1").status_code == 200
    other = TestClient(app, BASE, raise_server_exceptions=False)
    other.get("/", params={"token": TOKENS.token})
    assert other.get(f"/api/search?q=c{key}@0-1").status_code == 410
    assert other.get(f"/clip/{key}.mp4").status_code == 410


def test_clips_are_few_per_session(person, archive):
    content = (archive / "a" / "00.mp4").read_bytes()
    keys = [person.post("/api/clips", content=content).json()["clip"] for _ in range(9)]
    codes = [person.get(f"/api/search?q=c{key}@0-1").status_code for key in keys]
    assert codes == [410] + [200] * 8


@pytest.fixture
def running(app, engine):
    """A real server, so that requests truly come at once; its address."""
    import uvicorn

    fresh = create_app(engine, TOKENS, serve.host_names("127.0.0.1"), Limits(readers=1))
    sock = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(fresh, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


async def _session(address: str) -> httpx.AsyncClient:
    client = httpx.AsyncClient(base_url=address, timeout=60, limits=httpx.Limits(max_connections=100))
    await client.get("/", params={"token": TOKENS.token}, follow_redirects=True)
    return client


def test_one_persons_searches_do_not_stall_anothers(running, engine, monkeypatch):
    real, release = type(engine).search, threading.Event()

    def blocked(self, *arguments, count=24, **more):
        if count == 11:  # what the greedy person asks
            release.wait(60)
        return real(self, *arguments, count=count, **more)

    monkeypatch.setattr(type(engine), "search", blocked)

    async def both() -> list[int]:
        greedy, other = await _session(running), await _session(running)
        many = [asyncio.create_task(greedy.get("/api/search?q=m0&n=11")) for _ in range(90)]
        try:
            await asyncio.wait(many, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            for _ in range(5):  # while all that the greedy person may ask at once is under way
                assert (await asyncio.wait_for(other.get("/api/search?q=m1"), 30)).status_code == 200
            return [task.result().status_code for task in many if task.done()]
        finally:
            release.set()
            await asyncio.gather(*many, return_exceptions=True)

    refused = asyncio.run(both())
    assert set(refused) == {429}  # those beyond what may wait
    assert len(refused) >= 20


def test_uploads_of_one_do_not_stall_anothers_search(running, archive):
    async def both() -> float:
        sender, other = await _session(running), await _session(running)
        sender.headers["x-csrf-token"] = TOKENS.csrf(TOKENS.session_of(sender.cookies[COOKIE]))

        async def drip():
            for _ in range(1000):
                yield b"x"
                await asyncio.sleep(0.05)

        uploads = [asyncio.create_task(sender.post("/api/clips", content=drip())) for _ in range(8)]
        await asyncio.sleep(0.5)
        start = time.monotonic()
        for _ in range(5):
            assert (await other.get("/api/search?q=m1")).status_code == 200
        took = time.monotonic() - start
        for task in uploads:
            task.cancel()
        await asyncio.gather(*uploads, return_exceptions=True)
        return took

    assert asyncio.run(both()) < 20


def fuzzed(person, archive, count: int) -> None:
    """Damaged clips in turn with searches: each is answered, and none takes long."""
    rng = np.random.default_rng(0)
    good = (archive / "b" / "01.mp4").read_bytes()
    codes = []
    for number in range(count):
        content = bytearray(good)
        match number % 4:
            case 0:
                for place in rng.integers(len(content), size=rng.integers(1, 40)):
                    content[place] = rng.integers(256)
            case 1:
                del content[int(rng.integers(len(content))) :]
            case 2:
                place = int(rng.integers(len(content) - 200))
                content[place : place + 200] = rng.bytes(200)
            case 3:
                content = bytearray(rng.bytes(int(rng.integers(1, 4000))))
        start = time.monotonic()
        answer = person.post("/api/clips", content=bytes(content))
        codes.append(answer.status_code)
        if answer.status_code == 201:
            found = person.get(f"/api/search?q=c{answer.json()['clip']}@0-1")
            assert found.status_code in (200, 400, 415), found.text
        assert time.monotonic() - start < 40
    assert set(codes) <= {201, 415}
    assert codes.count(415) >= count // 4
    assert person.get("/api/search?q=m0").status_code == 200


def test_damaged_uploads_are_answered(person, archive):
    fuzzed(person, archive, 24)


@pytest.mark.slow
def test_five_hundred_damaged_uploads_are_answered(person, archive):
    fuzzed(person, archive, 500)


def test_the_state_of_the_index_is_readable_json(person):
    assert json.loads(person.get("/api/info").content)["moments"] == 12 * 7
