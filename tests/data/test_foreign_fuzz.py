"""Containers x codecs x faults: every frame that is read alone is the one of a full pass, or a named error.

    pytest -m slow -s tests/data/test_foreign_fuzz.py

prints the number of combinations and of frames that were compared, and what each fault gave.
"""

from collections import Counter
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from support.odd_videos import CODECS, copy, encode, mirror

from wt_jax.data.video import decode as decode_module
from wt_jax.data.video.decode import check, decode, probe, read_all
from wt_jax.errors import VideoError

FIELDS = Path(__file__).with_name("field_pictures.mts")
FIELD_CONTAINERS = ("ts", "mp4", "mov", "mkv", "avi", "flv", "nut")
# What a container or the decoder cannot hold, or hands out without a sign: VP8 of a packet that was cut off.
EXCEPTIONS = {("libvpx", "nut", "cut")}


def rewritten(source: Path, change) -> str:
    target = source.with_stem(f"{source.stem}_{change.__name__}")
    target.write_bytes(change(source.read_bytes()))
    return str(target)


def cut(content: bytes) -> bytes:
    return content[: len(content) * 3 // 4]


def zeros(content: bytes) -> bytes:
    return cut(content) + bytes(len(content) - len(cut(content)))


def hole(content: bytes) -> bytes:
    half = len(content) // 2
    return content[:half] + bytes(300) + content[half + 300 :]


def twice(content: bytes) -> bytes:
    """Put together, as transport streams are: in these time stamps start anew, elsewhere the second is not seen."""
    return content + content


def variants(source: Path, codec: str):
    """Yields what was done to a video, and the file."""
    yield "plain", str(source)
    for keys in ("all", "third"):
        with suppress(ValueError, av.error.FFmpegError):  # Not every decoder's name is one that PyAV can write.
            yield f"{keys} flags", copy(str(source), source.with_stem(f"{source.stem}_{keys}"), keys=keys)
    for change in (cut, zeros, hole, twice):
        yield change.__name__, rewritten(source, change)
    if source.suffix in (".mp4", ".mov") and codec != "fields":
        for turns, mirrored in ((1, False), (0, True), (3, True)):
            turned = source.with_stem(f"{source.stem}_{turns}{mirrored}")
            turned.write_bytes(source.read_bytes())
            yield "mirrored or turned", mirror(str(turned), turns, mirrored)


def outcome(path: str, read):
    """What reading gives: a value, or the error, which names the file in one line."""
    try:
        return read()
    except VideoError as error:
        message = str(error)
    assert message.startswith(path)
    assert "\n" not in message
    return message


def compared(path: str) -> tuple[str, int]:
    """What a video gave, and how many of its frames were compared; fails where one is another picture."""
    decode_module.forget()
    info = outcome(path, lambda: probe(path))
    if isinstance(info, str):
        return "named", 0
    left = outcome(path, lambda: check(path))
    if isinstance(left, str):
        return "broken", 0
    everything = dict(zip(np.searchsorted(info.pts, left.pts).tolist(), read_all(path), strict=True))
    for index in range(info.num_frames):
        alone = outcome(path, lambda index=index: decode(path, [index], info)[0])
        assert isinstance(alone, str) == (index not in everything), f"{path}, frame {index}: {alone}"
        if index in everything:
            np.testing.assert_array_equal(alone, everything[index], err_msg=f"{path}, frame {index}")
    return "read" if len(everything) == info.num_frames else "read in part", len(everything)


@pytest.fixture(autouse=True)
def nothing_is_broken(monkeypatch):
    """Every frame that is left is compared, however many are lost."""
    monkeypatch.setattr(decode_module, "MAX_LOST_FRACTION", 1.0)


def run(folder: Path, codecs, containers=None) -> tuple[int, int]:
    """Goes through the combinations and prints what they gave; returns how many, and how many frames were compared."""
    results, frames, combinations = Counter(), 0, 0
    for codec in codecs:
        for container in FIELD_CONTAINERS if codec == "fields" else CODECS[codec][2][:containers]:
            source = folder / f"{codec}.{container}"
            try:
                copy(str(FIELDS), source) if codec == "fields" else encode(source, codec)
            except (ValueError, av.error.FFmpegError) as error:  # This PyAV cannot write it.
                source.unlink(missing_ok=True)
                print(f"{codec} in {container} cannot be written: {error}")
                continue
            for fault, path in variants(source, codec):
                if (codec, container, fault) not in EXCEPTIONS:
                    result, count = compared(path)
                    results[fault, result] += 1
                    frames += count
                    combinations += 1
            if codec in ("libx264", "libx265", "mpeg4", "mpeg2video") and container in ("ts", "mkv", "nut"):
                path = encode(source.with_stem("sizes"), codec, 10, sizes=((64, 96), (96, 128)))
                result, count = compared(path)
                results["size changes", result] += 1
                combinations += 1
    print(f"{combinations} combinations, {frames:,} frames compared")
    for (fault, result), count in sorted(results.items()):
        print(f"  {fault}: {result} {count}")
    assert all(result == "broken" for fault, result in results if fault == "size changes")
    assert {result for fault, result in results if fault in ("plain", "all flags", "third flags")} == {"read"}
    return combinations, frames


def test_some_combinations(tmp_path):
    combinations, frames = run(tmp_path, ("fields", "libx264", "mpeg4", "mpeg2video"), containers=1)
    assert combinations > 50
    assert frames > 500


@pytest.mark.slow
def test_all_combinations(tmp_path):
    combinations, frames = run(tmp_path, ("fields", *CODECS))
    assert combinations > 500
    assert frames > 10_000
