"""The quick start's log lines say which of its trainings runs."""

import subprocess

import pytest

from configs.quickstart import get_config
from wt_jax.progress import current_label
from wt_jax.tools import quickstart as module


class EnoughError(Exception):
    """Ends the quick start before its table."""


def test_every_line_of_a_training_says_which_it_is(tmp_path, monkeypatch):
    seen = []

    def record(config, workdir):
        seen.append((current_label(), config.clip.num_frames))
        if len(seen) == 2:
            raise EnoughError

    monkeypatch.setattr(module, "run_one", record)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    with pytest.raises(EnoughError):
        module.quickstart(get_config(), tmp_path, [0, 1])
    assert seen == [("one-frame baseline 1/4", 1), ("weak_teacher 2/4", 8)]
    assert current_label() == ""
