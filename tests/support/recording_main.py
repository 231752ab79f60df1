"""`wt_jax.main` that also records a hash of every row of every training batch, in `$HASHES`, by process."""

import hashlib
import json
import os
from pathlib import Path

import jax
from absl import app

from wt_jax.cli import parse_flags
from wt_jax.main import main
from wt_jax.train import loop

plain = loop.put_batch


def recording(batch, mesh):
    rows = [hashlib.sha256(b"".join(batch[name][row].tobytes() for name in sorted(batch))).hexdigest() for row in range(len(batch["video"]))]  # fmt: skip # noqa: E501
    with Path(os.environ["HASHES"], f"{jax.process_index()}.jsonl").open("a") as file:
        file.write(json.dumps(rows) + "\n")
    return plain(batch, mesh)


if __name__ == "__main__":
    loop.put_batch = recording
    app.run(main, flags_parser=parse_flags)
