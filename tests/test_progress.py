"""Log lines: labels of the running work, progress lines on a terminal and elsewhere."""

import io
import logging
import threading
import time

import pytest

from wt_jax import progress
from wt_jax.progress import Progress, ProgressHandler, current_label, format_duration, label, waiting


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(params=[io.StringIO, Terminal])
def stream(request):
    """A stream that shows the package's log lines, of a file or of a terminal."""
    stream = request.param()
    handler = ProgressHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root, package = logging.getLogger(), logging.getLogger("wt_jax")
    level = package.level
    root.addHandler(handler)
    package.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    package.setLevel(level)


def test_log_lines_name_the_running_work(stream):
    log = logging.getLogger("wt_jax.anything")
    with label("one-frame baseline 1/2"):
        log.info("step 20/1000")
        with label("candidate 3/6"):
            thread = threading.Thread(target=log.info, args=("the heartbeat",))
            thread.start()
            thread.join()
        logging.getLogger("another").warning("a library's line")
    log.info("done")
    lines = [line.removesuffix("\x1b[K") for line in stream.getvalue().splitlines()]
    assert lines == [
        "one-frame baseline 1/2: step 20/1000",
        "one-frame baseline 1/2, candidate 3/6: the heartbeat",
        "a library's line",
        "done",
    ]


def test_a_label_ends_with_an_error():
    with pytest.raises(ValueError, match="x"), label("first"):
        raise ValueError("x")
    assert current_label() == ""


def test_progress_counts_from_what_was_done_before(stream, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    work = Progress("features", 1000, "video", done=200)
    for _ in range(4):
        now[0] += 20
        work.advance(100, note="3 broken")
    logging.getLogger("wt_jax").info("another line")
    work.advance(10_000)  # a padded batch
    text = stream.getvalue()
    assert "features: 300 of 1,000 (30%)  5.0 videos/s  left 0:02:20  3 broken" in text
    assert "features: 1,000 of 1,000 (100%)" in text
    lines = text.split("\n")
    if stream.isatty():
        assert lines[0].count("\r") == 4  # rewritten three times, then by the other line
        assert lines[0].endswith("\ranother line\x1b[K")
    else:
        assert len(lines) == 7
    assert lines[-1] == ""


def test_short_work_logs_nothing(stream):
    work = Progress("features", 3, "video")
    for _ in range(3):
        work.advance()
    assert "features" not in stream.getvalue()


def test_durations():
    assert format_duration(3723.9) == "1:02:03"
    assert format_duration(float("nan")) == format_duration(float("inf")) == "?"


def test_a_call_of_unknown_length_shows_how_long_it_takes(stream, monkeypatch):
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.02)
    with waiting("compiling"):
        deadline = time.monotonic() + 5
        while stream.getvalue().count("compiling: 0:00:0") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    count = stream.getvalue().count("compiling")
    assert count >= 2
    time.sleep(0.05)
    assert stream.getvalue().count("compiling") == count
