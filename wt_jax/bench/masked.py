"""Time of masked training beside that of all tokens: forward and backward of VideoMAE and V-JEPA, and of their encoder alone:

    wt-jax bench-masked [--model=vit_base] [--frames=16] [--size=224] [--batch=1] [--rounds=3] [--official=FOLDER]

Prints a Markdown table. A row is loss and gradient on one batch of noise, without optimizer and moving average; the first row
is the encoder on all tokens. With `--official`, a folder of clones of MCG-NJU/VideoMAE and facebookresearch/jepa, the same is
measured of the authors' modules in PyTorch (extra `bench`), in turns with ours in one process.
"""

import logging
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wt_jax.cli import parse_arguments, set_up_logging, user_errors
from wt_jax.config import ModelConfig
from wt_jax.errors import BenchError
from wt_jax.methods import METHODS
from wt_jax.methods.base import MethodState, Setup
from wt_jax.models import build_encoder
from wt_jax.models.vit import ViT
from wt_jax.specs import ClipView

log = logging.getLogger("wt_jax")

ALL_TOKENS = "all tokens"
MASKED = {"videomae": "VideoMAE, 90 % masked", "vjepa": "V-JEPA, with its teacher"}
Take = Callable[[], Any]  # one forward and backward pass, waited for


def ours(name: str, view: ClipView, batch: int) -> dict[str, Take]:
    """What is measured of this project, by row, compiled."""
    if not isinstance(build_encoder(ModelConfig(name)), ViT):
        raise BenchError(f"--model={name} is no vision transformer; masked training needs one")
    clips = jnp.asarray(np.random.default_rng(0).random((batch, view.num_frames, view.size, view.size, 3), np.float32))
    fed = {"clip": clips, "video": jnp.arange(batch, dtype=jnp.int32)}
    takes = {}
    for method_name, row in MASKED.items():
        entry = METHODS[method_name]
        model = replace(entry.model, name=name)
        method = entry.build(entry.settings(**entry.changes), Setup(model, view, view, 10))
        state = jax.jit(lambda key, method=method: method.init(key, fed, {}))(jax.random.key(0))
        if ALL_TOKENS not in takes:
            takes[ALL_TOKENS] = _all_tokens(model, state.params["encoder"], clips)
        takes[row] = _masked(method, state, fed)
    return takes


def _all_tokens(model: ModelConfig, params: Any, clips: jax.Array) -> Take:
    encoder = build_encoder(model)

    def mean(params: Any) -> jax.Array:
        feature: Any = encoder.apply({"params": params}, clips, True)
        return jnp.mean(feature)

    step = jax.jit(jax.value_and_grad(mean))
    return lambda: jax.block_until_ready(step(params))


def _masked(method: Any, state: MethodState, batch: dict[str, jax.Array]) -> Take:
    def loss(params: Any, state: MethodState) -> jax.Array:
        return method.loss(params, state, batch, jax.random.key(1), jnp.int32(0))[0]

    step = jax.jit(jax.value_and_grad(loss))
    return lambda: jax.block_until_ready(step(state.params, state))


def measure(contenders: dict[str, dict[str, Take]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each row of each contender, in turns; the first round, which compiles, is not counted."""
    seconds: dict[str, dict[str, list[float]]] = {who: {row: [] for row in takes} for who, takes in contenders.items()}
    for number in range(rounds + 1):
        for who, takes in contenders.items():
            for row, take in takes.items():
                start = time.perf_counter()
                take()
                if number:
                    seconds[who][row].append(time.perf_counter() - start)
        log.info("round %d of %d", number, rounds)
    return seconds


def report(seconds: dict[str, dict[str, list[float]]]) -> str:
    """A Markdown table: milliseconds, median (least to most), and the ratio to the contender's own row of all tokens."""
    first = next(iter(seconds.values()))
    lines = [
        "| forward and backward | " + " | ".join(f"{who}, ms | of all tokens" for who in seconds) + " |",
        "| --- |" + " ---: | ---: |" * len(seconds),
    ]
    for row in first:
        cells = [row]
        for times in seconds.values():
            if row not in times:
                cells += ["-", "-"]
                continue
            ratio = statistics.median(a / b for a, b in zip(times[row], times[ALL_TOKENS], strict=True))
            low, middle, high = (1000 * f(times[row]) for f in (min, statistics.median, max))
            cells += [f"{middle:.0f} ({low:.0f} to {high:.0f})", f"{ratio:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--model", default="vit_base", metavar="NAME", help="a vision transformer of wt_jax.models.MODELS")
    parser.add_argument("--frames", type=int, default=16, help="of a clip")
    parser.add_argument("--size", type=int, default=224, help="height and width of a clip")
    parser.add_argument("--batch", type=int, default=1, help="clips")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each row")
    parser.add_argument("--official", type=Path, metavar="FOLDER", help="of clones of the authors' code")
    args = parser.parse_args(argv)
    set_up_logging()
    with user_errors():
        view = ClipView(num_frames=args.frames, size=args.size)
        contenders = {"wt_jax": ours(args.model, view, args.batch)}
        versions = [f"jax {jax.__version__}"]
        if args.official is not None:
            from wt_jax.bench.peers.official_masked import theirs, version

            contenders["PyTorch, the authors' code"] = theirs(args.official, args.model, view, args.batch, MASKED, ALL_TOKENS)
            versions.append(version())
        found = measure(contenders, args.rounds)
        print(
            f"{args.model}, {args.batch} x {args.frames} x {args.size} x {args.size}, float32, {jax.devices()[0].device_kind}"
        )
        print(f"{len(os.sched_getaffinity(0))} cores, {', '.join(versions)}\n\n{report(found)}")


if __name__ == "__main__":
    main()
