"""The training, told from top to bottom: prepare, restore, step, save, evaluate, stop when asked."""

import collections
import errno
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from wt_jax.cluster import host_signals
from wt_jax.cluster.goodput import Goodput
from wt_jax.cluster.heartbeat import Heartbeat, peak_memory, peer_errors
from wt_jax.cluster.preemption import Interrupt, Preempted
from wt_jax.cluster.processes import barrier, is_peer_error, is_primary_process
from wt_jax.config import steps_of
from wt_jax.data.pipeline import train_batches
from wt_jax.errors import TrainingError
from wt_jax.eval.online import BEST_BY
from wt_jax.experiment import Run
from wt_jax.ops import describe
from wt_jax.train.bad_videos import BadVideos
from wt_jax.train.checkpoint import Checkpoints
from wt_jax.train.executable_cache import compiled_step
from wt_jax.train.metrics import MetricsWriter, Progress
from wt_jax.train.profile import ProfileWindow
from wt_jax.train.sharding import put_batch
from wt_jax.train.step import TrainState, batch_shapes

log = logging.getLogger(__name__)


def train(run: Run, workdir: Path) -> TrainState:
    """Train to the end, from the last checkpoint of the workdir if there is one.

    Raises:
      TrainingError: the loss is not finite, too many videos cannot be decoded, or the disk fails. The last checkpoint stays.
      CheckpointError: the workdir's checkpoint does not fit the configuration, or none can be saved any more.
      Preempted: the run was asked to stop (SIGTERM, SIGINT). It is saved, and the same command goes on.
      PeerLost: another process of the run has gone. The same command goes on from the last checkpoint.
    """
    with Interrupt() as interrupt, Heartbeat(workdir) as heartbeat, peer_errors(workdir):
        try:
            return _train(run, workdir, interrupt, heartbeat)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
                raise
            raise TrainingError(f"{error.filename or workdir} cannot be written: {error.strerror}; start again") from error


def _train(run: Run, workdir: Path, interrupt: Interrupt, heartbeat: Heartbeat) -> TrainState:
    config, num_steps = run.config, run.program.num_steps

    # What was done before.
    checkpoints = Checkpoints(workdir, config.train.keep_checkpoints)
    state = checkpoints.restore(run.program.shapes)
    if state is None:
        state = run.program.first_state()
    start = int(state.step)
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    log.info(
        "%s, %s: %d videos, %d steps of %d clips on %d %s devices%s%s",
        config.method_name,
        config.model.name,
        len(run.videos),
        num_steps,
        config.train.batch_size,
        jax.device_count(),
        jax.devices()[0].platform,
        processes,
        f", from step {start}" if start else "",
    )
    if jax.devices()[0].platform == "cpu":
        log.info(describe())
    writer = MetricsWriter(workdir, start, config.train.tensorboard)
    bad_videos = BadVideos(run.videos, workdir, config.data.max_bad_fraction)
    goodput = Goodput(workdir, start) if is_primary_process() else None
    checkpoint_every = max(1, steps_of(config.train.checkpoint_every, steps_per_epoch=run.program.steps_per_epoch))
    scores = {line["step"]: line[BEST_BY] for line in writer.kept if BEST_BY in line}

    # The step, compiled while a request to stop is still obeyed at once; some processes find it in a cache and wait here.
    heartbeat.at("compiling", start)
    take_step, flops = compiled_step(run.program, config) if start < num_steps else (None, None)
    progress = Progress(num_steps, config.train.batch_size, flops)
    barrier("compiled")

    # The steps. Metrics are read one step late, so the device always has the next step to do.
    pending: collections.deque = collections.deque()
    busy: list[np.ndarray] = []
    last_finish = 0.0  # 0: no step is finished yet

    def settle() -> bool:
        """Read the oldest pending step; whether some process was asked to stop."""
        nonlocal last_finish
        step, shared, metrics, waited = pending.popleft()
        known = host_signals.read(shared)
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.perf_counter()
        if last_finish:
            progress.finished(now - last_finish)
            if goodput:
                goodput.add_step(max(0.0, now - last_finish - waited))
        last_finish = now
        heartbeat.at("training", step)
        busy.append(known.busy)
        bad_videos.see(known.failed)
        if not np.isfinite(metrics["loss"]):
            ids = workdir / f"not_finite_step_{step}.json"
            paths = [run.videos[int(v)].path for v in known.video]
            if is_primary_process():
                ids.write_text(json.dumps({"step": step, "metrics": repr(metrics), "videos": paths}, indent=1))
            raise TrainingError(f"the loss of step {step} is {metrics['loss']}; its videos are in {ids}")
        if step % config.train.log_every == 0 or step == num_steps:
            if slow := host_signals.slow_host(np.array(busy), progress.seconds):
                log.warning("%s", slow)
            busy.clear()
            metrics |= progress.rates(step) | peak_memory()
            if goodput:
                metrics["goodput"] = goodput.fraction()
                writer.write(step, metrics)
                log.info("%s", progress.line(step, metrics))
            checkpoints.check()
        return known.stop

    def evaluate(step: int) -> None:
        heartbeat.at("evaluating", step)
        with interrupt.at_once():
            found = [evaluator.run(state) for evaluator in run.evaluators.values() if step % evaluator.every == 0]
        numbers = {name: value for part in found for name, value in part.items()}
        writer.write(step, numbers)
        log.info("step %d/%d  %s", step, num_steps, "  ".join(f"{name} {value:.3f}" for name, value in numbers.items()))
        score = numbers.get(BEST_BY, -1.0)
        if score > max(scores.values(), default=-1.0):
            checkpoints.save_best(state)
        scores[step] = score

    def due(step: int) -> bool:
        return bool(step) and any(step % evaluator.every == 0 for evaluator in run.evaluators.values())

    share = host_signals.make_broadcast(run.program.mesh)
    source = _batches(run, start)
    profile = ProfileWindow(config.train.profile, workdir)
    stop = False
    with interrupt.steps():
        try:
            if due(start) and start not in scores:  # saved, and stopped before it was evaluated
                evaluate(start)
            progress.restart(start)
            settled = time.perf_counter()
            for step in range(start + 1, num_steps + 1):
                profile.before(step)
                before = time.perf_counter()
                batch = next(source)
                progress.waited(waited := time.perf_counter() - before)
                placed = put_batch({name: batch[name] for name in batch_shapes(run.program.method, 1)}, run.program.mesh)
                shared = share(placed, bool(interrupt.requested), time.perf_counter() - settled)
                state, metrics = take_step(state, placed)
                pending.append((step, shared, metrics, waited))
                if len(pending) > 1:
                    stop |= settle()
                settled = time.perf_counter()
                save = stop or due(step) or step % checkpoint_every == 0 or step == num_steps
                if save:
                    while pending:
                        stop |= settle()
                    heartbeat.at("saving", step)
                    checkpoints.save(state)
                    if goodput:
                        goodput.checkpoint_saved(step)
                if stop:
                    break
                if due(step):
                    evaluate(step)
                if save:
                    progress.restart(step)
                    last_finish = settled = time.perf_counter()
        finally:
            profile.stop()
            source.close()  # ends the workers
            writer.close()
            if not is_peer_error(sys.exception()):  # else its barriers would wait for those who have gone
                checkpoints.close()
    if stop or interrupt.requested:
        raise Preempted(f"asked to stop: step {int(state.step)} of {num_steps} is saved; the same command goes on")
    bad_videos.report()
    return state


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
