"""Checkpoints with orbax: the last few, saved while the training goes on, and the best by online kNN.

A run's data position and randomness are functions of the step, so the train state is all there is to save. All processes
save and restore together; the primary process alone finds out which checkpoint can be read, so that all take the same one.
"""

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from wt_jax.cluster.processes import broadcast_from_primary, is_peer_error, is_primary_process, run_on_primary
from wt_jax.errors import CheckpointError
from wt_jax.methods.base import evaluated_tree
from wt_jax.train.step import TrainState
from wt_jax.weights.folder import differences, first_faults

log = logging.getLogger(__name__)

# Orbax times a save out by the wall clock. Setting that clock during a save must not fail it: a month is no limit.
_SAVE_SECONDS = 30 * 24 * 3600


class Checkpoints:
    """The checkpoints of a workdir, in `checkpoints/` (the last ones) and `best/`; with `read_only` no file is changed."""

    def __init__(self, workdir: Path, keep: int = 2, *, read_only: bool = False):
        self._damaged, self._read_only = workdir / "damaged", read_only
        self._last = _manager(workdir / "checkpoints", keep, read_only)
        self._best = _manager(workdir / "best", 1, read_only)

    def save(self, state: TrainState) -> None:
        """Save in the background. The state is copied to the host first, so it may be donated right away.

        Raises:
          CheckpointError: this save, or the one before it, failed (a full disk, for example). The last good one stays.
        """
        self._save(self._last, state)

    def save_best(self, state: TrainState) -> None:
        """Save as the best so far; errors as of `save`.

        A run that has lost its last checkpoints comes to this step again, bit for bit, and its state may be here already.
        """
        if int(state.step) not in self._best.all_steps():
            self._save(self._best, state)

    def check(self) -> None:
        """Raise the error of a save in the background, as `save` does; cheap enough for every step."""
        for manager in (self._last, self._best):
            try:
                manager.check_for_errors()
            except Exception as error:  # orbax passes on all errors of its threads
                raise self._failed(manager, error) from error

    def wait(self) -> None:
        """Wait until all is on disk; errors as of `save`."""
        for manager in (self._last, self._best):
            try:
                manager.wait_until_finished()
            except Exception as error:
                raise self._failed(manager, error) from error

    def last_step(self) -> int | None:
        """Step of the newest checkpoint, if there is one."""
        return self._last.latest_step()

    def restore(self, like: TrainState, *, best: bool = False) -> TrainState | None:
        """The newest (or best) checkpoint, sharded as `like` (shapes with shardings), or None where there is none.

        A checkpoint whose files cannot be read is named and set aside in `damaged/`, and the one before it is taken.

        Raises:
          CheckpointError: a checkpoint has other arrays than this configuration makes, or none can be read.
        """
        manager = self._best if best else self._last
        steps, chosen = sorted(manager.all_steps(), reverse=True), -1

        def choose() -> None:
            nonlocal chosen
            damaged = []
            for step in steps:
                try:
                    stored = read_alone(manager.directory / str(step) / "default")
                except Exception as error:  # orbax raises many kinds for damaged files; the log has its name
                    log.warning("checkpoint of step %d cannot be read (%s); trying the one before", step, _line(error))
                    damaged.append(step)
                    continue
                _compare(stored, _tree(like), step)
                chosen = step
                break
            else:
                if steps:
                    raise CheckpointError(
                        f"no checkpoint of steps {steps} in {manager.directory} can be read; use a new workdir"
                    )
            for step in () if self._read_only else damaged:  # the run will reach these steps again and save them
                self._damaged.mkdir(exist_ok=True)
                shutil.rmtree(self._damaged / str(step), ignore_errors=True)
                shutil.move(manager.directory / str(step), self._damaged / str(step))

        run_on_primary(choose, CheckpointError)
        chosen = int(broadcast_from_primary(np.asarray(chosen)))
        if chosen < 0:
            return None
        manager.reload()
        return TrainState(**manager.restore(chosen, args=ocp.args.StandardRestore(_tree(like))))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not is_peer_error(error):  # else orbax's barriers would wait for processes that have ended
            self.close()

    def close(self) -> None:
        """Wait until all is on disk; errors as of `save`."""
        self.wait()
        for manager in (self._last, self._best):
            manager.close()

    def _save(self, manager: ocp.CheckpointManager, state: TrainState) -> None:
        try:
            manager.save(int(state.step), args=ocp.args.StandardSave(_tree(state)), force=True)
        except Exception as error:
            raise self._failed(manager, error) from error

    def _failed(self, manager: ocp.CheckpointManager, error: Exception) -> Exception:
        if is_peer_error(error):
            return error
        for draft in manager.directory.glob("*orbax-checkpoint-tmp*") if is_primary_process() else ():
            shutil.rmtree(draft, ignore_errors=True)  # it may be what fills the disk
        cause = "No space left on device" if "No space left" in str(error) else _line(error)
        good = max(manager.all_steps(read=True), default=None)
        kept = "there is no earlier one" if good is None else f"that of step {good} is good"
        return CheckpointError(
            f"a checkpoint could not be saved in {manager.directory} ({cause}); {kept}; make room and start again"
        )


