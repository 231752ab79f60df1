"""bench_loader: its contenders do the same work, and its report has what it promises."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from support.video_files import frame_numbers, write_video

from wt_jax.bench.clips import HEIGHT, WIDTH, _pictures
from wt_jax.bench.loader import _go_on, _result, _run
from wt_jax.bench.memory import memory_of, peak_of
from wt_jax.bench.peers.measure import Job, measure
from wt_jax.bench.stages import time_stages
from wt_jax.specs import ClipView

VIEWS = {
    "query": ClipView("query", num_frames=4, size=16),
    "key": ClipView("key", num_frames=4, size=16, crop="center"),
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return tuple(write_video(folder / f"{place}.mp4", 40 + place, height=64, width=64) for place in range(6))


def test_stages(paths):
    stages = time_stages(paths, VIEWS, batch_size=4, repeats=1)
    assert list(stages) == ["read", "probe", "decode", "geometry", "batch", "transfer"]
    assert all(0 < value < 10_000 for value in stages.values())


@pytest.mark.parametrize("contender", ["wt_jax", "decode only", "decode needed only"])
def test_contenders(paths, contender):
    told = []
    result = measure(Job(contender, paths, VIEWS, batch_size=2, workers=0, seed=0, steps=3, warm_up=1), told.append)
    assert result["rate"] > 0
    assert told == [json.dumps(result)]


def test_a_turn_in_a_process_of_its_own(paths, monkeypatch):
    job = Job("wt_jax", paths, VIEWS, batch_size=2, workers=1, seed=0, steps=3, warm_up=2)
    result = _run(job)
    assert result["rate"] > 0
    assert result["first_batch"] > 0
    assert not memory_of(os.getpid()) or 50 < result["memory"] < 2000
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _run(replace(job, paths=("nowhere.mp4",)))
    assert "nowhere.mp4" in caught.value.stderr


def test_what_libraries_print_is_passed_over():
    lines = ["a library greets", '{"rate": 1}']
    command = [sys.executable, "-c", f"print(*{lines!r}, sep=chr(10))"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert [_result(process), _result(process)] == ['{"rate": 1}\n', ""]


def test_who_has_ended_is_not_waited_for():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", ""], text=True, **pipes) as process:
        process.wait()
        assert _result(process) == ""
        _go_on(process)
    assert process.returncode == 0


@pytest.mark.parametrize(("reader", "package"), [("torchcodec", "torchcodec"), ("decord", "decord"), ("PyAV", "av")])
def test_peers_show_the_frames_that_are_asked_for(paths, reader, package):
    pytest.importorskip("torch")
    pytest.importorskip(package)
    from wt_jax.bench.peers.torch_loaders import READERS, torch_batches

    seen = []

    def choose(count, rate):
        seen.append((count, rate))
        return np.array([2, 3, 30, 39])

    assert frame_numbers(READERS[reader](paths[0], choose)) == [2, 3, 30, 39]
    assert seen == [(40, 25)]
    batches = list(torch_batches(paths, VIEWS, reader, batch_size=2, workers=0, seed=0, steps=2))
    assert len(batches) == 2
    for batch in batches:
        assert {name: tuple(clip.shape) for name, clip in batch.items()} == {name: (2, 4, 16, 16, 3) for name in VIEWS}
        for clip in (clip for name in VIEWS for clip in batch[name].numpy()):
            first = frame_numbers(clip)[0]
            assert frame_numbers(clip) == [first, first + 1, first + 2, first + 3]


def test_clips_move():
    pictures = _pictures(np.random.default_rng(0))
    first, second = next(pictures).astype(int), next(pictures).astype(int)
    assert first.shape == (HEIGHT, WIDTH, 3)
    assert 10 < first.std() < 90
    assert 1 < np.abs(first - second).mean() < 40


def test_memory_of_a_process():
    if not memory_of(os.getpid()):
        pytest.skip("this system does not tell")
    # A process of its own: what other threads of this one hold comes and goes.
    code = """if True:
        import mmap
        print(flush=True), input()
        block = mmap.mmap(-1, 64 << 20)
        block.write(bytes(64 << 20))
        print(flush=True), input()
    """
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        before = memory_of(process.pid)
        process.stdin.write("\n"), process.stdin.flush()
        process.stdout.readline()
        assert 60 < memory_of(process.pid) - before < 70
        process.stdin.write("\n"), process.stdin.flush()
    assert memory_of(2**22 + 1) == 0


def test_the_most_memory_that_a_process_and_its_children_have_held():
    if not memory_of(os.getpid()):
        pytest.skip("this system does not tell")
    hold = "import mmap\nwith mmap.mmap(-1, 64 << 20) as block: block.write(bytes(64 << 20))"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {hold!r} + '\\nprint(); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        assert peak_of(process.pid) > memory_of(process.pid) + 60
        process.stdin.close()
    assert peak_of(2**22 + 1) == 0
