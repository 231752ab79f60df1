"""Does a training wait for its data? Hosts, workers and decode times against the time of a step, simulated:

    wt-jax bench-supply --batch=128 --step_ms=43 --hosts=1 --workers=112 --rate=24.3 [--spread=1] [--threads=2]

`--rate` is how many videos per second one worker turns into clips: what `bench-loader` prints, divided by its workers. Decode
times of single videos vary by `--spread`, their standard deviation over their mean, and are gamma-distributed, which is our
assumption. As in training, the workers of a host make whole batches in turn, each so many ahead (`config.data.threads` + 1), a
step begins when all hosts have their part of its batch, and the next batch is taken while it runs. Prints what is supplied and
needed, the data wait per step, and how many workers per host would keep it below 1 % of the time.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wt_jax.cli import parse_arguments, user_errors
from wt_jax.errors import ConfigError

_NEGLIGIBLE = 0.01  # of the time
_MOST_WORKERS = 2**12


@dataclass(frozen=True)
class Supply:
    """A training, as far as its data goes.

    Attributes:
      batch: videos of a step, of all hosts together.
      step: seconds of a step whose data is there.
      hosts: of the training; each makes an equal part of each batch.
      workers: of each host, each on a core of its own.
      decode: seconds of one worker for one video, on average.
      spread: standard deviation of that over its mean, from video to video.
      ahead: batches that each worker may be ahead.
    """

    batch: int
    step: float
    hosts: int
    workers: int
    decode: float
    spread: float
    ahead: int

    @property
    def supplied(self) -> float:
        """Videos per second of all workers that never pause."""
        return self.hosts * self.workers / self.decode

    @property
    def needed(self) -> float:
        """Videos per second of steps that never wait."""
        return self.batch / self.step


def waits(supply: Supply, steps: int, seed: int = 0) -> np.ndarray:
    """Seconds (steps,) that each step waits for its batch, without the first batches, which come before training begins."""
    rows, first = supply.batch / supply.hosts, supply.workers * supply.ahead
    count, shape = steps + first, (steps + first, supply.hosts)
    made = np.full(shape, rows * supply.decode)
    if supply.spread:
        # A sum of gamma-distributed times is gamma-distributed.
        variance = supply.spread**2
        made = np.random.default_rng(seed).gamma(rows / variance, supply.decode * variance, shape)
    ready, taken = np.zeros(shape), np.zeros(shape)
    begun, waited = 0.0, np.zeros(count)
    for step in range(count):
        asked = taken[step - first] if step >= first else 0.0
        free = ready[step - supply.workers] if step >= supply.workers else 0.0
        ready[step] = np.maximum(asked, free) + made[step]
        taken[step] = np.maximum(ready[step], begun)  # the step before has begun: now its successor's batch is taken
        end = begun + supply.step if step else 0.0
        begun = max(end, taken[step].max())
        waited[step] = begun - end
    return waited[first:]


def enough_workers(supply: Supply, steps: int) -> int | None:
    """The fewest workers per host with which less than 1 % of the time is data wait; None: no number is enough."""

    def fraction(workers: int) -> float:
        mean = float(waits(replace(supply, workers=workers), steps).mean())
        return mean / (mean + supply.step)

    most = 1
    while fraction(most) >= _NEGLIGIBLE:
        most *= 2
        if most > _MOST_WORKERS:
            return None
    least = most // 2  # which is not enough
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fraction(middle) >= _NEGLIGIBLE else (least, middle)
    return most


def report(supply: Supply, steps: int) -> str:
    """What the command prints."""
    waited, enough = waits(supply, steps), enough_workers(supply, steps)
    mean, fraction = waited.mean(), waited.mean() / (waited.mean() + supply.step)
    evenly = max(0.0, supply.batch / supply.supplied - supply.step)
    lines = [
        f"supplied {supply.supplied:.0f} videos/s, needed {supply.needed:.0f}",
        f"data wait per step: {1000 * mean:.1f} ms on average, {1000 * np.percentile(waited, 99):.1f} in the 99th percentile "
        f"({1000 * evenly:.1f} if all videos took as long), {fraction:.1%} of the time",
        f"step with its data: {1000 * (supply.step + mean):.1f} ms, {supply.batch / (supply.step + mean):.0f} videos/s",
        f"workers per host for a wait below {_NEGLIGIBLE:.0%}: {enough or 'no number is enough'}",
    ]
    return "\n".join(lines)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = parse_arguments(__doc__)
    parser.add_argument("--batch", type=int, required=True, help="videos of a step, of all hosts")
    parser.add_argument("--step_ms", type=float, required=True, help="of a step whose data is there")
    parser.add_argument("--hosts", type=int, default=1, help="of the training (%(default)s)")
    parser.add_argument("--workers", type=int, required=True, help="of each host")
    parser.add_argument("--rate", type=float, required=True, help="videos per second of one worker")
    parser.add_argument("--spread", type=float, default=1.0, help="of the decode times, over their mean (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="config.data.threads (%(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="to simulate (%(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate and print."""
    args = _arguments(argv)
    with user_errors():
        for name in ("batch", "step_ms", "hosts", "workers", "rate", "threads", "steps"):
            if getattr(args, name) <= 0:
                raise ConfigError(f"--{name}={getattr(args, name)} must be above 0")
        if args.spread < 0:
            raise ConfigError(f"--spread={args.spread} must not be below 0")
        if args.batch % args.hosts:
            raise ConfigError(f"--batch={args.batch} cannot be divided among --hosts={args.hosts}")
        supply = Supply(args.batch, args.step_ms / 1000, args.hosts, args.workers, 1 / args.rate, args.spread, args.threads + 1)
        print(report(supply, args.steps))


if __name__ == "__main__":
    main()
