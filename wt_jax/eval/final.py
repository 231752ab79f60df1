"""The evaluation at the end of a run: its encoder before and after training, in `results.json` and `results.md`."""

import logging
from pathlib import Path

from wt_jax.cluster.processes import is_primary_process
from wt_jax.errors import UserError
from wt_jax.eval.results import AFTER, BEFORE, Results, Summary, describe_splits, summarize, write_results
from wt_jax.eval.run import EvaluatedRun
from wt_jax.eval.run_features import RunFeatures
from wt_jax.train.step import TrainState

log = logging.getLogger(__name__)


def evaluate_run(run: EvaluatedRun, state: TrainState, workdir: Path) -> tuple[Results, RunFeatures]:
    """Evaluate the encoder before training (if `config.eval.before`) and after it.

    A protocol that fails leaves the others: its reason is logged and is in `Results.failures`.

    Returns:
      The results, without encoders where there are no labels; and the features of the trained encoder.
    """
    config, videos = run.config.eval, run.features.videos
    if not videos.splits:
        log.info("no labelled training and test videos: no scores")
        return Results(), run.features.read(state)
    encoders: dict[str, dict[str, Summary]] = {}
    failures: dict[str, dict[str, str]] = {}
    results = Results(list(videos.classes), describe_splits(videos.splits), encoders, failures)
    for name, at in ((BEFORE, run.program.first_state() if config.before else None), (AFTER, state)):
        if at is None:
            continue
        features, encoders[name] = run.features.read(at), {}
        for protocol_name in config.protocols:
            protocol = getattr(config.settings, protocol_name)
            try:
                encoders[name][protocol_name] = summarize(protocol, features.run(protocol), len(videos.classes))
            except (UserError, ValueError) as error:
                failures.setdefault(name, {})[protocol_name] = str(error)
                log.warning("%s, %s: %s", name, protocol_name, error)
    if is_primary_process():
        write_results(workdir, results)
    return results, features
