"""The quick start's log lines say which of its trainings runs."""

import subprocess
import sys

# In a process of its own: the module defines flags of the same names as other commands do.
SCRIPT = """
import pathlib, subprocess, sys
from configs.quickstart import get_config
from wt_jax.progress import current_label
from wt_jax.tools import quickstart as module

class Enough(Exception):
    pass

seen = []

def record(config, workdir):
    seen.append((current_label(), config.clip.num_frames))
    if len(seen) == 2:
        raise Enough

module.run_one = record
subprocess.run = lambda *_, **__: None
try:
    module.quickstart(get_config(), pathlib.Path(sys.argv[1]), [0, 1])
except Enough:
    print(seen, repr(current_label()))
"""


def test_every_line_of_a_training_says_which_it_is(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[('one-frame baseline 1/4', 1), ('weak_teacher 2/4', 8)] ''"