def last_state(workdir: Path, like: TrainState) -> TrainState:
    """The state of a workdir's newest checkpoint, sharded as `like`.

    Raises:
      CheckpointError: there is none, or none that can be used.
    """
    if not (workdir / "checkpoints").is_dir():
        raise CheckpointError(f"{workdir} holds no checkpoint; train first")
    checkpoints = Checkpoints(workdir, read_only=True)
    state = checkpoints.restore(like)
    checkpoints.close()
    if state is None:
        raise CheckpointError(f"{workdir} holds no checkpoint; train first")
    return state


def read_evaluated(workdir: Path, evaluated: str, *, best: bool = False) -> tuple[int, Any, Any]:
    """Step, params and model state of the tree that `evaluated` names, "student" or "teacher"; nothing else is read.

    They are those of a workdir's last (or best) checkpoint.

    Neither the data nor the devices of the training are needed. Arrays are NumPy's.

    Raises:
      CheckpointError: there is no checkpoint, or it cannot be read.
    """
    folder = workdir / ("best" if best else "checkpoints")
    steps = sorted(int(child.name) for child in folder.glob("*") if child.name.isdecimal())
    if not steps:
        remedy = "--best needs config.train.eval_every" if best else "train first"
        raise CheckpointError(f"{folder} holds no checkpoint; {remedy}")
    parts = ("teacher",) if evaluated == "teacher" else ("params", "model_state")
    local = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        with ocp.CheckpointManager(folder.absolute(), item_handlers=ocp.PyTreeCheckpointHandler()) as manager:
            stored = manager.item_metadata(steps[-1]).tree
            wanted = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=local),
                {part: stored[part] for part in parts},
            )
            restore_args = ocp.checkpoint_utils.construct_restore_args(wanted)
            restored = manager.restore(
                steps[-1], args=ocp.args.PyTreeRestore(item=wanted, restore_args=restore_args, partial_restore=True)
            )
    except Exception as error:  # orbax raises many kinds for damaged files
        raise CheckpointError(f"the checkpoint of step {steps[-1]} in {folder} cannot be read ({_line(error)})") from None
    state = SimpleNamespace(**jax.device_get(restored))
    return steps[-1], *evaluated_tree(evaluated, state)


def _manager(folder: Path, keep: int, read_only: bool) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=not read_only,
        read_only=read_only,
        enable_async_checkpointing=True,
        async_options=ocp.AsyncOptions(timeout_secs=_SAVE_SECONDS),
    )
    # With a handler the manager knows what is in a checkpoint before it reads it.
    return ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=ocp.StandardCheckpointHandler())


def read_alone(folder: Any) -> Any:
    """All of a checkpoint, as NumPy arrays, read by this process alone."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="read"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(folder).item_metadata.tree)
        return reader.restore(folder, restore_args=kinds)


def _tree(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in TrainState.__dataclass_fields__}


def _named(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    def name(path) -> str:
        # Attributes, keys and indices differ in memory and are all plain names on disk.
        return "/".join(str(getattr(p, "name", getattr(p, "key", getattr(p, "idx", p)))) for p in path)

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name(path): (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in leaves if hasattr(leaf, "shape")}


def _compare(stored: Any, wanted: Any, step: int) -> None:
    faults = differences(_named(stored), _named(wanted), "this configuration")
    if faults:
        raise CheckpointError(
            f"checkpoint of step {step} does not fit the configuration: {first_faults(faults)}; use another workdir"
        )


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
