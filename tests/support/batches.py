"""Training batches and their digests, for tests that compare streams."""

import hashlib

import numpy as np

from wt_jax.data.pipeline import train_batches
from wt_jax.specs import ClipView

VIEWS = {
    "query": ClipView("a", num_frames=4, stride=2, size=16, flip_probability=0.5),
    "key": ClipView("a", num_frames=4, size=16),
    "weak": ClipView("b", num_frames=8, stride=0.04, unit="seconds", size=24, crop="center"),
}


def digest(batch):
    text = hashlib.sha256()
    for name in sorted(batch):
        text.update(f"{name} {batch[name].dtype} {batch[name].shape}".encode() + batch[name].tobytes())
    return text.hexdigest()


def digests(videos, steps, hosts=1, **options):
    """One digest of the global batch per step."""
    parts = [
        list(train_batches(videos, VIEWS, seed=3, batch_size=8, num_steps=steps, host=host, num_hosts=hosts, **options))
        for host in range(hosts)
    ]
    assert {len(part) for part in parts} == {steps}
    merged = []
    for shares in zip(*parts, strict=True):
        # The hosts' parts, one behind the other, are the global batch.
        merged.append({name: np.concatenate([share[name] for share in shares]) for name in shares[0]})
    return [digest(batch) for batch in merged]
