"""The line that says what ends waiting for data."""

import logging
import os

import numpy as np
import pytest
from support.training import small_config

from wt_jax.data.records import VideoList
from wt_jax.train.data_wait import STEPS, DataWait


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    """A machine of three cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})


def videos(name="{}.mp4"):
    return VideoList(tuple(name.format(index) for index in range(4)), np.full(4, -1, np.int32))


def logged(caplog, waits, config=None, names="{}.mp4"):
    """The lines of steps of one second each."""
    watch = DataWait(config or small_config(data__train="mine", data__workers=1, data__cache_gib=0.0), videos(names))
    with caplog.at_level(logging.WARNING, "wt_jax"):
        for wait in waits:
            watch.add(1.0, wait)
    return [record.getMessage() for record in caplog.records]


def test_waiting_is_reported_once_with_its_remedies(caplog):
    (line,) = logged(caplog, [0.9] * (3 * STEPS))
    assert f"the last {STEPS} steps waited 90 % of their time for data" in line
    assert "--config.data.workers=3 (now 1), it goes on" in line
    assert "--config.data.pack=DIR" in line
    assert "--config.data.cache_gib=G" in line
    assert "`wt-jax pack mine DIR --short_side=20`" in line  # of clips of 16 pixels


@pytest.mark.parametrize("waits", [[0.9] * (STEPS - 1), [0.5] * (2 * STEPS), ([0.9] * 50 + [0.0] * 50) * 3])
def test_less_is_not(caplog, waits):
    assert not logged(caplog, waits)


def test_what_is_done_already_is_not_advised(caplog):
    config = small_config(data__train="packed", data__workers=3, data__cache_gib=1.0)
    (line,) = logged(caplog, [0.9] * STEPS, config, "packed/clips.array_record#{}")
    assert "pack=" not in line
    assert "workers=" not in line
    assert "cache_gib=" not in line
    assert "wt-jax bench-loader" in line
