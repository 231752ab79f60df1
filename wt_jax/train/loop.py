"""The training, told from top to bottom: prepare, restore, step, judge, save."""

import collections
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from wt_jax.config import Config, ConfigError, steps_of
from wt_jax.data.pipeline import describe_failure, train_batches
from wt_jax.data.records import VideoList
from wt_jax.data.sources import open_source
from wt_jax.eval.evaluate import Evaluator
from wt_jax.eval.features import make_extractor
from wt_jax.methods import fit_to_data
from wt_jax.train.build import Program, build
from wt_jax.train.checkpoint import Checkpoints
from wt_jax.train.metrics import MetricsWriter, Progress
from wt_jax.train.sharding import put_batch
from wt_jax.train.step import TrainState, batch_shapes

log = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """A training that cannot go on; the message says why and what is kept."""


@dataclass(frozen=True)
class Run:
    """A configuration on this machine and its videos: the parts that training and evaluation share."""

    config: Config
    videos: VideoList
    program: Program
    evaluator: Evaluator


def prepare(config: Config, videos: VideoList | None = None) -> Run:
    """Build everything and compile nothing; `videos` are those to train on, by default all of `config.data.train`.

    Raises:
      ConfigError, SourceError, WeightsError: the configuration cannot be run on this data, these devices or these weights.
    """
    if videos is None:
        if not config.data.train:
            raise ConfigError("config.data.train is empty; give a list file or a folder of videos")
        videos = open_source(config.data.train, config.data.root, config.data.max_bad_fraction)
    if config.eval.batch_size % jax.device_count():
        raise ConfigError(
            f"config.eval.batch_size {config.eval.batch_size} cannot be shared by {jax.device_count()} devices; "
            f"take a multiple of {jax.device_count()}"
        )
    if config.train.compile_cache:
        jax.config.update("jax_compilation_cache_dir", config.train.compile_cache)
    config = fit_to_data(config, videos)
    program = build(config, len(videos))
    return Run(config, videos, program, Evaluator(config, make_extractor(program.method.encoder), videos, program.mesh))


def train(run: Run, workdir: Path) -> TrainState:
    """Train to the end, from the last checkpoint of the workdir if there is one.

    Raises:
      TrainingError: the loss is not finite, or too many videos cannot be decoded. The last checkpoint stays.
      CheckpointError: the workdir's checkpoint does not fit the configuration.
    """
    config, num_steps = run.config, run.program.num_steps

    # What was done before.
    checkpoints = Checkpoints(workdir, config.train.keep_checkpoints)
    state = checkpoints.restore(run.program.shapes)
    if state is None:
        state = run.program.first_state()
    start = int(state.step)
    log.info(
        "%s, %s: %d videos, %d steps of %d clips on %d %s devices%s",
        config.method_name,
        config.model.name,
        len(run.videos),
        num_steps,
        config.train.batch_size,
        jax.device_count(),
        jax.devices()[0].platform,
        f", from step {start}" if start else "",
    )
    writer = MetricsWriter(workdir, start, config.train.tensorboard)
    bad_videos = BadVideos(run.videos, workdir, config.data.max_bad_fraction)
    progress = Progress(num_steps, config.train.batch_size, step_flops(run) if start < num_steps else None)
    eval_every = steps_of(config.train.eval_every, steps_per_epoch=run.program.steps_per_epoch)
    checkpoint_every = max(1, steps_of(config.train.checkpoint_every, steps_per_epoch=run.program.steps_per_epoch))
    best = -1.0

    # The steps. Metrics are read one step late, so the device always has the next step to do.
    pending: collections.deque = collections.deque()

    def settle() -> None:
        step, batch, metrics = pending.popleft()
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        bad_videos.see(batch["failed"])
        if not np.isfinite(metrics["loss"]):
            ids = workdir / f"not_finite_step_{step}.json"
            paths = [run.videos[int(v)].path for v in batch["video"]]
            ids.write_text(json.dumps({"step": step, "metrics": repr(metrics), "videos": paths}, indent=1))
            raise TrainingError(f"the loss of step {step} is {metrics['loss']}; its videos are in {ids}")
        if step % config.train.log_every == 0 or step == num_steps:
            metrics |= progress.rates(step)
            writer.write(step, metrics)
            log.info("%s", progress.line(step, metrics))

    source = _batches(run, start)
    batches = _timed(source, progress)
    profile = ProfileWindow(config.train.profile, workdir)
    progress.restart(start)
    try:
        for step in range(start + 1, num_steps + 1):
            profile.before(step)
            batch = next(batches)
            read = {name: batch[name] for name in batch_shapes(run.program.method, 1)}
            state, metrics = run.program.step(state, put_batch(read, run.program.mesh))
            pending.append((step, {k: batch[k] for k in ("video", "failed")}, metrics))
            if len(pending) > 1:
                settle()
            judge = eval_every and run.evaluator.possible and step % eval_every == 0
            save = step % checkpoint_every == 0 or step == num_steps
            if judge or save:
                while pending:
                    settle()
            if judge:
                score = run.evaluator.knn(state.params, state.model_state)
                writer.write(step, {"knn_top1": score})
                log.info("step %d/%d  kNN top-1 %.3f", step, num_steps, score)
                if score > best:
                    best = score
                    checkpoints.save_best(state)
            if save:
                checkpoints.save(state)
            if judge or save:
                progress.restart(step)
    finally:
        profile.stop()
        source.close()  # ends the workers
        checkpoints.close()
        writer.close()
    bad_videos.report()
    return state


