"""The training loop: fetch, step, monitor, save, evaluate."""

import errno
import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax

from wt_jax.cluster.heartbeat import Heartbeat, peer_errors
from wt_jax.cluster.host_signals import make_broadcast
from wt_jax.cluster.preemption import Interrupt, Preempted
from wt_jax.cluster.processes import barrier
from wt_jax.config import steps_of
from wt_jax.data.pipeline import train_batches
from wt_jax.errors import TrainingError
from wt_jax.ops import describe
from wt_jax.train.checkpoint import Checkpoints
from wt_jax.train.executable_cache import compiled_step
from wt_jax.train.monitor import Batch, StepMonitor
from wt_jax.train.profile import ProfileWindow
from wt_jax.train.program import Evaluator, Run
from wt_jax.train.sharding import put_batch
from wt_jax.train.step import TrainState, batch_shapes

log = logging.getLogger(__name__)

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def train(run: Run, workdir: Path) -> TrainState:
    """Train to the end, from the last checkpoint of the workdir if there is one.

    Raises:
      TrainingError: the loss is not finite, too many videos cannot be decoded, or the disk fails. The last checkpoint stays.
      CheckpointError: the workdir's checkpoint does not fit the configuration, or none can be saved any more.
      Preempted: the run was asked to stop (SIGTERM, SIGINT). It is saved, and the same command continues.
      PeerLost: another process of the run has ended. The same command continues from the last checkpoint.
    """
    with Interrupt() as interrupt, Heartbeat(workdir) as heartbeat, peer_errors(workdir):
        try:
            return _train(run, workdir, interrupt, heartbeat)
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            raise TrainingError(f"{error.filename or workdir} cannot be written: {error.strerror}; start again") from error


def _train(run: Run, workdir: Path, interrupt: Interrupt, heartbeat: Heartbeat) -> TrainState:
    config, program, num_steps = run.config, run.program, run.program.num_steps
    save_every = max(1, steps_of(config.train.checkpoint_every, steps_per_epoch=program.steps_per_epoch))

    checkpoints = Checkpoints(workdir, config.train.keep_checkpoints)
    state = checkpoints.restore(program.shapes)
    if state is None:
        state = program.first_state()
    start = int(state.step)
    _log_start(run, start)
    stop = False
    monitor = StepMonitor(config, run.videos, workdir, heartbeat, start=start, num_steps=num_steps, best_by=run.best_by)
    with checkpoints, closing(monitor):
        heartbeat.at("compiling", start)  # a request to stop still ends this at once
        train_step, flops = compiled_step(program, config) if start < num_steps else (program.step, None)
        monitor.set_flops(flops)
        barrier("compiled")  # some processes find the step in a cache and wait here

        broadcast = make_broadcast(program.mesh)
        profile = ProfileWindow(config.train.profile, workdir)
        batches = _batches(run, start)
        with interrupt.steps(), closing(batches), closing(profile):
            if _due(run, start) and start not in monitor.evaluated:  # saved, and stopped before its evaluation
                _evaluate(run, state, monitor, checkpoints, interrupt, heartbeat)
            monitor.resume(start)
            for step in range(start + 1, num_steps + 1):
                profile.before(step)
                batch = put_batch(monitor.fetch(batches), program.mesh)
                signals = broadcast(batch, bool(interrupt.requested), monitor.busy_seconds())

                state, metrics = train_step(state, batch)

                stop |= monitor.add(step, metrics, signals)
                checkpoints.check()

                evaluators = _due(run, step)
                if stop or evaluators or step % save_every == 0 or step == num_steps:
                    stop |= monitor.flush()
                    heartbeat.at("saving", step)
                    checkpoints.save(state)
                    monitor.checkpoint_saved(step)
                    if stop:
                        break
                    if evaluators:
                        _evaluate(run, state, monitor, checkpoints, interrupt, heartbeat)
                    monitor.resume(step)
    if stop or interrupt.requested:
        raise Preempted(f"asked to stop: step {int(state.step)} of {num_steps} is saved; the same command continues")
    monitor.log_bad_videos()
    return state


def _log_start(run: Run, start: int) -> None:
    config, device = run.config, jax.devices()[0]
    log.info(
        "%s, %s: %d videos, %d steps of %d clips on %d %s devices%s%s",
        config.method_name,
        config.model.name,
        len(run.videos),
        run.program.num_steps,
        config.train.batch_size,
        jax.device_count(),
        device.platform,
        f" in {jax.process_count()} processes" if jax.process_count() > 1 else "",
        f", from step {start}" if start else "",
    )
    if device.platform == "cpu":
        log.info("%s", describe())


def _batches(run: Run, start: int) -> Generator[Batch, None, None]:
    """This process's parts of the batches after step `start`, with the arrays that a step reads."""
    names = batch_shapes(run.program.method, 1)
    batches: Any = train_batches(
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
        cache_gib=run.config.data.cache_gib,
    )
    with closing(batches):  # ends the workers
        for batch in batches:
            yield {name: batch[name] for name in names}


def _due(run: Run, step: int) -> Sequence[Evaluator]:
    """The evaluators whose period ends at this step."""
    return [evaluator for evaluator in run.evaluators.values() if step and step % evaluator.every == 0]


def _evaluate(
    run: Run, state: TrainState, monitor: StepMonitor, checkpoints: Checkpoints, interrupt: Interrupt, heartbeat: Heartbeat
) -> None:
    """Run the evaluators that are due at a saved state, and save it as the best if it is."""
    step = int(state.step)
    heartbeat.at("evaluating", step)
    with interrupt.at_once():
        scores = [evaluator.run(state) for evaluator in _due(run, step)]
    if monitor.add_scores(step, {name: value for found in scores for name, value in found.items()}):
        checkpoints.save_best(state)
