"""The simulation of input supply, against cases that are calculated by hand."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from wt_jax.bench.supply import Supply, enough_workers, report, waits

# 8 videos of 0.1 s: a worker makes a batch in 0.8 s, four workers one every 0.2 s.
EVEN = Supply(batch=8, step=0.5, hosts=1, workers=4, decode=0.1, spread=0.0, ahead=2)


def test_enough_is_supplied():
    assert (EVEN.supplied, EVEN.needed) == (40, 16)
    np.testing.assert_allclose(waits(EVEN, 50), 0, atol=1e-9)


def test_too_little_is_supplied():
    # The cycle of four batches takes the 0.8 s in which each worker makes one, of which four steps need 0.4 s.
    waited = waits(replace(EVEN, step=0.1), 400)
    assert waited.mean() == pytest.approx(0.2 - 0.1)
    # Two hosts have half of each batch to make.
    np.testing.assert_allclose(waits(replace(EVEN, step=0.1, hosts=2), 50), 0, atol=1e-9)
    assert waits(replace(EVEN, step=0.1, hosts=2, batch=24), 400).mean() == pytest.approx(0.3 - 0.1)


def test_one_worker_by_hand(monkeypatch):
    """Batches of one video that take 1, 1, 1, 4, 1 and 1 s, steps of 2 s, one batch ahead."""
    times = [1.0, 1.0, 1.0, 4.0, 1.0, 1.0]

    class Drawn:
        def gamma(self, shape, scale, size):
            return np.array(times).reshape(size)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Drawn())
    supply = Supply(batch=1, step=2.0, hosts=1, workers=1, decode=1.0, spread=1.0, ahead=1)
    # Batch 0: ready and taken at 1, step 0 begins. Batch 1: asked at 1, ready at 2, taken at 2; step 1 begins at 3.
    # Batch 2: asked at 2, ready at 3, taken at 3; step 2 begins at 5. Batch 3: asked at 3, ready at 7, as step 2 ends.
    # Batch 4: asked at 7, ready at 8, step 4 begins at 9.
    np.testing.assert_allclose(waits(supply, 5), [0, 0, 0, 0, 0], atol=1e-12)
    times[3] = 5.5  # ready at 8.5: step 3 waits 1.5 s, and step 4 begins at 10.5, its batch ready at 9.5
    np.testing.assert_allclose(waits(supply, 5), [0, 0, 1.5, 0, 0], atol=1e-12)


def test_spread_makes_hosts_wait_for_the_slowest():
    # On average just enough; each step waits for the slowest host, and more of them are slower.
    even = replace(EVEN, step=0.22)
    wide = [waits(replace(even, spread=1.0, hosts=hosts, batch=8 * hosts), 2000).mean() for hosts in (1, 4, 16)]
    assert waits(even, 2000).max() < 1e-9
    assert 0 < wide[0] < wide[1] < wide[2]
    ahead = waits(replace(even, spread=1.0, hosts=16, batch=128, ahead=16), 2000).mean()
    assert ahead < wide[2]  # what is made ahead evens out


def test_drawn_times_have_mean_and_spread():
    one = replace(EVEN, batch=1, workers=1, step=1e-9, spread=0.7, ahead=1)  # then each step waits as long as its batch takes
    drawn = waits(one, 50_000)
    assert drawn.mean() == pytest.approx(0.1, rel=0.02)
    assert drawn.std() / drawn.mean() == pytest.approx(0.7, rel=0.03)


def test_enough_workers():
    assert enough_workers(replace(EVEN, step=0.1), 200) == 8  # 8 videos of 0.1 s in 0.1 s
    assert enough_workers(replace(EVEN, step=0.9), 200) == 1
    assert enough_workers(replace(EVEN, step=1e-6), 20) is None
    assert "workers per host for a wait below 1%: 8" in report(replace(EVEN, step=0.1), 200)


def test_command():
    command = [sys.executable, "-m", "wt_jax", "bench-supply", "--batch=8", "--step_ms=100", "--workers=4", "--rate=10"]
    done = subprocess.run([*command, "--spread=0", "--steps=400"], capture_output=True, text=True, check=True)
    assert "supplied 40 videos/s, needed 80" in done.stdout
    assert "100.0 ms on average" in done.stdout
    assert "50.0% of the time" in done.stdout
    done = subprocess.run([*command, "--hosts=3"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "wt_jax: --batch=8 cannot be divided among --hosts=3\n")