def step_flops(run: Run) -> float | None:
    """FLOPs of one step as XLA counts them before optimisation, recomputation included; None where it does not say."""
    batch = batch_shapes(run.program.method, run.config.train.batch_size)
    cost = run.program.step.lower(run.program.shapes, batch).cost_analysis()
    flops = cost.get("flops") if cost else None
    # The pieces of a batch run in a loop, whose body the analysis counts once.
    return flops * run.config.train.accumulate if flops and flops > 0 else None


class BadVideos:
    """Videos that could not be decoded: counted, named in the log and in `bad_videos.jsonl`, and at last too many."""

    def __init__(self, videos: VideoList, workdir: Path, max_fraction: float):
        self._videos, self._path, self._max = videos, workdir / "bad_videos.jsonl", max_fraction * len(videos)
        self._known: dict[str, str] = {}
        if self._path.exists():
            lines = map(json.loads, self._path.read_text().splitlines())
            self._known = {line["path"]: line["cause"] for line in lines}

    def see(self, failed: np.ndarray) -> None:
        """Note the indices (B,) of a batch, -1 where all is well; raises TrainingError past the threshold."""
        for index in np.unique(failed[failed >= 0]):
            record = self._videos[int(index)]
            if record.path in self._known:
                continue
            cause = describe_failure(record)
            self._known[record.path] = cause
            with self._path.open("a") as file:
                file.write(json.dumps({"path": record.path, "cause": cause}) + "\n")
            log.warning("cannot be decoded, another video takes its place: %s", cause)
        if len(self._known) > self._max:
            names = "; ".join(list(self._known.values())[:3])
            raise TrainingError(
                f"{len(self._known)} of {len(self._videos)} videos cannot be decoded, more than "
                f"config.data.max_bad_fraction allows; all are listed in {self._path}; the first: {names}"
            )

    def report(self) -> None:
        """One line at the end of a run, if there is anything to say."""
        if self._known:
            log.warning("%d videos could not be decoded; they are listed in %s", len(self._known), self._path)


def _batches(run: Run, start: int) -> Iterator[dict[str, np.ndarray]]:
    return train_batches(
        run.videos,
        run.program.method.views,
        seed=run.config.seed,
        batch_size=run.config.train.batch_size,
        start_step=start,
        num_steps=run.program.num_steps - start,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
        workers=run.config.data.workers,
        threads=run.config.data.threads,
    )


def _timed(batches: Iterator, progress: Progress) -> Iterator:
    while True:
        before = time.perf_counter()
        batch = next(batches, None)
        progress.waited(time.perf_counter() - before)
        if batch is None:
            return
        yield batch


class ProfileWindow:
    """The profiler's trace of the steps from `window[0]` to `window[1]`, if there is a window."""

    def __init__(self, window: tuple[int, ...], workdir: Path):
        self._window, self._folder, self._active = window, workdir / "profile", False

    def before(self, step: int) -> None:
        """Start or stop at the edges of the window."""
        if self._window and step == self._window[0]:
            jax.profiler.start_trace(str(self._folder))
            self._active = True
        elif self._window and step == self._window[1] + 1:
            self.stop()

    def stop(self) -> None:
        """Stop, if a trace is running."""
        if self._active:
            jax.profiler.stop_trace()
            self._active = False
