"""Damaged copies of real clips: each is decoded or named, twice alike, in bounded time and memory, and nothing crashes.

Copy k is made from (seed, k) alone: cut off, with flipped bits, with a damaged header, or with a hole of zeros. A child
process reads them one after the other, so a crash or a hang is seen from outside and the file is named.
"""

import select
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60  # for one file, on a busy machine
CHILD = """
import sys
import numpy as np
from wt_jax.errors import VideoError
from wt_jax.data.video.decode import open_reader
from wt_jax.data.pipeline import crop_clips
from wt_jax.data.sampling import random_windows
from wt_jax.specs import ClipView

views = {"a": ClipView("a", num_frames=8, stride=2, size=32), "b": ClipView("b", num_frames=8, size=32)}

def read(path):
    rng = np.random.default_rng(0)
    try:
        with open_reader(path) as reader:
            clips = crop_clips(reader, random_windows(reader.info, views, rng), views, rng)
        return "decoded", clips["a"].tobytes() + clips["b"].tobytes()
    except VideoError as error:
        assert str(error).startswith(path) and len(str(error)) > len(path) + 4 and "\\n" not in str(error), repr(error)
        return "named", str(error)

for line in sys.stdin:
    path = line.strip()
    result, content = read(path)
    assert read(path) == (result, content), "what is remembered of a file changes what it gives"
    pages = int(open("/proc/self/statm").read().split()[1])
    print(result, pages * 4 // 1024, flush=True)
"""


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    kind = rng.integers(4)
    if kind == 0:
        return bytes(data[: int(rng.integers(len(data)))])
    if kind == 1:
        for place in rng.integers(len(data), size=int(2 ** rng.uniform(0, 9))):
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == 2:  # In MP4 the index may lie at the end.
        start = 0 if rng.random() < 0.5 else max(len(data) - 4096, 0)
        for place in start + rng.integers(min(4096, len(data)), size=int(2 ** rng.uniform(0, 7))):
            data[place] = int(rng.integers(256))
    else:
        start, length = int(rng.integers(len(data))), int(rng.integers(1, len(data) // 4))
        data[start : start + length] = bytes(len(data[start : start + length]))
    return bytes(data)


def run(clips: Path, folder: Path, count: int) -> list[str]:
    """What became of each of the copies; memory is checked on the way."""
    sources = sorted(path for path in clips.iterdir() if path.suffix in (".mp4", ".avi"))
    assert len(sources) >= 5
    results, memory = [], []
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for number in range(count):
            source = sources[number % len(sources)]
            path = folder / f"{number}{source.suffix}"
            path.write_bytes(damage(source.read_bytes(), np.random.default_rng((0, number))))
            child.stdin.write(f"{path}\n")
            child.stdin.flush()
            assert select.select([child.stdout], [], [], SECONDS)[0], f"{path}, from {source.name}: no answer in {SECONDS} s"
            line = child.stdout.readline()
            if not line:
                _, message = child.communicate()
                pytest.fail(f"{path}, from {source.name}: the process ended, {child.returncode}: {message[-500:]}")
            result, megabytes = line.split()
            results.append(result)
            memory.append(int(megabytes))
            path.unlink()
    finally:
        child.kill()
        child.communicate()
    quarter = count // 4
    before, after = statistics.median(memory[quarter : 2 * quarter]), statistics.median(memory[-quarter:])
    print(
        f"{count} files: {results.count('decoded')} decoded, {results.count('named')} named; resident {before} to {after} MiB"
    )
    assert after < before + 64, f"resident memory grew from {before} to {after} MiB"
    return results


def test_fifty_damaged_files_are_decoded_or_named(shared_data, tmp_path):
    results = run(shared_data / "clips", tmp_path, 50)
    assert set(results) == {"decoded", "named"}  # The damage is neither always fatal nor always harmless.


@pytest.mark.slow
def test_five_hundred_damaged_files_are_decoded_or_named(shared_data, tmp_path):
    results = run(shared_data / "clips", tmp_path, 500)
    assert results.count("decoded") > 50
    assert results.count("named") > 50
