"""What a training knows of its steps: clocks, metrics, faults. The loop calls it; it never touches the state.

The metrics of a step are read when the next step has been dispatched, so the device always has work. What they reveal (a loss
that is not finite, a request to stop, bad videos) is therefore known one step late, and by all processes alike.
"""

import collections
import json
import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from wt_jax.cluster import host_signals
from wt_jax.cluster.goodput import Goodput
from wt_jax.cluster.heartbeat import Heartbeat, peak_memory
from wt_jax.cluster.processes import is_primary_process
from wt_jax.config import Config
from wt_jax.data.records import VideoList
from wt_jax.errors import TrainingError
from wt_jax.train.bad_videos import BadVideos
from wt_jax.train.data_wait import DataWait
from wt_jax.train.device_clock import DeviceClock
from wt_jax.train.metrics import MetricsWriter, StepRates
from wt_jax.train.trackers import open_trackers

log = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]


class PendingStep(NamedTuple):
    """A dispatched step whose results are not read yet; `fetched` is when the wait for its batch began and ended."""

    step: int
    metrics: dict[str, jax.Array]
    signals: dict[str, jax.Array]
    fetched: tuple[float, float]
    finished: Future[float]


class StepMonitor:
    """Reads the results of each step, writes and logs metrics, and stops a training that cannot go on.

    Made before the step is compiled: goodput counts from here.

    Attributes:
      evaluated: steps whose evaluation is in `metrics.jsonl`.
    """

    def __init__(
        self,
        config: Config,
        videos: VideoList,
        workdir: Path,
        heartbeat: Heartbeat,
        *,
        start: int,
        num_steps: int,
        best_by: str = "",
    ):
        """
        Args:
          config: the training's configuration.
          videos: the training's videos, to which the signals of a step refer by index.
          workdir: for `metrics.jsonl`, `bad_videos.jsonl`, `goodput.json`, and the record of a loss that is not finite.
          heartbeat: learns of each finished step.
          start, num_steps: how many steps are finished already, and how many there are in all.
          best_by: the score whose highest value marks the best step.
        """
        self._videos, self._workdir, self._heartbeat = videos, workdir, heartbeat
        self._num_steps, self._log_every = num_steps, config.train.log_every
        self._writer = MetricsWriter(workdir, start, lambda: open_trackers(config, workdir, start))
        self._rates = StepRates(num_steps, config.train.batch_size)
        self._data_wait = DataWait(config, videos)
        self._bad_videos = BadVideos(videos, workdir, config.data.max_bad_fraction)
        self._goodput = Goodput(workdir, start) if is_primary_process() else None
        self._pending: collections.deque[PendingStep] = collections.deque()
        self._busy: list[np.ndarray] = []  # seconds of each host, for the steps since the last log line
        self._device_clock = DeviceClock()
        self._last_read = time.perf_counter()
        self._fetched = self._last_read, self._last_read  # when the wait for the next step's batch began and ended
        self._last_finished = self._last_read  # when the device finished its last step, or the clocks were restarted
        evaluations = [line for line in self._writer.kept if "loss" not in line]
        self.evaluated = {int(line["step"]) for line in evaluations}
        self._best_by, self._best = best_by, max((line[best_by] for line in evaluations if best_by in line), default=-np.inf)

    def set_flops(self, flops: float | None) -> None:
        """Set the floating point operations of a step, where known, for the log's MFU."""
        self._rates.flops = flops

    def fetch(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; the wait for it is measured, as far as the device had no other work."""
        before = time.perf_counter()
        batch = next(batches)
        self._fetched = before, time.perf_counter()
        return batch

    def busy_seconds(self) -> float:
        """Seconds that this host has spent on its own since it last read a step: waiting for data, moving it."""
        return time.perf_counter() - self._last_read

    def add(self, step: int, metrics: dict[str, jax.Array], signals: dict[str, jax.Array]) -> bool:
        """Take a dispatched step and read the one before it; returns whether any process was asked to stop.

        Raises:
          TrainingError: the loss is not finite, or too many videos cannot be decoded.
        """
        self._pending.append(PendingStep(step, metrics, signals, self._fetched, self._device_clock.finish(metrics)))
        stop = len(self._pending) > 1 and self._read()
        self._last_read = time.perf_counter()
        return stop

    def flush(self) -> bool:
        """Read all dispatched steps; returns and raises as `add`."""
        stop = False
        while self._pending:
            stop |= self._read()
        return stop

    def checkpoint_saved(self, step: int) -> None:
        """A restart goes on from this step, and repeats none up to it."""
        if self._goodput:
            self._goodput.checkpoint_saved(step)

    def add_scores(self, step: int, scores: Mapping[str, float]) -> bool:
        """Write and log the scores of an evaluation; returns whether they are the best so far."""
        self._writer.write(step, scores)
        self.evaluated.add(step)
        values = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        log.info("step %d/%d  %s", step, self._num_steps, values)
        is_best = scores.get(self._best_by, -np.inf) > self._best
        if is_best:
            self._best = scores[self._best_by]
        return is_best

    def resume(self, step: int) -> None:
        """Restart the clocks: what came before (compiling, saving, evaluating) is no training time."""
        self._rates.restart(step)
        self._last_read = self._last_finished = time.perf_counter()

    def log_bad_videos(self) -> None:
        """Log how many videos could not be decoded, if any."""
        self._bad_videos.log_count()

    def close(self) -> None:
        """Close the files of the metrics, and end the clock."""
        self._writer.close()
        self._device_clock.close()

    def _read(self) -> bool:
        """Wait for the oldest pending step; returns whether any process was asked to stop."""
        pending = self._pending.popleft()
        step, signals = pending.step, host_signals.read(pending.signals)
        metrics = {name: float(value) for name, value in jax.device_get(pending.metrics).items()}
        self._time_step(pending.fetched, pending.finished.result())
        self._heartbeat.at("training", step)
        self._busy.append(signals.busy)
        self._bad_videos.add(signals.failed)
        if not np.isfinite(metrics["loss"]):
            raise self._not_finite(step, metrics, signals.video)
        if step % self._log_every == 0 or step == self._num_steps:
            self._log(step, metrics)
        return signals.stop

    def _time_step(self, fetched: tuple[float, float], finished: float) -> None:
        idle_from, ready = fetched
        seconds, waited = finished - self._last_finished, max(0.0, ready - max(idle_from, self._last_finished))
        self._rates.add_step(seconds, waited)
        self._data_wait.add(seconds, waited)
        if self._goodput:
            self._goodput.add_step(max(0.0, seconds - waited))
        self._last_finished = finished

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        if slow := host_signals.slow_host(np.array(self._busy), self._rates.seconds):
            log.warning("%s", slow)
        self._busy.clear()
        metrics |= self._rates.rates(step) | peak_memory()
        if self._goodput:
            metrics["goodput"] = self._goodput.fraction()
            self._writer.write(step, metrics)
            log.info("%s", self._rates.line(step, metrics))

    def _not_finite(self, step: int, metrics: dict[str, float], indices: np.ndarray) -> TrainingError:
        """The error, after the primary process has written the record of the step."""
        path = self._workdir / f"not_finite_step_{step}.json"
        if is_primary_process():
            paths = [self._videos[int(index)].path for index in indices]
            path.write_text(json.dumps({"step": step, "metrics": repr(metrics), "videos": paths}, indent=1))
        return TrainingError(f"the loss of step {step} is {metrics['loss']}; its videos are in {path}")
