"""`kill -9` at random moments, while videos are indexed and while they are served: what was acknowledged is never lost."""

import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("httpx2", reason="the extra `dev` is not installed")

import httpx2 as httpx
from support.search import write_video

from wt_jax.search.store import open_store
from wt_jax.tools import search_index

_COMMIT_OFTEN = (
    "from wt_jax.search import build\nbuild._COMMIT_SECONDS = 0.0\nfrom wt_jax.tools.search_index import main\nmain()"
)


def features_by_path(index) -> dict[str, np.ndarray]:
    """What is committed; nothing where the index is only being made."""
    if not (index / "index.sqlite").exists():
        return {}
    with open_store(index) as store:
        found = store.snapshot()
    return {v.path: np.array(found.features[found.rows[found.video_ids == v.id]]) for v in found.videos.values()}


def assert_kept(acknowledged: dict[str, np.ndarray], index) -> dict[str, np.ndarray]:
    now = features_by_path(index)
    for path, features in acknowledged.items():
        assert np.array_equal(now[path], features), "an acknowledged moment was lost or changed"
    return now


def index_command(videos, index, encoder_file) -> list[str]:
    return [sys.executable, "-c", _COMMIT_OFTEN, str(videos), f"--index={index}", f"--encoder={encoder_file}", "--workers=0"]


def killed_while_indexing(tmp_path, encoder_file, kills: int) -> None:
    videos, index, count = tmp_path / "videos", tmp_path / "index", 40
    for number in range(count):
        write_video(videos / f"{number:02}.mp4", number, seconds=2)
    command = index_command(videos, index, encoder_file)
    rng, acknowledged, died = random.Random(0), {}, 0
    while died < kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline, aim = time.monotonic() + 60, len(acknowledged) + rng.randint(0, 6)
        # Some into the start, most into the work, once so many videos more are committed.
        while process.poll() is None and time.monotonic() < deadline and len(features_by_path(index)) < aim + 1:
            time.sleep(rng.random() * 0.02)
        seen = assert_kept(acknowledged, index)
        process.send_signal(signal.SIGKILL)
        died += process.wait() == -signal.SIGKILL  # the others were done before
        acknowledged = assert_kept(seen, index)
        if len(acknowledged) == count:
            shutil.rmtree(index)
            acknowledged = {}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert len(assert_kept(acknowledged, index)) == count


def test_what_is_committed_survives_kills(tmp_path, encoder_file):
    killed_while_indexing(tmp_path, encoder_file, kills=1)


@pytest.mark.slow
def test_what_is_committed_survives_a_hundred_kills(tmp_path, encoder_file):
    killed_while_indexing(tmp_path, encoder_file, kills=100)


def children(process: int) -> list[int]:
    return [int(text) for text in pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def lives(process: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def killed_while_serving(tmp_path, archive, encoder_file, kills: int, seed: int) -> None:
    """A server that makes pictures and answers searches, and a command that indexes what is new, both killed at once."""
    videos, index = tmp_path / "videos", tmp_path / "index"
    shutil.copytree(archive / "a", videos)
    search_index.main([str(videos), f"--index={index}", f"--encoder={encoder_file}", "--workers=0"])
    indexing = index_command(videos, index, encoder_file)
    serving = [sys.executable, "-m", "wt_jax.tools.search", "x", f"--index={index}", "--no_open", "--no_index"]
    rng, acknowledged = random.Random(seed), features_by_path(index)
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    for number in range(kills):
        shutil.copyfile(archive / "b" / "01.mp4", videos / f"new{number:03}.mp4")
        with subprocess.Popen(serving, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as server:
            writer = subprocess.Popen(indexing, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                assert server.stdout is not None
                link = next(line.strip() for line in server.stdout if "http://" in line)
                address, token = re.fullmatch(r"(http://.*)/\?token=(.*)", link).groups()
                end = time.monotonic() + rng.uniform(0, 2)
                with httpx.Client(base_url=address, headers={"authorization": f"Bearer {token}"}, timeout=60) as client:
                    client.post("/api/clips", content=(archive / "c" / "02.mp4").read_bytes())
                    while time.monotonic() < end:
                        found = client.get(f"/api/search?q=m{rng.randrange(7)}").json()["results"]
                        client.get(f"/thumb/{found[-1]['moment']}.mp4")
                seen, workers = assert_kept(acknowledged, index), children(server.pid)
            finally:
                server.kill()
                writer.kill()
            server.wait()
            writer.wait()
        acknowledged = assert_kept(seen, index)
        deadline = time.monotonic() + 20
        while any(map(lives, workers)):
            assert time.monotonic() < deadline, "processes that decode outlive the server"
            time.sleep(0.05)
    subprocess.run(indexing, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert len(assert_kept(acknowledged, index)) == 4 + kills
    assert len(list(tmp_path.glob("wt_jax-clips-*"))) == 1  # each server removes what the killed one before it left


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_serving_survives_fifty_kills(tmp_path, archive, encoder_file, seed):
    killed_while_serving(tmp_path, archive, encoder_file, kills=50, seed=seed)


@pytest.mark.slow
def test_a_disk_that_is_full_is_named_and_loses_nothing(tmp_path, archive, encoder_file, capfd):
    """A real disk: a file system of some MiB in memory, which only root may mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        options = [f"--index={disk / 'index'}", "--workers=0"]
        search_index.main([str(archive), *options, f"--encoder={encoder_file}"])
        acknowledged = features_by_path(disk / "index")
        for number in range(200):
            shutil.copyfile(archive / "a" / "00.mp4", tmp_path / f"{number}.mp4")
        (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in [*acknowledged, *tmp_path.glob("*.mp4")]))
        for left in (1 << 12, 100_000):  # not even for the log of SQLite; not for the features
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            (disk / "filler").write_bytes(b"\0" * (free - left))
            with pytest.raises(SystemExit):
                search_index.main([str(tmp_path / "list.txt"), *options])
            assert "disk is full; make room" in capfd.readouterr().err
            (disk / "filler").unlink()
            assert_kept(acknowledged, disk / "index")
        search_index.main([str(tmp_path / "list.txt"), *options])
        assert len(assert_kept(acknowledged, disk / "index")) == 212
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
